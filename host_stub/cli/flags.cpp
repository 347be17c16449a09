#include "host_stub/cli/flags.h"

#include <algorithm>

#include "host_stub/cli/arguments.h"
#include "host_stub/cli/sampling.h"
#include "host_stub/cli/utf8.h"

namespace quantplug::host {

CLI::Validator device_validator() {
    return CLI::Validator(
        [](std::string& value) -> std::string {
            const auto known = [](const std::string& name) {
                if (name == "cpu" || name == "cuda") return true;
                const std::string number = name.rfind("cuda:", 0) == 0 ? name.substr(5) : "";
                return !number.empty() && number.size() <= 3 &&
                       number.find_first_not_of("0123456789") == std::string::npos;
            };
            if (value == "auto") return {};
            for (size_t begin = 0; begin <= value.size();) {
                const size_t end = std::min(value.find(',', begin), value.size());
                if (!known(value.substr(begin, end - begin)))
                    return "'" + printable(value) + "' is not auto, cpu, cuda, cuda:N, or a list like cuda:0,cuda:1";
                begin = end + 1;
            }
            return {};
        },
        "auto|cpu|cuda[:N][,...]");
}

void add_gpu_layers(CLI::App& command, std::optional<int32_t>& gpu_layers) {
    command
        .add_option("--gpu-layers", gpu_layers, "layers on the CUDA device, counted from the last (default -1: all)")
        ->check(CLI::Range(-1, 1 << 20))
        ->type_name("N");
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
    add_gpu_layers(command, model.gpu_layers);
    command.add_flag("--deterministic", model.deterministic,
                     "the same bits whatever was computed before: cached prefixes only where they agree bit for bit");
}

void add_sampling_arguments(CLI::App& command, SamplingArguments& sampling) {
    for (const SamplingNumber& number : sampling_numbers())
        command.add_option(number.flags, sampling.*number.argument, number.help)
            ->check(CLI::Range(number.minimum, number.maximum))
            ->type_name(number.type);
    const auto number = [&command](const char* flags, auto& value, const char* help, auto minimum, auto maximum) {
        return command.add_option(flags, value, help)->check(CLI::Range(minimum, maximum))->type_name("N");
    };
    constexpr int32_t most = 0x7fffffff;
    number("--top-k", sampling.top_k, "draw from the N most probable tokens; 0 = off", 0, most);
    number("--repeat-last-n,--repetition-penalty-range", sampling.penalty_range,
           "latest tokens that penalties look at (default -1: all)", -1, most);
    command.add_option("--mirostat,--mirostat-mode", sampling.mirostat, "2: mirostat 2.0 in place of the truncations")
        ->check(CLI::IsMember({0u, 2u}))
        ->type_name("0|2");
    number("--mirostat-tau", sampling.mirostat_tau, "the surprise to hold, in bits (default 5)", 1e-6, 1e6);
    number("--mirostat-eta", sampling.mirostat_eta, "its learning rate (default 0.1)", 0.0, 1.0);
    CLI::Option* xtc = number("--xtc-probability", sampling.xtc_probability,
                              "how often all but the last of the probable tokens go; 0 = off", 0.0, 1.0);
    number("--xtc-threshold", sampling.xtc_threshold, "what is probable (default 0.1)", 0.0, 1.0)->needs(xtc);
    CLI::Option* dry =
        number("--dry-multiplier", sampling.dry_multiplier, "penalty of repeated sequences; 0 = off", 0.0, 1e6);
    number("--dry-base", sampling.dry_base, "its growth with the length (default 1.75)", 1.0, 1e6)->needs(dry);
    number("--dry-allowed-length", sampling.dry_allowed_length, "length without a penalty (default 2)", 0, most)
        ->needs(dry);
    number("--dry-range,--dry-penalty-last-n", sampling.dry_range, "latest tokens that it looks at (default -1: all)",
           -1, most)
        ->needs(dry);
    command
        .add_option_function<std::vector<std::string>>(
            "--dry-sequence-breakers",
            [&sampling](const std::vector<std::string>& texts) { sampling.dry_breakers = texts; },
            "a text that ends a repeated sequence; repeatable (default: line feed, colon, quote, asterisk)")
        ->type_name("TEXT")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->needs(dry);
    CLI::Option* low =
        number("--dynatemp-low,--min-temp", sampling.dynatemp_low, "temperature by the entropy, from here", 0.0, 1e6);
    CLI::Option* high = number("--dynatemp-high,--max-temp", sampling.dynatemp_high, "to here", 0.0, 1e6);
    low->needs(high);
    high->needs(low);
    number("--dynatemp-exponent", sampling.dynatemp_exponent, "its curve (default 1)", 1e-6, 1e6)->needs(low);
    CLI::Option* smoothing =
        number("--smoothing-factor", sampling.smoothing_factor, "quadratic smoothing of the logits; 0 = off", 0.0, 1e6);
    number("--smoothing-curve", sampling.smoothing_curve, "more than 1: the cubic form (default 1)", 1.0, 1e6)
        ->needs(smoothing);
    number("--min-tokens", sampling.min_tokens, "no stop token before so many tokens", 0u, 0x7fffffffu);
    command.add_option("--logit-bias", sampling.logit_bias, "added to a token's logit; -inf bans it; repeatable")
        ->type_name("ID=B")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    command.add_option("--ban-tokens", sampling.ban_tokens, "token ids that are never drawn")->type_name("1,2,3");
    CLI::Option* order =
        command
            .add_option("--sampler-order", sampling.order,
                        "samplers that come first, by name: top_k,min_p,...; the others keep their order after them")
            ->type_name("NAMES");
    command.add_flag("--temperature-last", sampling.temperature_last, "the temperature after the truncations")
        ->excludes(order);
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

}  // namespace quantplug::host
