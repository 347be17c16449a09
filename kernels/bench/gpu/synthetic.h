// Llama-shaped models with random weights, built on any device without files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device.h"

namespace quantplug::bench {

struct SyntheticShape {
    const char* name;
    int32_t hidden, inner, n_heads, n_kv_heads, head_dim, n_layers, n_vocab;
};
constexpr SyntheticShape llama2_7b = {"llama2-7b", 4096, 11008, 32, 32, 128, 32, 32000};
constexpr SyntheticShape tinyllama = {"tinyllama-1.1b", 2048, 5632, 32, 4, 64, 22, 32000};
constexpr SyntheticShape tiny = {"tiny", 128, 256, 4, 2, 32, 2, 512};

/// A loaded model of `bits` per weight (groups of `group` rows) with a head of at least 6 bits, as EXL2 files have it.
class SyntheticModel {
 public:
    SyntheticModel(std::unique_ptr<kernels::Device> device, const SyntheticShape& shape, int32_t bits, int32_t group,
                   int32_t max_positions, int32_t n_sequences, int32_t max_rows);

    /// Throws a std::runtime_error with the status.
    kernels::StepResult run(const std::vector<kernels::Row>& rows, const std::vector<kernels::Wanted>& wanted);
    kernels::Ticket submit(const std::vector<kernels::Row>& rows, const std::vector<kernels::Wanted>& wanted);
    kernels::StepResult wait(kernels::Ticket ticket);

    kernels::Device& device() { return *device_; }
    /// Of one decode step: packed matrices of the layers and the head.
    uint64_t bytes_per_step() const { return bytes_per_step_; }
    uint64_t kv_bytes_per_token() const { return kv_bytes_per_token_; }
    const SyntheticShape& shape() const { return shape_; }

 private:
    kernels::Matrix matrix(int32_t k, int32_t n, int32_t bits, int32_t group);
    kernels::Matrix plain(int32_t k, int32_t n);

    std::unique_ptr<kernels::Device> device_;
    const SyntheticShape shape_;
    kernels::ModelSpec spec_;
    kernels::Kv kv_;
    std::vector<int32_t> table_;
    int32_t max_blocks_ = 0;
    uint64_t bytes_per_step_ = 0, kv_bytes_per_token_ = 0, seed_ = 1;
    std::vector<uint8_t> pool_;
};

void check(const kernels::Status& status);

}  // namespace quantplug::bench
