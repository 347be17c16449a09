#include "engine/plugin/plugin_backend.h"

#include <array>
#include <iterator>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/plugin/load_options.h"
#include "engine/plugin/plugin_model.h"
#include "engine/tools/bench_json.h"
#include "engine/tools/quantize_json.h"

namespace quantplug::engine {

namespace {

struct Tool {
    const char* name;
    const char* help;
    const char* (*arguments)();
    void (*run)(const Format& format, std::string_view arguments, const EmitJson& emit);
};
constexpr std::array tools = {
    Tool{"dequantize", "writes a plain Hugging Face folder whose matrices are the decoded values of a quantised one",
         dequantize_arguments, run_dequantize},
    Tool{"import-gguf", "turns a GGUF file of a llama-like model into a Hugging Face folder", import_gguf_arguments,
         [](const Format&, std::string_view arguments, const EmitJson& emit) { run_import_gguf(arguments, emit); }},
    Tool{"bench", "measures prefill and decode, of a folder or of random weights, and the machine's limits",
         bench_arguments, run_bench},
};

Log log_of(const backend::Backend& backend) {
    return [&backend](const std::string& line) { backend.log(QP_LOG_WARNING, line); };
}

}  // namespace

PluginBackend::PluginBackend(std::unique_ptr<Format> format, MakeQuantizer make_quantizer,
                             const char* quantizer_arguments)
    : format_(std::move(format)),
      make_quantizer_(std::move(make_quantizer)),
      quantizer_arguments_(quantizer_arguments) {}

void PluginBackend::probe(const char* path, qp_probe_result& out) const {
    try {
        const Probe probe = format_->probe(ModelFolder::open(path));
        out.score = probe.score;
        copy_text(out.format, probe.format);
        copy_text(out.reason, probe.reason);
    } catch (const Error& error) {
        copy_text(out.reason, error.what());  // no folder, no safetensors, damaged: a reason like any other
    }
}

Probe PluginBackend::checked_probe(const ModelFolder& folder) const {
    Probe probe = format_->probe(folder);
    if (probe.score <= 0) fail(Code::failed_precondition, probe.reason);
    return probe;
}

bool PluginBackend::load_option(uint32_t index, qp_option_info& out) const { return engine::load_option(index, out); }

void PluginBackend::inspect(const char* path, qp_model_info& out) const {
    const ModelFolder folder = ModelFolder::open(path);
    const Probe probe = checked_probe(folder);
    const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(folder.path());
    fill_info(read_decoder(folder, *format_), *tokenizer, probe.format, folder.file_bytes(), out);
}

void PluginBackend::plan_memory(const backend::LoadParams& params, qp_memory_plan& out) const {
    const ModelFolder folder = ModelFolder::open(params.path);
    checked_probe(folder);
    const MemoryPlan plan = engine::Model::plan(folder, *format_, parse_load_options(params.options), log_of(*this));
    out.ctx = uint32_t(plan.ctx);
    out.weights = plan.weights;
    out.kv_cache = plan.kv_cache;
    out.scratch = plan.scratch;
    out.other = plan.other;
    out.total = plan.total();
    out.available = plan.available;
    for (const PartPlan& part : plan.parts) {
        if (out.n_devices == std::size(out.devices)) break;
        qp_device_memory& device = out.devices[out.n_devices++];
        copy_text(device.device, part.device);
        device.n_layers = uint32_t(part.n_layers);
        device.weights = part.weights;
        device.kv_cache = part.kv_cache;
        device.scratch = part.scratch;
        device.total = part.total();
        device.free = part.free;
    }
}

std::unique_ptr<backend::Model> PluginBackend::load(const backend::LoadParams& params,
                                                    backend::Progress& progress) const {
    const ModelFolder folder = ModelFolder::open(params.path);
    const Probe probe = checked_probe(folder);
    ChatTemplates templates = load_chat_templates(folder.path());  // before the weights: a damaged file is said at once
    std::unique_ptr<engine::Model> model = engine::Model::load(
        folder, *format_, parse_load_options(params.options),
        [&](double fraction, const char* what) { return progress.go_on(fraction, what); }, log_of(*this));
    return std::make_unique<PluginModel>(std::move(model), recommended_sampling(folder), probe.format,
                                         folder.file_bytes(), std::move(templates));
}

bool PluginBackend::tool(uint32_t index, qp_tool_info& out) const {
    if (index >= tools.size()) return false;
    out.name = tools[index].name;
    out.help = tools[index].help;
    out.arguments = tools[index].arguments();
    return true;
}

void PluginBackend::run_tool(std::string_view name, std::string_view arguments_json,
                             backend::JsonEvents& events) const {
    for (const Tool& t : tools)
        if (name == t.name) t.run(*format_, arguments_json, [&](const std::string& json) { return events.emit(json); });
}

void PluginBackend::quantizer(qp_tool_info& out) const {
    out.name = format_->name();
    out.help = "makes a quantised folder from a plain one";
    out.arguments = quantizer_arguments_;
}

void PluginBackend::quantize(std::string_view arguments_json, backend::JsonEvents& events) const {
    run_quantize(make_quantizer_, quantizer_arguments_, arguments_json,
                 [&](const std::string& json) { return events.emit(json); });
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
