// What the launchers of attention and of the append refuse.
#pragma once

#include <string>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/kv.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

inline Status check_attention(const AttentionLaunch& launch, const char* kernel) {
    const KvView& kv = launch.kv;
    const auto bad = [&](const char* what, int64_t value, const char* need) {
        return Status::error(unimplemented, std::string(kernel) + ": " + what + " is " + std::to_string(value) +
                                                ", and it must be " + need);
    };
    if (kv.type < kv_f16 || kv.type > kv_q4) return bad("the cache's type", kv.type, "f16, q8 or q4");
    if (kv.head_dim < 2 || kv.head_dim > 256 || kv.head_dim % 2)
        return bad("head_dim", kv.head_dim, "even and at most 256");
    if (kv.type == kv_q4 && kv.head_dim % kv_group)
        return bad("head_dim", kv.head_dim, "a multiple of 32 with a q4 cache");
    if (kv.width != (kv.head_dim + 31) / 32 * 32)
        return bad("the cache's width", kv.width, "head_dim to the next multiple of 32");
    if (kv.block_tokens < 32 || kv.block_tokens % 32) return bad("block_tokens", kv.block_tokens, "a multiple of 32");
    if (kv.n_kv_heads < 1 || launch.n_heads < 1 || launch.n_heads % kv.n_kv_heads)
        return bad("the number of heads", launch.n_heads, "a multiple of that of kv heads");
    if (2 * launch.angles.half > kv.head_dim)
        return bad("half of the rotary dimensions", launch.angles.half, "at most half of head_dim");
    if (launch.packed.x && (!launch.order.scatter || launch.packed.exponent < -126 || launch.packed.exponent > 126))
        return bad("the packed operand's exponent", launch.packed.exponent, "within +-126, and its order there");
    return {};
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
