// Folders of other quantisation formats, told by their configuration and, where that is silent, by their tensors.
#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"
#include "engine/checkpoint/folder.h"

namespace quantplug::engine {

namespace {

struct Format {
    std::string_view key, name;
};

// quant_method as the writers spell it, lower case, '_' for '-'.
constexpr std::array<Format, 26> methods{{
    {"exl3", "EXL3"},
    {"awq", "AWQ"},
    {"awq_marlin", "AWQ (Marlin)"},
    {"marlin", "Marlin"},
    {"gptq_marlin", "Marlin"},
    {"gptq_marlin_24", "Marlin"},
    {"bitsandbytes", "bitsandbytes"},
    {"bnb", "bitsandbytes"},
    {"compressed_tensors", "compressed-tensors"},
    {"fp8", "FP8"},
    {"fbgemm_fp8", "FP8"},
    {"finegrained_fp8", "FP8"},
    {"hqq", "HQQ"},
    {"vptq", "VPTQ"},
    {"aqlm", "AQLM"},
    {"quip", "QuIP#"},
    {"eetq", "EETQ"},
    {"torchao", "torchao"},
    {"quanto", "quanto"},
    {"mxfp4", "MXFP4"},
    {"modelopt", "ModelOpt"},
    {"quark", "Quark"},
    {"bitnet", "BitNet"},
    {"spqr", "SpQR"},
    {"higgs", "HIGGS"},
    {"bitblas", "BitBLAS"},
}};

// Ends of tensor names that no EXL2, GPTQ or plain folder has.
constexpr std::array<Format, 13> suffixes{{
    {".trellis", "EXL3"},
    {".suh", "EXL3"},
    {".weight_packed", "compressed-tensors"},
    {".quant_state.bitsandbytes__nf4", "bitsandbytes"},
    {".quant_state.bitsandbytes__fp4", "bitsandbytes"},
    {".weight.absmax", "bitsandbytes"},
    {".SCB", "bitsandbytes"},
    {".weight_scale_inv", "FP8"},
    {".weight_scale", "FP8"},
    {".W_q", "HQQ"},
    {".centroids.weight", "VPTQ"},
    {".centroids", "VPTQ"},
    {".codebooks", "AQLM"},
}};

std::string normalised(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](unsigned char c) { return c == '-' || c == '/' ? '_' : char(std::tolower(c)); });
    return text;
}

/// A sentence about what the configuration says, or empty.
std::string by_config(const ModelFolder& folder, const JsonObject& config) {
    const auto sentence = [&](std::string_view format, std::string_view key, std::string_view value) {
        return concat(folder.name(), " is quantised with ", format, " (", config.where(key), " is \"", printable(value),
                      "\"), which is not supported: use an EXL2, GPTQ or unquantised version of the model");
    };
    for (const std::string_view key : {"quant_method", "method"}) {
        const auto method = config.string(key);
        if (!method) continue;
        const std::string name = normalised(*method);
        const auto row = std::find_if(methods.begin(), methods.end(), [&](const Format& f) { return f.key == name; });
        if (row != methods.end()) return sentence(row->name, key, *method);
        if (name == "auto_round" || name == "intel_auto_round" || name == "autoround") {
            const std::string packing = config.string("packing_format").value_or("");
            if (packing.find("gptq") != std::string::npos) continue;
            return sentence("AutoRound", packing.empty() ? key : "packing_format", packing.empty() ? *method : packing);
        }
        if (name != "gptq" && name != "gptq_v2" && name != "exl2") return sentence("an unknown method", key, *method);
    }
    if (config.boolean("is_marlin_format").value_or(false)) return sentence("Marlin", "is_marlin_format", "true");
    for (const std::string_view key : {"checkpoint_format", "format"}) {
        const auto format = config.string(key);
        if (!format) continue;
        const std::string name = normalised(*format);
        if (name.find("marlin") != std::string::npos) return sentence("Marlin", key, *format);
        if (name == "bitblas" || name == "gemm" || name == "gemv" || name == "gemv_fast")
            return sentence(name == "bitblas" ? "BitBLAS" : "AWQ", key, *format);
    }
    for (const std::string_view key : {"load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit"})
        if (config.boolean(key).value_or(false)) return sentence("bitsandbytes", key, "true");
    return {};
}

std::string by_tensors(const ModelFolder& folder) {
    const auto sentence = [&](std::string_view format, const TensorInfo& tensor) {
        return concat(folder.name(), " is quantised with ", format, " (it has the tensor \"", printable(tensor.name),
                      "\", ", tensor.describe(),
                      "), which is not supported: use an EXL2, GPTQ or unquantised version of the model");
    };
    for (const TensorInfo& tensor : folder.tensors()) {
        const std::string_view name = tensor.name;
        for (const Format& row : suffixes)
            if (name.ends_with(row.key)) return sentence(row.name, tensor);
        if (tensor.type == StoredType::f8_e4m3 || tensor.type == StoredType::f8_e5m2) return sentence("FP8", tensor);
        if (!name.ends_with(".qweight")) {
            // Marlin's packed matrix is called just B, its scales s.
            if (name.ends_with(".B") && folder.has(std::string(name.substr(0, name.size() - 1)) + "s"))
                return sentence("Marlin", tensor);
            continue;
        }
        // AWQ packs along N: its qweight is narrower than its scales are. GPTQ packs along K.
        const TensorInfo* scales = folder.find(std::string(name.substr(0, name.size() - 7)) + "scales");
        if (scales && scales->shape.size() == 2 && tensor.shape.size() == 2 && tensor.shape[1] < scales->shape[1] &&
            !folder.has(std::string(name.substr(0, name.size() - 7)) + "g_idx"))
            return sentence("AWQ", tensor);
    }
    return {};
}

}  // namespace

std::string unsupported_format(const ModelFolder& folder) {
    // EXL2's matrices are unmistakable; their folder may still carry the source's configuration.
    if (folder.has_suffix(".q_weight")) return {};
    if (const auto config = folder.quantization_config())
        if (std::string sentence = by_config(folder, *config); !sentence.empty()) return sentence;
    return by_tensors(folder);
}

}  // namespace quantplug::engine
