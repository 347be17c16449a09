#pragma once

#include <string>

#include "tests/support/decoding.h"

namespace quantplug::test {

inline Tensors as_module(const Tensors& golden, const std::string& module) {
    return with_prefix(golden, module, {"qweight", "qzeros", "scales", "g_idx", "bias"});
}

/// quantize_config.json as the golden's header says it.
inline std::string config_of(const std::filesystem::path& golden) {
    const auto folder = engine::ModelFolder::open_file(golden);
    const std::string producer = folder.metadata("producer");
    std::string quantizer;
    if (producer == "gptqmodel") quantizer = R"(, "meta": {"quantizer": ["gptqmodel:7.3.4"]})";
    if (producer == "gptqmodel<7.0.0") quantizer = R"(, "meta": {"quantizer": "gptqmodel:6.0.3"})";
    return R"({"bits": )" + folder.metadata("bits") + R"(, "group_size": )" + folder.metadata("group_size") +
           R"(, "desc_act": )" + folder.metadata("desc_act") + R"(, "sym": )" + folder.metadata("sym") +
           R"(, "quant_method": "gptq", "checkpoint_format": ")" + folder.metadata("checkpoint_format") + "\"" +
           quantizer + "}";
}

}  // namespace quantplug::test
