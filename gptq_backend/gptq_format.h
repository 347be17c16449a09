// The reader of GPTQ folders: AutoGPTQ, GPTQModel, AutoRound's auto_gptq packing.
#pragma once

#include <memory>

#include "engine/model/format.h"

namespace quantplug::gptq {

/// Stateless; callable from any thread. Bits and groups come from each matrix's shapes, the configuration says only
/// what zero points mean.
class GptqFormat final : public engine::Format {
 public:
    const char* name() const override { return "gptq"; }
    engine::Probe probe(const engine::ModelFolder& folder) const override;
    bool has(const engine::ModelFolder& folder, const std::string& module) const override;
    std::vector<engine::StoredModule> modules(const engine::ModelFolder& folder) const override;
    engine::StoredMatrix describe(const engine::ModelFolder& folder, const std::string& module, int32_t in_features,
                                  int32_t out_features) const override;
    kernels::QuantSource open(const engine::ModelFolder& folder, const std::string& module, int32_t in_features,
                              int32_t out_features) const override;
};

std::unique_ptr<engine::Format> make_format();

}  // namespace quantplug::gptq
