// One EXL2 matrix on disk: its five or six tensors, checked, and the group table read.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/checkpoint/folder.h"
#include "kernels/matrix.h"

namespace quantplug::exl2 {

/// A run of packed rows with one bit width.
struct Group {
    int32_t bits = 0;
    int64_t start = 0;  // first word row in q_weight
    int32_t row0 = 0, rows = 0;
};

/// The group table of a matrix of `k` rows in `word_rows` word rows. `where` names the tensor for messages.
/// Refused: widths other than 2, 3, 4, 5, 6, 8 or rising, starts that do not rise from 0, groups that do not fill whole
/// words or do not add up to k rows and word_rows words, rows that are no multiple of 32 (16 for 2 bits).
std::vector<Group> read_groups(std::span<const uint16_t> q_groups, int64_t word_rows, int64_t k,
                               const std::string& where);

/// The tensors of one matrix.
struct Layout {
    const engine::TensorInfo* q_weight = nullptr;     // I32 (R, N)
    const engine::TensorInfo* q_groups = nullptr;     // I16 (2G)
    const engine::TensorInfo* q_scale = nullptr;      // I32 (G, N/8)
    const engine::TensorInfo* q_scale_max = nullptr;  // F16 (G)
    const engine::TensorInfo* q_invperm = nullptr;    // I32 (K)
    const engine::TensorInfo* bias = nullptr;         // (N) or absent
    std::vector<Group> groups;
    int32_t k = 0, n = 0;  // n as stored: a multiple of 32
    uint64_t bytes = 0;
};

/// Finds and checks them. Reads q_groups, no weights. Errors name the tensor and its file.
Layout read_layout(const engine::ModelFolder& folder, const std::string& module, int32_t in_features,
                   int32_t out_features);

/// perm[packed row] = input row, from q_invperm[input row] = packed row. Empty where nothing moves. Refuses what is no
/// permutation.
std::vector<int32_t> read_perm(const engine::ModelFolder& folder, const Layout& layout);

/// "tensor model.x.q_groups in /models/a/output.safetensors".
std::string where(const engine::ModelFolder& folder, const engine::TensorInfo& tensor);

}  // namespace quantplug::exl2
