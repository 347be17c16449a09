#include "engine/tools/bench_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/checkpoint/json.h"
#include "engine/tools/bench.h"

namespace quantplug::engine {

namespace {

int32_t integer_of(const JsonObject& arguments, std::string_view key, int32_t otherwise) {
    const int64_t value = arguments.integer(key).value_or(otherwise);
    if (value < -1 || value > (1 << 24)) fail(Code::out_of_range, arguments.where(key), " is ", value);
    return int32_t(value);
}

kernels::Compute compute_of(const std::string& name) {
    if (name == "default") return kernels::Compute::standard;
    if (name == "exact") return kernels::Compute::exact;
    fail(Code::invalid_argument, "compute is \"", name.substr(0, 64), "\": choose default or exact");
}

kernels::KvSpec::Type cache_mode_of(const std::string& name) {
    if (name == "f16") return kernels::KvSpec::f16;
    if (name == "q8") return kernels::KvSpec::q8;
    if (name == "q4") return kernels::KvSpec::q4;
    fail(Code::invalid_argument, "cache_mode is \"", name.substr(0, 64), "\": choose f16, q8 or q4");
}

Json json_of(const BenchRow& row) {
    return {{"shape", row.shape},
            {"device", row.device},
            {"bits", row.bits},
            {"threads", row.threads},
            {"batch", row.batch},
            {"depth", row.depth},
            {"test", row.test},
            {"tokens_per_s", row.tokens_per_s},
            {"min", row.min},
            {"max", row.max},
            {"bytes_per_token", row.bytes_per_token},
            {"gb_per_s", row.gb_per_s},
            {"share_of_bandwidth", row.share_of_bandwidth},
            {"share_of_peak", row.share_of_peak}};
}

}  // namespace

const char* bench_arguments() {
    return R"({"model": {"type": "string", "help": "the model folder", "default": ""},)"
           R"( "synthetic": {"type": "string", "help": "tinyllama-1.1b, smollm2-135m or llama2-7b with random weights)"
           R"(; neither this nor a model: the machine's limits alone", "default": ""},)"
           R"( "bits": {"type": "integer", "help": "of a synthetic model; 16: plain FP16", "default": 4},)"
           R"( "group": {"type": "integer", "help": "rows that share a scale; -1: all", "default": 128},)"
           R"( "pp": {"type": "integer", "help": "tokens of the prompt; 0 leaves the test out", "default": 512},)"
           R"( "tg": {"type": "integer", "help": "tokens generated; 0 leaves the test out", "default": 128},)"
           R"( "depth": {"type": "integer", "help": "tokens in the cache before", "default": 0},)"
           R"( "batch": {"type": "array", "help": "sequences that decode at once, a test each", "default": [1, 2, 4]},)"
           R"( "repeat": {"type": "integer", "help": "runs of each test; the median counts", "default": 5},)"
           R"( "threads": {"type": "integer", "help": "0: cores, affinity and quota", "default": 0},)"
           R"( "device": {"type": "string", "help": "auto, cpu, cuda[:N] or several with commas", "default": "auto"},)"
           R"( "gpu_layers": {"type": "integer", "help": "layers on the CUDA device; -1: all", "default": -1},)"
           R"( "compute": {"type": "string", "help": "default or exact", "default": "default"},)"
           R"( "cache_mode": {"type": "string", "help": "f16, q8 or q4", "default": "f16"}})";
}

void run_bench(const Format& format, std::string_view arguments_json, const EmitJson& emit) {
    const Json document = parse_tool_arguments(arguments_json, bench_arguments());
    const JsonObject arguments(document, tool_arguments_name);
    BenchRequest request;
    request.model = arguments.string("model").value_or("");
    request.synthetic = arguments.string("synthetic").value_or("");
    request.bits = integer_of(arguments, "bits", request.bits);
    request.group = integer_of(arguments, "group", request.group);
    request.pp = integer_of(arguments, "pp", request.pp);
    request.tg = integer_of(arguments, "tg", request.tg);
    request.depth = integer_of(arguments, "depth", request.depth);
    request.repeat = integer_of(arguments, "repeat", request.repeat);
    if (arguments.has("batch")) {
        request.batch.clear();
        for (const int64_t b : arguments.integers("batch"))
            request.batch.push_back(int32_t(std::clamp<int64_t>(b, -1, 1 << 24)));
    }
    request.options.threads = integer_of(arguments, "threads", 0);
    if (request.options.threads < 0 || request.options.threads > 1024)
        fail(Code::invalid_argument, "threads is ", request.options.threads, "; it must lie in 0..1024");
    request.options.device = arguments.string("device").value_or("auto");
    request.options.gpu_layers = integer_of(arguments, "gpu_layers", -1);
    request.options.compute = compute_of(arguments.string("compute").value_or("default"));
    request.options.cache_mode = cache_mode_of(arguments.string("cache_mode").value_or("f16"));

    const auto send = [&](const Json& event) {
        return !emit || emit(event.dump(-1, ' ', false, Json::error_handler_t::replace));
    };
    const BenchResult result = run_benchmark(
        request, format,
        [&](double fraction, const char* what) {
            return send({{"event", "progress"}, {"fraction", fraction}, {"what", what}});
        },
        [&](const BenchRow& row) {
            Json event = json_of(row);
            event["event"] = "row";
            send(event);
        });
    Json rows = Json::array();
    for (const BenchRow& row : result.rows) rows.push_back(json_of(row));
    const kernels::Limits& limits = result.limits;
    Json cuda = Json::array();
    for (const DeviceBandwidth& one : result.cuda) cuda.push_back({{"device", one.device}, {"gb_per_s", one.gb_per_s}});
    send({{"event", "done"},
          {"rows", std::move(rows)},
          {"limits",
           {{"read_gb_per_s", limits.read_gb_per_s},
            {"int8_gops", limits.int8_gops},
            {"int16_gops", limits.int16_gops},
            {"fp32_gflops", limits.fp32_gflops}}},
          {"cuda", std::move(cuda)},
          {"cpu", result.cpu},
          {"device", result.device}});
}

}  // namespace quantplug::engine
