// The reader of EXL2 folders; plain FP16, BF16 and FP32 folders are recognised too, since nothing in them needs a
// reader.
#pragma once

#include <memory>

#include "engine/model/format.h"

namespace quantplug::exl2 {

/// Stateless; callable from any thread.
class Exl2Format final : public engine::Format {
 public:
    const char* name() const override { return "exl2"; }
    engine::Probe probe(const engine::ModelFolder& folder) const override;
    bool has(const engine::ModelFolder& folder, const std::string& module) const override;
    std::vector<engine::StoredModule> modules(const engine::ModelFolder& folder) const override;
    engine::StoredMatrix describe(const engine::ModelFolder& folder, const std::string& module, int32_t in_features,
                                  int32_t out_features) const override;
    kernels::QuantSource open(const engine::ModelFolder& folder, const std::string& module, int32_t in_features,
                              int32_t out_features) const override;
};

std::unique_ptr<engine::Format> make_format();

}  // namespace quantplug::exl2
