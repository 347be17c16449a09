// The parts of qp_gpu_check. Each gives a JSON object or array for the results file; an error is a std::runtime_error.
#pragma once

#include <nlohmann/json.hpp>

#include "kernels/bench/gpu/measure.h"

namespace quantplug::bench {

using Json = nlohmann::ordered_json;

/// Sizes for a GPU, or for a run in the shim, which shows that the program works.
struct Scale {
    bool shim = false;
    double copy_gb_per_s = 0;  // measured first: what shares are of
};

Json check_machine(Scale& scale);         // card, versions, copy and read bandwidth, launch gaps
Json sweep_products(const Scale& scale);  // GEMV by shape, bits and rows
Json sweep_prefill(const Scale& scale);   // decoded tiles + GEMM, cuBLAS and our own
Json sweep_attention(const Scale& scale);
Json run_models(const Scale& scale);  // decode and prefill of whole models, with and without graphs
Json compare_with_cpu(const Scale& scale);

}  // namespace quantplug::bench
