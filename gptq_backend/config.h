// What the quantisation configuration of a GPTQ folder says that shapes do not.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/checkpoint/folder.h"

namespace quantplug::gptq {

/// What a stored zero-point field f means: v1 f + 1, v2 and planar (gptq_p) f.
enum class Encoding : uint8_t { v1, v2, planar };

struct Config {
    std::string name;        // file and key, for messages; empty where the folder has no configuration
    int32_t bits = 0;        // 0: not said
    int32_t group_size = 0;  // -1: all rows; 0: not said
    bool sym = true;
    Encoding encoding = Encoding::v1;
    bool by_gptqmodel = false;  // meta.quantizer; its version as major, minor
    int32_t major = 0, minor = 0;
    std::vector<int32_t> override_bits, override_group_sizes;  // what `dynamic` or `extra_config` gives single modules
};

/// Reads it: quantize_config.json, quant_config.json, then config.json's quantization_config; what is missing there,
/// from the headers' metadata. unimplemented, naming key and value, where it says another format than GPTQ or a packing
/// that is not read.
Config read_config(const engine::ModelFolder& folder);

}  // namespace quantplug::gptq
