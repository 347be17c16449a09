#include "host_stub/cli/arguments.h"

#include <charconv>
#include <string_view>

#include "host_stub/cli/failure.h"
#include "host_stub/cli/utf8.h"

namespace quantplug::host {

CLI::Validator device_validator() {
    return CLI::Validator(
        [](std::string& value) -> std::string {
            if (value == "auto" || value == "cpu" || value == "cuda") return {};
            const std::string number = value.rfind("cuda:", 0) == 0 ? value.substr(5) : "";
            if (!number.empty() && number.size() <= 3 && number.find_first_not_of("0123456789") == std::string::npos)
                return {};
            return "'" + printable(value) + "' is not auto, cpu, cuda or cuda:N";
        },
        "auto|cpu|cuda[:N]");
}

void add_output_arguments(CLI::App& command, OutputArguments& output) {
    command.add_flag("--json", output.json, "stdout carries JSON only");
    command.add_flag("-q,--quiet", output.quiet, "errors only on stderr");
    command.add_flag("-v,--verbose", output.verbose, "more on stderr; twice: still more");
    command.add_flag("--progress", output.progress, "progress bars even where stderr is no terminal");
}

void add_backend_arguments(CLI::App& command, BackendArguments& backend) {
    command.add_option("--backend", backend.backend, "plugin by name, or the path of its library or manifest")
        ->type_name("NAME");
    command.add_option("--option", backend.options, "an option that the plugin lists; repeatable")
        ->type_name("KEY=VALUE")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void add_model_arguments(CLI::App& command, ModelArguments& model) {
    command.add_option("-m,--model,DIR", model.model, "model folder")->type_name("DIR")->required();
    add_backend_arguments(command, model);
    command.add_option("--device", model.device, "where to compute (default auto)")->check(device_validator());
    command.add_option("--compute", model.compute, "how to compute (default: default)")
        ->check(CLI::IsMember({"default", "exact"}));
    command.add_option("--threads", model.threads, "CPU threads (default: cores, affinity and quota)")
        ->check(CLI::Range(1u, 1024u))
        ->type_name("N");
    command.add_option("--ctx", model.ctx, "tokens of context (default: the model's own, or what memory allows)")
        ->check(CLI::Range(1u, 16777216u))
        ->type_name("N");
}

void add_sampling_arguments(CLI::App& command, SamplingArguments& sampling) {
    command.add_option("--temp", sampling.temperature, "temperature; 0 = greedy (default: the model's own, else 0.8)")
        ->check(CLI::Range(0.0, 1e6))
        ->type_name("T");
    command.add_option("--top-k", sampling.top_k, "draw from the K most probable tokens; 0 = off")
        ->check(CLI::Range(0, 0x7fffffff))
        ->type_name("K");
    command
        .add_option("--top-p", sampling.top_p,
                    "draw from the smallest set with this mass (default: the model's own, else 0.95)")
        ->check(CLI::Range(0.0, 1.0))
        ->type_name("P");
    command
        .add_option("--min-p", sampling.min_p,
                    "least share of the best token's probability (default: the model's own, else 0.05)")
        ->check(CLI::Range(0.0, 1.0))
        ->type_name("P");
    command.add_option("--seed", sampling.seed, "the same seed gives the same tokens (default: random)")
        ->type_name("N");
    command.add_option("--stop", sampling.stop, "text that ends the output and is not part of it; repeatable")
        ->type_name("TEXT")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void add_bos(CLI::App& command, Bos& bos) {
    const auto set = [&bos](const std::string& value) {
        bos = value == "on" ? Bos::kOn : value == "off" ? Bos::kOff : Bos::kAuto;
    };
    command
        .add_option_function<std::string>("--bos", set, "BOS first (default auto: as the tokenizer's own files say)")
        ->check(CLI::IsMember({"auto", "on", "off"}));
}

void add_special(CLI::App& command, bool& special, const std::string& help) {
    const auto set = [&special](const std::string& value) { special = value == "on"; };
    command.add_option_function<std::string>("--special", set, help)->check(CLI::IsMember({"on", "off"}));
}

std::vector<int32_t> parse_ids(const std::string& text) {
    std::string_view rest = text;
    const auto trim = [&] {
        while (!rest.empty() && std::string_view(" \t\r\n").find(rest.front()) != std::string_view::npos)
            rest.remove_prefix(1);
        while (!rest.empty() && std::string_view(" \t\r\n").find(rest.back()) != std::string_view::npos)
            rest.remove_suffix(1);
    };
    trim();
    if (rest.size() >= 2 && rest.front() == '[' && rest.back() == ']') {
        rest = rest.substr(1, rest.size() - 2);
        trim();
    }
    std::vector<int32_t> ids;
    while (!rest.empty()) {
        int32_t id = 0;
        const auto [end, problem] = std::from_chars(rest.data(), rest.data() + rest.size(), id);
        const auto used = static_cast<size_t>(end - rest.data());
        const std::string_view separators = ", \t\r\n";
        if (problem != std::errc() || id < 0 ||
            (used < rest.size() && separators.find(rest[used]) == std::string_view::npos))
            throw UsageError("'" + printable(rest.substr(0, rest.find_first_of(separators))) +
                             "' is not a token id; ids are whole numbers separated by commas, like 1,2,3");
        ids.push_back(id);
        rest.remove_prefix(used);
        bool comma = false;
        while (!rest.empty() && separators.find(rest.front()) != std::string_view::npos) {
            if (rest.front() == ',') {
                if (comma) break;  // "1,,2"
                comma = true;
            }
            rest.remove_prefix(1);
        }
        if (comma && rest.empty()) throw UsageError("the list of token ids ends in a comma");
    }
    return ids;
}

std::pair<std::string, std::string> parse_option(const std::string& text) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0)
        throw UsageError("--option '" + printable(text) + "' is not KEY=VALUE");
    return {text.substr(0, equals), text.substr(equals + 1)};
}

}  // namespace quantplug::host
