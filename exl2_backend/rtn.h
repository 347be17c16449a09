// EXL2 matrices by rounding to the nearest code, without calibration.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/tools/quantize.h"
#include "kernels/matrix.h"

namespace quantplug::exl2 {

/// Bit widths of runs of packed rows, and which input row each packed row is.
struct Plan {
    std::vector<kernels::QuantGroup> groups;  // widths fall; rows a multiple of 32 (16 for 2 bits)
    std::vector<int32_t> perm;                // (K) perm[packed row] = input row
};

/// Groups of one width, rows in order, the last group what is left.
Plan uniform_plan(int32_t k, int32_t bits, int32_t group_size);

/// The five tensors of a matrix, columns padded to a multiple of 32.
struct Packed {
    std::vector<uint32_t> q_weight;     // (R, N)
    std::vector<uint16_t> q_groups;     // (2G)
    std::vector<uint32_t> q_scale;      // (G, N/8)
    std::vector<uint16_t> q_scale_max;  // (G)
    std::vector<int32_t> q_invperm;     // (K)
};

/// Scale search and rounding of every group. The same result whatever the number of threads.
Packed round_to_nearest(const engine::WeightMatrix& weight, const Plan& plan,
                        const engine::MatrixProgress& progress = {});

/// The quantiser of one request: method rtn, bits and head_bits 2, 3, 4, 5, 6, 8, group_size 32, 64, 128.
std::unique_ptr<engine::MatrixQuantizer> make_quantizer(const engine::QuantizeRequest& request);

/// Its arguments as qp_tool_info::arguments has them.
const char* quantize_arguments();

}  // namespace quantplug::exl2
