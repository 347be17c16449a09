// A model to be measured: a folder's, or one of a known shape with random weights. No tokenizer, no text.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/decoder.h"
#include "engine/model/devices.h"
#include "engine/model/format.h"
#include "engine/model/options.h"
#include "kernels/device.h"

namespace quantplug::engine {

/// Shapes of well-known models, for measurements without files.
struct SyntheticShape {
    std::string_view name;
    int32_t hidden_size, intermediate_size, n_heads, n_kv_heads, head_dim, n_layers, n_vocab;
};
inline constexpr std::array synthetic_shapes = {
    SyntheticShape{"tinyllama-1.1b", 2048, 5632, 32, 4, 64, 22, 32000},
    SyntheticShape{"smollm2-135m", 576, 1536, 9, 3, 64, 30, 49152},
    SyntheticShape{"llama2-7b", 4096, 11008, 32, 32, 128, 32, 32000},
};

/// Everything of the decoder but the values. bits 2..8, or 16 for plain FP16 matrices; `group` rows share a scale, -1:
/// all. The head has at least 6 bits, as EXL2 files have it. INVALID_ARGUMENT for a shape that is none of
/// synthetic_shapes.
Decoder synthetic_decoder(std::string_view shape, int32_t bits, int32_t group);

struct BenchMemory {
    int32_t n_blocks = 0;    // of the cache, kv_block_tokens each
    int32_t max_wanted = 1;  // rows of logits of a step
    int32_t positions = 0;
};

/// What a step moves and computes, by the model's own numbers.
struct StepCost {
    double bytes = 0;              // packed matrices that it reads, and the cache
    std::vector<double> bytes_of;  // each part's share
    double operations = 0;         // two for each weight and row, and attention's
};

/// A decoder with its weights on a device of its own. One thread at a time.
class BenchModel {
 public:
    /// RESOURCE_EXHAUSTED, with the numbers and before anything is allocated, where it does not fit into memory.
    /// `progress` false ends with CANCELLED.
    static std::unique_ptr<BenchModel> from_folder(const std::filesystem::path& path, const Format& format,
                                                   const LoadOptions& options, const BenchMemory& memory,
                                                   const Progress& progress);
    /// Random codes, packed straight into the device.
    static std::unique_ptr<BenchModel> synthetic(std::string_view shape, int32_t bits, int32_t group,
                                                 const LoadOptions& options, const BenchMemory& memory,
                                                 const Progress& progress);

    const std::string& name() const { return name_; }
    double bits() const;  // per weight of the layers' matrices
    bool quantised() const;
    const kernels::ModelSpec& spec() const { return decoder_.spec; }
    std::string device() const { return devices_.device->describe(); }
    const std::vector<std::string>& device_names() const { return devices_.names; }  // of the parts
    int32_t max_step_rows() const { return devices_.max_rows(); }

    /// Sequences hold `blocks_each` blocks one after the other. Between layers `cancelled` is asked; then CANCELLED.
    void step(std::span<const kernels::Row> rows, std::span<const kernels::Wanted> wanted, int32_t n_sequences,
              int32_t blocks_each, bool prefill, const std::function<bool()>& cancelled);

    /// Of a step of `rows` tokens, each of which attends to `context` tokens; `shared_context`: all to the same ones.
    StepCost cost(int32_t rows, double context, bool shared_context) const;

 private:
    BenchModel(std::string name, Decoder decoder, const LoadOptions& options, const BenchMemory& memory);
    void finish(const BenchMemory& memory);

    std::string name_;
    Decoder decoder_;
    LoadOptions options_;
    Devices devices_;
    kernels::Kv kv_;
    kernels::KvSpec kv_spec_;
};

}  // namespace quantplug::engine
