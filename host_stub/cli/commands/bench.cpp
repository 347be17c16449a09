// quantplug bench: how fast prefill and decode are, beside the machine's limits.
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "host_stub/cli/commands/commands.h"
#include "host_stub/cli/failure.h"
#include "host_stub/cli/flags.h"
#include "host_stub/cli/interrupt.h"
#include "host_stub/cli/session.h"
#include "host_stub/cli/tool_run.h"

namespace quantplug::host {
namespace {

using Json = nlohmann::json;

double number_of(const Json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_number() ? found->get<double>() : 0;
}

std::string text_of(const Json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

template <class... Values>
std::string format(const char* pattern, Values... values) {
    std::array<char, 256> text{};
    std::snprintf(text.data(), text.size(), pattern, values...);
    return text.data();
}

std::string header() {
    return format("%-16s %-8s %5s %7s %5s %6s %-8s %10s %21s %9s %7s %6s %6s\n", "shape", "device", "bits", "threads",
                  "batch", "depth", "test", "tokens/s", "(min .. max)", "MB/token", "GB/s", "% read", "% peak");
}

std::string line(const Json& row) {
    const std::string range = format("(%.2f .. %.2f)", number_of(row, "min"), number_of(row, "max"));
    return format("%-16.40s %-8.60s %5.2f %7.0f %5.0f %6.0f %-8.16s %10.2f %21s %9.2f %7.2f %6.1f %6.1f\n",
                  text_of(row, "shape").c_str(), text_of(row, "device").c_str(), number_of(row, "bits"),
                  number_of(row, "threads"), number_of(row, "batch"), number_of(row, "depth"),
                  text_of(row, "test").c_str(), number_of(row, "tokens_per_s"), range.c_str(),
                  number_of(row, "bytes_per_token") * 1e-6, number_of(row, "gb_per_s"),
                  100 * number_of(row, "share_of_bandwidth"), 100 * number_of(row, "share_of_peak"));
}

std::string limits_lines(const Json& result) {
    const Json limits = result.value("limits", Json::object());
    std::string cuda;
    for (const Json& one : result.value("cuda", Json::array()))
        cuda += format("%.40s: copies %.0f GB/s\n", text_of(one, "device").c_str(), number_of(one, "gb_per_s"));
    return cuda + format("%.120s; %.80s\n", text_of(result, "cpu").c_str(), text_of(result, "device").c_str()) +
           format("limits: read %.1f GB/s, int8 %.1f Gop/s, int16 %.1f Gop/s, fp32 %.1f GFLOP/s\n",
                  number_of(limits, "read_gb_per_s"), number_of(limits, "int8_gops"), number_of(limits, "int16_gops"),
                  number_of(limits, "fp32_gflops"));
}

}  // namespace

void add_bench(CLI::App& command, BenchArguments& arguments) {
    command.add_option("-m,--model,DIR", arguments.folder, "the model folder")->type_name("DIR");
    command.add_option("--synthetic", arguments.synthetic, "a known shape with random weights, no files")
        ->check(CLI::IsMember({"tinyllama-1.1b", "smollm2-135m", "llama2-7b"}));
    command.add_option("--bits", arguments.bits, "of a synthetic model; 16 is plain FP16 (default 4)")
        ->check(CLI::IsMember({2, 3, 4, 5, 6, 8, 16}));
    command
        .add_option("--group", arguments.group, "rows of a synthetic model that share a scale; -1: all (default 128)")
        ->check(CLI::Range(-1, 1 << 24))
        ->type_name("G");
    const auto count = [&](const char* flag, int32_t& value, const char* help) {
        command.add_option(flag, value, help)->check(CLI::Range(0, 1 << 24))->type_name("N");
    };
    count("--pp", arguments.pp, "tokens of the prompt; 0 leaves the test out (default 512)");
    count("--tg", arguments.tg, "tokens generated; 0 leaves the test out (default 128)");
    count("--depth", arguments.depth, "tokens in the cache before (default 0)");
    command.add_option("--batch", arguments.batch, "sequences that decode at once, a test each (default 1,2,4)")
        ->delimiter(',')
        ->check(CLI::Range(1, 128))
        ->type_name("1,2,4");
    command.add_option("--repeat", arguments.repeat, "runs of each test; the median counts (default 5)")
        ->check(CLI::Range(1, 1000))
        ->type_name("N");
    command.add_flag("--limits", arguments.limits, "without a model: the machine's limits alone");
    command.add_option("--device", arguments.device, "where to compute (default auto)")->check(device_validator());
    add_gpu_layers(command, arguments.gpu_layers);
    command.add_option("--compute", arguments.compute, "how to compute (default: default)")
        ->check(CLI::IsMember({"default", "exact"}));
    command.add_option("--threads", arguments.threads, "CPU threads (default: cores, affinity and quota)")
        ->check(CLI::Range(1, 1024))
        ->type_name("N");
    add_backend_arguments(command, arguments);
    add_output_arguments(command, arguments);
    command.footer(
        "Example: decode of a 7B model at 4 bits without its files\n"
        "  quantplug bench --synthetic llama2-7b --bits 4 --group 128 --pp 0 --tg 32 --batch 1,4");
}

int run_bench(const BenchArguments& arguments, Program& program) {
    Console& console = program.console;
    const bool has_model = !arguments.folder.empty(), synthetic = !arguments.synthetic.empty();
    if (has_model && synthetic) throw UsageError("give -m DIR or --synthetic NAME, not both");
    if (!has_model && !synthetic && !arguments.limits)
        throw UsageError("give -m DIR or --synthetic NAME, or --limits for the machine alone");
    Json request = {{"model", arguments.folder},  {"synthetic", arguments.synthetic},
                    {"bits", arguments.bits},     {"group", arguments.group},
                    {"pp", arguments.pp},         {"tg", arguments.tg},
                    {"depth", arguments.depth},   {"batch", arguments.batch},
                    {"repeat", arguments.repeat}, {"threads", arguments.threads},
                    {"device", arguments.device}, {"compute", arguments.compute}};
    if (arguments.gpu_layers) request["gpu_layers"] = *arguments.gpu_layers;
    add_tool_options(request, arguments.options);
    if (has_model) require_model_folder(arguments.folder);

    Backends backends(console, arguments.backend);
    const Plugin& plugin = backends.for_tool("bench", arguments.folder);
    const auto call = [&](const std::string& json, const JsonEventFn& on_event) {
        plugin.run_tool("bench", json, on_event);
    };
    Json partial = Json::array();
    Json result;
    bool stopped = false;
    try {
        result = run_json_call(call, request, console, [&](const Json& event) {
            if (text_of(event, "event") != "row") return;
            Json row = event;
            row.erase("event");
            partial.push_back(row);
            if (console.json()) return;
            console.end_progress();
            if (partial.size() == 1) console.write_text(header());
            console.write_text(line(row));
        });
    } catch (const Error& error) {
        // What is measured already counts; a row takes minutes on a slow machine.
        if (error.code() != QP_CANCELLED || !interrupted() || partial.empty()) throw;
        stopped = true;
        result = {{"rows", partial}};
    }
    result.erase("event");
    if (console.json())
        console.write_json(result);
    else if (!stopped)
        console.write_text(limits_lines(result));
    if (stopped) console.note("interrupted");
    return stopped ? kExitInterrupted : kExitDone;
}

}  // namespace quantplug::host
