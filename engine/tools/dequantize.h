// Quantised folders turned into plain ones: the way out for checkpoints that nothing else loads, and the proof of the
// readers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "engine/checkpoint/safetensors.h"
#include "engine/model/format.h"

namespace quantplug::engine {

struct DequantizeOptions {
    StoredType type = StoredType::f16;            // f16 or f32
    uint64_t max_file_bytes = uint64_t{5} << 30;  // of one file's tensors
    /// fraction 0..1 and what is being done; false cancels. May be empty.
    std::function<bool(double fraction, const std::string& what)> progress = {};
};

struct DequantizeResult {
    int64_t tensors = 0;
    uint64_t bytes = 0;  // of all safetensors files
};

/// Writes a Hugging Face folder: every quantised matrix as `<module>.weight` (out, in), the FP16 values that its format
/// defines, as `type`, other float tensors as F32 if `type` is, else as they are; config.json without
/// quantization_config; tokenizer and other side files. Any folder that `format` probes, whatever the architecture;
/// plain ones only change their type. Memory: one matrix. `out` is complete or absent.
DequantizeResult dequantize(const Format& format, const std::filesystem::path& in, const std::filesystem::path& out,
                            const DequantizeOptions& options = {});

}  // namespace quantplug::engine
