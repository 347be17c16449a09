#include "engine/plugin/plugin_backend.h"

#include <algorithm>
#include <array>

#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/checkpoint/json.h"
#include "engine/plugin/load_options.h"
#include "engine/plugin/plugin_model.h"
#include "engine/tools/dequantize.h"
#include "engine/tools/import_gguf.h"

namespace quantplug::engine {

namespace {

struct Tool {
    const char* name;
    const char* help;
    const char* arguments;
};
constexpr std::array tools = {
    Tool{"dequantize", "writes a plain Hugging Face folder whose matrices are the decoded values of a quantised one",
         R"({"in": {"type": "text", "help": "quantised folder"}, "out": {"type": "text", "help": "folder to make"},)"
         R"( "dtype": {"type": "text", "help": "f16 or f32", "default": "f16"}})"},
    Tool{"import-gguf", "turns a GGUF file of a llama-like model into a Hugging Face folder",
         R"({"in": {"type": "text", "help": "GGUF file"}, "out": {"type": "text", "help": "folder to make"},)"
         R"( "dtype": {"type": "text", "help": "f16 or f32", "default": "f16"}})"},
};

Log log_of(const backend::Backend& backend) {
    return [&backend](const std::string& line) { backend.log(QP_LOG_WARNING, line); };
}

/// The arguments of a tool: an object whose keys are all known.
class Arguments {
 public:
    Arguments(std::string_view text, std::initializer_list<std::string_view> known, std::string where)
        : where_(std::move(where)), document_(parse_json(text, where_)), object_(document_, where_) {
        for (const auto& [key, value] : document_.items())
            if (std::find(known.begin(), known.end(), key) == known.end()) fail(Code::invalid_argument, where_, ": unknown argument ", key);
    }
    std::string required(const char* key) const {
        const auto value = object_.string(key);
        if (!value || value->empty()) fail(Code::invalid_argument, where_, ": argument ", key, " is missing");
        return *value;
    }
    const JsonObject& get() const { return object_; }

 private:
    std::string where_;
    Json document_;
    JsonObject object_;
};

StoredType dtype_argument(const Arguments& arguments, const std::string& where) {
    const std::string dtype = arguments.get().string("dtype").value_or("f16");
    if (dtype == "f16") return StoredType::f16;
    if (dtype == "f32") return StoredType::f32;
    fail(Code::invalid_argument, where, ": dtype ", dtype, " is unknown; f16 and f32 are");
}

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

bool emit_progress(backend::JsonEvents& events, double fraction, const std::string& what) {
    return events.emit(dump({{"event", "progress"}, {"fraction", fraction}, {"what", what}}));
}

}  // namespace

PluginBackend::PluginBackend(std::unique_ptr<Format> format, std::unique_ptr<MatrixQuantizer> quantizer, const char* quantizer_arguments)
    : format_(std::move(format)), quantizer_(std::move(quantizer)), quantizer_arguments_(quantizer_arguments) {}

void PluginBackend::probe(const char* path, qp_probe_result& out) const {
    try {
        const Probe probe = format_->probe(ModelFolder::open(path));
        out.score = probe.score;
        copy_text(out.format, probe.format);
        copy_text(out.reason, probe.reason);
    } catch (const Error& error) {
        copy_text(out.reason, error.what());   // no folder, no safetensors, damaged: a reason like any other
    }
}

bool PluginBackend::load_option(uint32_t index, qp_option_info& out) const { return engine::load_option(index, out); }

void PluginBackend::inspect(const char* path, qp_model_info& out) const {
    const ModelFolder folder = ModelFolder::open(path);
    const Probe probe = format_->probe(folder);
    if (probe.score <= 0) fail(Code::failed_precondition, probe.reason);
    const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(folder.path());
    fill_info(read_decoder(folder, *format_), *tokenizer, probe.format, folder.file_bytes(), out);
}

void PluginBackend::plan_memory(const backend::LoadParams& params, qp_memory_plan& out) const {
    const MemoryPlan plan =
        engine::Model::plan(ModelFolder::open(params.path), *format_, parse_load_options(params.options), log_of(*this));
    out.ctx = uint32_t(plan.ctx);
    out.weights = plan.weights;
    out.kv_cache = plan.kv_cache;
    out.scratch = plan.scratch;
    out.other = plan.other;
    out.total = plan.total();
    out.available = plan.available;
}

std::unique_ptr<backend::Model> PluginBackend::load(const backend::LoadParams& params, backend::Progress& progress) const {
    const ModelFolder folder = ModelFolder::open(params.path);
    const Probe probe = format_->probe(folder);
    if (probe.score <= 0) fail(Code::failed_precondition, probe.reason);
    std::unique_ptr<engine::Model> model =
        engine::Model::load(folder, *format_, parse_load_options(params.options),
                            [&](double fraction, const char* what) { return progress.go_on(fraction, what); }, log_of(*this));
    return std::make_unique<PluginModel>(std::move(model), recommended_sampling(folder), probe.format, folder.file_bytes());
}

bool PluginBackend::tool(uint32_t index, qp_tool_info& out) const {
    if (index >= tools.size()) return false;
    out.name = tools[index].name;
    out.help = tools[index].help;
    out.arguments = tools[index].arguments;
    return true;
}

void PluginBackend::run_tool(std::string_view name, std::string_view arguments_json, backend::JsonEvents& events) const {
    const std::string where(name);
    const Arguments arguments(arguments_json, {"in", "out", "dtype"}, where);
    const std::string in = arguments.required("in"), out = arguments.required("out");
    const StoredType type = dtype_argument(arguments, where);
    const auto progress = [&](double fraction, const std::string& what) { return emit_progress(events, fraction, what); };
    Json done = {{"event", "done"}};
    if (name == "dequantize") {
        const DequantizeResult result = dequantize(*format_, in, out, {.type = type, .progress = progress});
        done.update({{"tensors", result.tensors}, {"bytes", result.bytes}});
    } else {
        const ImportGgufResult result = import_gguf(in, out, {.type = type, .progress = progress});
        done.update({{"tensors", result.tensors},
                     {"bytes", result.bytes},
                     {"architecture", result.architecture},
                     {"tokenizer", result.tokenizer}});
    }
    events.emit(dump(done));
}

bool PluginBackend::translate(int32_t& code, std::string& message) const {
    try {
        throw;
    } catch (const engine::Error& error) {
        code = int32_t(error.code());
        message = error.what();
        return true;
    } catch (...) {
        return false;
    }
}

}  // namespace quantplug::engine
