#include "engine/tools/quantize_json.h"

#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"
#include "engine/tools/import_gguf.h"

namespace quantplug::engine {

namespace {

std::string required(const JsonObject& arguments, std::string_view key) {
    const auto value = arguments.string(key);
    if (!value || value->empty()) fail(Code::invalid_argument, "the argument \"", key, "\" is missing: give a folder");
    return *value;
}

int32_t small(const JsonObject& arguments, std::string_view key, int32_t otherwise) {
    const int64_t value = arguments.integer(key).value_or(otherwise);
    if (value < -1 || value > (1 << 24)) fail(Code::out_of_range, arguments.where(key), " is ", value);
    return int32_t(value);
}

bool send(const EmitJson& emit, const Json& event) {
    return !emit || emit(event.dump(-1, ' ', false, Json::error_handler_t::replace));
}

StoredType dtype_of(const JsonObject& arguments) {
    const std::string dtype = arguments.string("dtype").value_or("f16");
    if (dtype != "f16" && dtype != "f32")
        fail(Code::invalid_argument, "dtype is \"", printable(dtype), "\": choose f16 or f32");
    return dtype == "f16" ? StoredType::f16 : StoredType::f32;
}

std::function<bool(double, const std::string&)> progress_to(const EmitJson& emit) {
    return [&emit](double fraction, const std::string& what) {
        return send(emit, {{"event", "progress"}, {"fraction", fraction}, {"what", what}});
    };
}

}  // namespace

Json parse_tool_arguments(std::string_view arguments, std::string_view described) {
    const Json known = parse_json(described, "the tool's description");
    Json document = parse_json(arguments.empty() ? "{}" : arguments, tool_arguments_name);
    JsonObject(document, tool_arguments_name);
    std::string list;
    for (const auto& [key, value] : known.items()) list += concat(list.empty() ? "" : ", ", key);
    for (const auto& [key, value] : document.items())
        if (!known.contains(key))
            fail(Code::invalid_argument, "unknown argument \"", printable(key), "\": there are ", list);
    return document;
}

void run_quantize(const MakeQuantizer& make, std::string_view described, std::string_view arguments_json,
                  const EmitJson& emit) {
    const Json document = parse_tool_arguments(arguments_json, described);
    const JsonObject arguments(document, tool_arguments_name);
    QuantizeRequest request;
    request.in = required(arguments, "in");
    request.out = required(arguments, "out");
    request.method = arguments.string("method").value_or(request.method);
    request.bits = small(arguments, "bits", request.bits);
    request.group_size = small(arguments, "group_size", request.group_size);
    request.head_bits = small(arguments, "head_bits", request.head_bits);
    request.sym = arguments.boolean("sym").value_or(request.sym);
    const QuantizeResult result = quantize(request, make, [&](const QuantizeEvent& event) {
        if (event.kind == QuantizeEvent::layer)
            return send(emit, {{"event", "layer"}, {"name", event.name}, {"bits", event.bits}});
        return send(emit, {{"event", "progress"}, {"fraction", event.fraction}, {"what", event.name}});
    });
    Json done{{"event", "done"},
              {"bits_per_weight", result.bits_per_weight},
              {"seconds", result.seconds},
              {"tensors", result.tensors},
              {"bytes", result.bytes}};
    if (result.bits_per_weight_head > 0) done["bits_per_weight_head"] = result.bits_per_weight_head;
    send(emit, done);
}

const char* dequantize_arguments() {
    return R"({"in": {"type": "string", "help": "the quantised folder"},)"
           R"( "out": {"type": "string", "help": "the plain folder to make; absent or empty"},)"
           R"( "dtype": {"type": "string", "help": "f16 or f32", "default": "f16"}})";
}

void run_dequantize(const Format& format, std::string_view arguments_json, const EmitJson& emit) {
    const Json document = parse_tool_arguments(arguments_json, dequantize_arguments());
    const JsonObject arguments(document, tool_arguments_name);
    DequantizeOptions options;
    options.type = dtype_of(arguments);
    options.progress = progress_to(emit);
    const DequantizeResult result = dequantize(format, required(arguments, "in"), required(arguments, "out"), options);
    send(emit, {{"event", "done"}, {"tensors", result.tensors}, {"bytes", result.bytes}});
}

const char* import_gguf_arguments() {
    return R"({"in": {"type": "string", "help": "the GGUF file"},)"
           R"( "out": {"type": "string", "help": "the plain folder to make; absent or empty"},)"
           R"( "dtype": {"type": "string", "help": "f16 or f32", "default": "f16"}})";
}

void run_import_gguf(std::string_view arguments_json, const EmitJson& emit) {
    const Json document = parse_tool_arguments(arguments_json, import_gguf_arguments());
    const JsonObject arguments(document, tool_arguments_name);
    ImportGgufOptions options;
    options.type = dtype_of(arguments);
    options.progress = progress_to(emit);
    const ImportGgufResult result = import_gguf(required(arguments, "in"), required(arguments, "out"), options);
    send(emit, {{"event", "done"},
                {"tensors", result.tensors},
                {"bytes", result.bytes},
                {"architecture", result.architecture},
                {"tokenizer", result.tokenizer}});
}

}  // namespace quantplug::engine
