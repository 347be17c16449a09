// Speed of prefill and decode, beside what the machine can do at most.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "engine/model/format.h"
#include "engine/model/options.h"
#include "kernels/limits.h"

namespace quantplug::engine {

struct BenchRequest {
    std::filesystem::path model;             // a folder,
    std::string synthetic;                   // or one of synthetic_shapes; neither: the machine's limits alone
    int32_t bits = 4, group = 128;           // of a synthetic model
    int32_t pp = 512, tg = 128;              // tokens of a prompt, tokens generated; 0 leaves the test out
    int32_t depth = 0;                       // tokens that each sequence has in the cache already
    std::vector<int32_t> batch = {1, 2, 4};  // sequences that decode at once
    int32_t repeat = 5;
    LoadOptions options;  // device, gpu_layers, compute, threads, cache_mode
};

struct BenchRow {
    std::string shape, device;  // device: "cpu", "cuda:0", "cpu+cuda:0"
    double bits = 0;            // per weight of the layers' matrices
    int32_t threads = 0, batch = 1, depth = 0;
    std::string test;                           // "pp512", "tg128"
    double tokens_per_s = 0, min = 0, max = 0;  // median, worst and best of the repeats, of all sequences together
    double bytes_per_token = 0;                 // packed matrices and cache, by their sizes
    double gb_per_s = 0;                        // bytes_per_token * tokens_per_s
    double share_of_bandwidth = 0;              // of read_gb_per_s, on a CUDA device of its copies' gb_per_s
    double share_of_peak = 0;  // of the operations' limit: int16, int8 or fp32 as the CPU computes them; 0: not the CPU
};

struct DeviceBandwidth {
    std::string device;
    double gb_per_s = 0;  // kernels::measure_cuda_copy
};

struct BenchResult {
    std::vector<BenchRow> rows;
    kernels::Limits limits;             // with as many threads as the measurement has
    std::vector<DeviceBandwidth> cuda;  // of the devices that compute
    std::string cpu, device;
};

/// Prompts are computed as the engine does, in chunks of about 150 ms; tests of several sequences decode one token of
/// each in a step. `progress` false ends with CANCELLED; `on_row` is told of every row as it is done.
BenchResult run_benchmark(const BenchRequest& request, const Format& format, const Progress& progress,
                          const std::function<void(const BenchRow&)>& on_row);

/// The processor's name as /proc/cpuinfo has it; "unknown" where it does not.
std::string cpu_name();

}  // namespace quantplug::engine
