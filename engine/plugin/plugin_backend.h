// The plugin that a format becomes: everything but the format is the engine's.
#pragma once

#include <memory>
#include <quantplug/backend.hpp>

#include "engine/model/format.h"
#include "engine/tools/quantize.h"

namespace quantplug::engine {

class PluginBackend : public backend::Backend {
 public:
    static constexpr unsigned extensions =
        backend::kScore | backend::kLogits | backend::kTools | backend::kQuantize | backend::kEngine |
        backend::kChat;

    /// quantizer_arguments: JSON as qp_tool_info::arguments has it; lives as long as the library.
    PluginBackend(std::unique_ptr<Format> format, MakeQuantizer make_quantizer, const char* quantizer_arguments);

    void probe(const char* path, qp_probe_result& out) const override;
    bool load_option(uint32_t index, qp_option_info& out) const override;
    void inspect(const char* path, qp_model_info& out) const override;
    void plan_memory(const backend::LoadParams& params, qp_memory_plan& out) const override;
    std::unique_ptr<backend::Model> load(const backend::LoadParams& params, backend::Progress& progress) const override;
    bool tool(uint32_t index, qp_tool_info& out) const override;
    void run_tool(std::string_view name, std::string_view arguments_json, backend::JsonEvents& events) const override;
    void quantizer(qp_tool_info& out) const override;
    void quantize(std::string_view arguments_json, backend::JsonEvents& events) const override;
    bool translate(int32_t& code, std::string& message) const override;

 private:
    /// The probe of a folder that this backend loads; FAILED_PRECONDITION with the reason for any other.
    Probe checked_probe(const ModelFolder& folder) const;

    std::unique_ptr<Format> format_;
    MakeQuantizer make_quantizer_;
    const char* quantizer_arguments_;
};

}  // namespace quantplug::engine
