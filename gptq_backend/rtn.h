// GPTQ matrices by rounding to the nearest code, without calibration.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/tools/quantize.h"

namespace quantplug::gptq {

struct RtnOptions {
    int32_t bits = 4;          // 2, 3, 4, 8
    int32_t group_size = 128;  // -1: all rows
    bool sym = true;
};

/// The tensors of a matrix, zero points as v1 stores them, g_idx in order.
struct Packed {
    std::vector<uint32_t> qweight;  // (K*bits/32, N)
    std::vector<uint32_t> qzeros;   // (G, N*bits/32)
    std::vector<uint16_t> scales;   // (G, N) FP16 bits
    std::vector<int32_t> g_idx;     // (K)
};

/// Per group and column: lo = min(0, min w), hi = max(0, max w), widened to -max|w| .. max|w| if symmetric; scale = (hi
/// - lo) / (2^bits - 1); zero = 2^(bits-1) or round(-lo / scale), kept within 1 .. 2^bits-1 because v1 cannot store 0;
/// code = round(w / scale) + zero, clamped. K and N must be multiples of 32. The same result whatever the number of
/// threads.
Packed round_to_nearest(const engine::WeightMatrix& weight, const RtnOptions& options,
                        const engine::MatrixProgress& progress = {});

/// The quantiser of one request: method rtn, bits 2, 3, 4, 8, group_size 32, 64, 128, -1.
std::unique_ptr<engine::MatrixQuantizer> make_quantizer(const engine::QuantizeRequest& request);

/// Its arguments as qp_tool_info::arguments has them.
const char* quantize_arguments();

}  // namespace quantplug::gptq
