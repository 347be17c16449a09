// RoPE's angles, and what comes between the projection of q, k, v and attention: head norms, RoPE, the cache's append.
#include <cmath>
#include <string>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/kv.h"
#include "kernels/cuda/kv_launch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rope.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

constexpr uint32_t angle_threads = 128;
constexpr uint32_t append_threads = 128;
/// Rows of a block. With the 7 that may complete the last eight tokens, they are at most the 32 lanes of a warp.
constexpr int32_t append_rows = 24, most_rows = 32;

/// cosines, sines (rows, ld), FP32. One block a row, one thread a pair of dimensions: double precision costs nothing
/// that shows once a step, and positions of a million keep their angle.
QP_KERNEL QP_BOUNDS(angle_threads, 1)
    angles_kernel(QP_PARAM RopeTable rope, QP_PARAM StepView step, float* cosines, float* sines, int32_t ld) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const StepRow row = step.rows[blockIdx.x];
    const double length = double(row.length > row.position ? row.length : row.position + 1);
    const bool long_rule = rope.length_limit > 0 && length > rope.length_limit;
    const double dims = 2.0 * rope.half;
    double theta = 1;
    if (long_rule && !rope.long_inv_freq) {
        const double stretch = rope.factor * length / rope.length_limit - (rope.factor - 1);
        theta = rope.theta * pow(stretch, dims / (dims - 2));
    }
    for (int32_t t = int32_t(threadIdx.x); t < rope.half; t += int32_t(angle_threads)) {
        float frequency = rope.inv_freq[t];
        if (long_rule) frequency = rope.long_inv_freq ? rope.long_inv_freq[t] : float(pow(theta, -2 * t / dims));
        const double angle = double(row.position) * double(frequency);
        const int64_t at = int64_t(blockIdx.x) * ld + t;
        cosines[at] = float(cos(angle) * double(rope.scale));
        sines[at] = float(sin(angle) * double(rope.scale));
    }
}

/// strip (width) = head_dim values of qkv from `column` on, zeros behind them.
QP_DEVICE void load_strip(const AttentionLaunch& a, int32_t row, int32_t column, float* strip) {
    const float* x = a.qkv + int64_t(row) * a.qkv_ld + column;
    for (int32_t d = int32_t(threadIdx.x) % 32; d < a.kv.width; d += 32) strip[d] = d < a.kv.head_dim ? x[d] : 0.0f;
    sync_warp();
}

/// One row of q or k, a warp: norm, RoPE, back into qkv; a key into the cache too.
QP_DEVICE void turn_row(const AttentionLaunch& a, int32_t row, int32_t head, float* strip, uint32_t& saturated) {
    const int32_t lane = int32_t(threadIdx.x) % 32, dim = a.kv.head_dim;
    const bool is_key = head >= a.n_heads;
    load_strip(a, row, head * dim, strip);
    norm_head(is_key ? a.k_norm : a.q_norm, strip, dim, is_key ? head - a.n_heads : head, lane);
    rope_head(a.angles, row, strip, lane);
    float* x = a.qkv + int64_t(row) * a.qkv_ld + head * dim;
    for (int32_t d = lane; d < dim; d += 32) x[d] = strip[d];
    sync_warp();
    if (is_key) kv_append_key(a.kv, a.step.rows[row].slot, head - a.n_heads, strip, lane, saturated);
    sync_warp();
}

/// The values of dimension d of the n rows first .. first + n - 1 of a block, which belong to the same eight tokens, to
/// the cache: in one store where they are all eight.
QP_DEVICE void store_eight(const KvView& kv, uint8_t* to, int32_t d, const float* strips, int32_t pitch,
                           const int32_t* slots, int32_t n) {
    const int32_t offset = slots[0] % kv.block_tokens;
    if (n < 8) {
        for (int32_t i = 0; i < n; ++i) kv_put_value(kv, to, d, slots[i] % kv.block_tokens, strips[i * pitch + d]);
        return;
    }
    float x[8];
    QP_UNROLL for (int i = 0; i < 8; ++i) x[i] = strips[i * pitch + d];
    const int64_t eight = (int64_t(d) * kv.block_tokens + offset) / 8;
    if (kv.type == kv_f16) {
        reinterpret_cast<uint4*>(to)[eight] = {kv_key_word(kv_f16, x, 0), kv_key_word(kv_f16, x, 1),
                                               kv_key_word(kv_f16, x, 2), kv_key_word(kv_f16, x, 3)};
    } else if (kv.type == kv_q8) {
        reinterpret_cast<uint2*>(to)[eight] = {kv_key_word(kv_q8, x, 0), kv_key_word(kv_q8, x, 1)};
    } else {
        reinterpret_cast<uint32_t*>(to)[eight] = kv_key_word(kv_q4, x, 0);
    }
}

/// What append_values shares: of the block's rows the slot, of each eight tokens the first row.
struct ValueRows {
    int32_t slots[most_rows], first_rows[append_rows];
};

/// Values of a kv head: rows that share eight tokens of the cache belong to one block, the one that has the first of
/// them.
QP_DEVICE void append_values(const AttentionLaunch& a, int32_t head, ValueRows* rows, float* strips,
                             uint32_t& saturated) {
    const int32_t thread = int32_t(threadIdx.x), lane = thread % 32, warp = thread / 32, pitch = a.kv.width + 1;
    const int32_t base = a.first_row + int32_t(blockIdx.x) * append_rows, end = a.first_row + a.n_rows;
    // Every warp finds the block's rows: lane i looks at row base + i and the one before.
    const int32_t row = base + lane;
    const int32_t slot = row < end ? a.step.rows[row].slot : -1;
    const int32_t before = row > a.first_row && row <= end ? a.step.rows[row - 1].slot : -1;
    const bool joins = slot >= 0 && before >= 0 && slot / 8 == before / 8;
    const bool leads = slot >= 0 && !joins && lane < append_rows;
    const uint32_t leaders = warp_ballot(leads), joining = warp_ballot(joins);
    const int32_t n_leaders = int32_t(bit_count(leaders));
    int32_t begin = 0, stop = append_rows;
    while (begin < append_rows && (joining >> begin & 1)) ++begin;  // the block before has those
    while (stop < most_rows && (joining >> stop & 1)) ++stop;
    if (warp == 0) {
        rows->slots[lane] = slot;
        if (leads) rows->first_rows[int32_t(bit_count(leaders & ((uint32_t(1) << lane) - 1)))] = lane;
    }
    for (int32_t i = begin + warp; i < stop; i += int32_t(append_threads / 32)) {
        const int32_t at = base + i < end ? a.step.rows[base + i].slot : -1;
        if (at < 0) continue;
        float* strip = strips + i * pitch;
        const int32_t column = (a.n_heads + a.kv.n_kv_heads + head) * a.kv.head_dim;
        load_strip(a, base + i, column, strip);
        uint16_t* scale = kv_scale(a.kv, a.kv.value_scales, at / a.kv.block_tokens, head, at % a.kv.block_tokens);
        kv_encode(a.kv, strip, scale, a.kv.block_tokens, lane, saturated);
    }
    sync_block();
    for (int32_t i = thread; i < n_leaders * a.kv.width; i += int32_t(append_threads)) {
        // Neighbouring threads take neighbouring tokens: of f16 3 x 16 bytes in a row.
        const int32_t first = rows->first_rows[i % n_leaders], d = i / n_leaders;
        int32_t n = 1;
        while (first + n < stop && (joining >> (first + n) & 1)) ++n;
        uint8_t* to = kv_value_block(a.kv, rows->slots[first] / a.kv.block_tokens, head);
        store_eight(a.kv, to, d, strips + first * pitch, pitch, rows->slots + first, n);
    }
}

/// qkv (rows, ld) FP32: q and k in place; keys and values of live rows into the cache. Grid: blocks of append_rows
/// rows; heads of q (where they change), of k, of v. Rows of a sequence that share eight tokens of the cache follow
/// each other without a gap, in the order of their positions.
QP_KERNEL QP_BOUNDS(append_threads, 8) append_kernel(QP_PARAM AttentionLaunch a, int32_t first_head) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const int32_t head = first_head + int32_t(blockIdx.y), n_turned = a.n_heads + a.kv.n_kv_heads;
    unsigned char* shared = dynamic_shared();
    uint32_t saturated = 0;
    if (head >= n_turned) {
        append_values(a, head - n_turned, reinterpret_cast<ValueRows*>(shared),
                      reinterpret_cast<float*>(shared + sizeof(ValueRows)), saturated);
    } else {
        const int32_t warp = int32_t(threadIdx.x) / 32;
        float* strip = reinterpret_cast<float*>(shared) + warp * a.kv.width;
        const int32_t base = a.first_row + int32_t(blockIdx.x) * append_rows, end = a.first_row + a.n_rows;
        for (int32_t i = warp; i < append_rows && base + i < end; i += int32_t(append_threads / 32)) {
            if (a.step.rows[base + i].slot >= 0) turn_row(a, base + i, head, strip, saturated);
        }
    }
    if (a.saturation && saturated) atomic_add(&a.saturation->count, saturated);
}

}  // namespace
void rope_angles(Queue& queue, const RopeTable& rope, const StepView& step, int32_t rows, float* cosines, float* sines,
                 int32_t ld) {
    if (rows <= 0 || rope.half <= 0) return;
    if (ld < rope.half) {
        queue.keep(Status::error(internal, "rope_angles: rows of " + std::to_string(ld) + " angles are too short for " +
                                               std::to_string(rope.half)));
        return;
    }
    launch(queue, "rope_angles", angles_kernel, {uint32_t(rows)}, {angle_threads}, 0, rope, step, cosines, sines, ld);
}

void rope_append(Queue& queue, const AttentionLaunch& a) {
    if (a.n_rows <= 0) return;
    queue.keep(check_attention(a, "rope_append"));
    const bool turns_q = a.angles.half > 0 || a.q_norm.kind != norm_none;
    const int32_t first_head = turns_q ? 0 : a.n_heads, n_heads = a.n_heads + 2 * a.kv.n_kv_heads;
    const size_t shared = sizeof(ValueRows) + sizeof(float) * size_t(most_rows) * size_t(a.kv.width + 1);
    launch(queue, "rope_append", append_kernel,
           {ceil_div(uint64_t(a.n_rows), append_rows), uint32_t(n_heads - first_head)}, {append_threads}, shared, a,
           first_head);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
