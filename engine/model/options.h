// How a model is loaded, and what memory that takes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device.h"

namespace quantplug::engine {

/// Where devices come from; tests put others in their place.
struct DeviceMakers {
    std::function<std::vector<std::string>()> cuda_devices = kernels::cuda_devices;
    std::function<kernels::Status(int32_t ordinal, std::unique_ptr<kernels::Device>*)> make_cuda =
        kernels::make_cuda_device;
    std::function<bool()> has_card;  // an NVIDIA card, usable or not; empty: by its files in /dev
};

struct LoadOptions {
    std::string device = "auto";  // auto, cpu, cuda[:N], or several with commas between them, first layers first
    int32_t gpu_layers = -1;      // of the last layers, on CUDA devices; -1: all
    kernels::Compute compute = kernels::Compute::standard;
    int32_t threads = 0;                                      // 0: physical cores, affinity and cgroup quota
    int32_t ctx = 0;                                          // 0: the model's own, or what memory allows
    bool vocab_only = false;                                  // tokenizer and configuration, no weights
    bool deterministic = false;                               // a prefix is reused by rows of the same path alone
    int32_t max_streams = 16;                                 // generations that run at once, at most max_streams_limit
    int32_t cache_tokens = 0;                                 // of all sequences together; 0: ctx
    kernels::KvSpec::Type cache_mode = kernels::KvSpec::f16;  // Compute::exact: FP32 in place of f16
    DeviceMakers makers;
};

/// Bytes on one of the devices.
struct PartPlan {
    std::string device;  // "cpu", "cuda:0"
    int32_t n_layers = 0;
    uint64_t weights = 0, kv_cache = 0, scratch = 0;
    uint64_t free = 0;       // what can be allocated there now, by other parts too; 0: unknown
    uint64_t total() const;  // saturating, as all that follow
};

/// Bytes. Equal to what a load allocates, part by part.
struct MemoryPlan {
    int32_t ctx = 0, cache_tokens = 0;
    uint64_t weights = 0, kv_cache = 0, scratch = 0;  // of all parts
    uint64_t other = 0;                               // of the host
    uint64_t available = 0;                           // of the host, and the free memory of the devices; 0: unknown
    uint64_t host_available = 0;
    std::vector<PartPlan> parts;
    uint64_t total() const;

    /// Parts of one device share its memory.
    struct Pool {
        std::string device;
        uint64_t weights = 0, kv_cache = 0, scratch = 0, other = 0, free = 0;
        uint64_t total() const;
        bool fits() const { return free == 0 || total() <= free; }
    };
    std::vector<Pool> pools() const;  // the host's first
    bool fits() const;
};

using Progress = std::function<bool(double fraction, const char* what)>;  // false cancels
using Log = std::function<void(const std::string& line)>;                 // warnings

inline constexpr int32_t kv_block_tokens = 64;
inline constexpr int32_t step_rows_limit = 4096;  // of any device
inline constexpr int32_t max_step_wanted = 32;    // rows of logits of one step, more where there are more streams
inline constexpr int32_t max_streams_limit = 64;

}  // namespace quantplug::engine
