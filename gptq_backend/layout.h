// One GPTQ matrix on disk: its tensors, checked, and what their shapes say.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/checkpoint/folder.h"
#include "gptq_backend/config.h"
#include "kernels/matrix.h"

namespace quantplug::gptq {

struct Layout {
    const engine::TensorInfo* qweight = nullptr;  // I32 (ceil(K*bits/32), N)
    const engine::TensorInfo* qzeros = nullptr;   // I32 (G, ceil(N*bits/32))
    const engine::TensorInfo* scales = nullptr;   // F16, BF16 or F32 (G, N)
    const engine::TensorInfo* g_idx = nullptr;    // I32 (K), or absent
    const engine::TensorInfo* bias = nullptr;     // (N), or absent
    int32_t bits = 0;
    bool planar = false;  // bit planes: 5, 6, 7 bits always, 3 bits under gptq_p
    int32_t k = 0, n = 0, n_groups = 0;
    uint64_t bytes = 0;
};

/// Finds and checks them, from headers alone. Errors name the tensor and its file.
Layout read_layout(const engine::ModelFolder& folder, const Config& config, const std::string& module,
                   int32_t in_features, int32_t out_features);

/// The rows in the order of their groups.
struct RowOrder {
    std::vector<int32_t> perm;                // (K) perm[sorted row] = input row; empty = identity
    std::vector<kernels::QuantGroup> groups;  // groups without rows are left out
    std::vector<int32_t> stored_group;        // (groups) index into scales and qzeros
};

/// From g_idx: rows sorted by group, in input order within one. Without g_idx, or where it is all zero though there are
/// several groups, rows are in order. Negative values count from the end; what is out of range is refused.
RowOrder read_row_order(const engine::ModelFolder& folder, const Config& config, const Layout& layout);

/// "tensor model.x.qweight in /models/a/model.safetensors".
std::string where(const engine::ModelFolder& folder, const engine::TensorInfo& tensor);

}  // namespace quantplug::gptq
