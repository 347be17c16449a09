// One instruction set of the CPU: a table of functions. Another instruction set is one more file with one more table.
//
// All tables give the same bits: integer sums are exact, floating-point sums have one written order, products are
// rounded before they are added. Layouts: layout.h. Strides ("ld") are in elements.
#pragma once

#include <cstdint>

#include "kernels/activation.h"
#include "kernels/cpu/layout.h"
#include "kernels/store.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {

enum class KvType : uint8_t { f32, f16, q8, q4 };  // as KvSpec::Type

/// The keys or values of one layer and one KV head, by blocks of tokens. A block: block_tokens rows of row_bytes, then
/// for q8 and q4 row_scales FP16 scales for each of them. q4:
/// value i in the low half of byte i, value head_dim/2 + i in the high one, codes 0..15 for -8..7, a scale for 32.
struct KvView {
    uint8_t *keys, *values;  // block b at keys + b * block_stride
    const int32_t* blocks;   // of the sequence
    uint64_t block_stride;   // bytes
    int32_t block_tokens, head_dim, row_bytes, row_scales;
    KvType type;
};

/// s = scale * q.k; where softcap is not 0 then softcap * tanh(s / softcap); where there are slopes (of each query
/// head) + slope * (key - query).
struct ScoreRule {
    float scale, softcap;
    const float* slopes;
};

enum class Arithmetic : uint8_t { int8, int16, fp32 };

struct Table {
    const char* name;

    /// x (K) -> one of `rows` rows of an ActView; gather (32 * chunks): the input of each sorted row, -1 = padding;
    /// null = in order, padded at the end. The pointers are those of the row's first chunk.
    void (*quantize)(const float* x, const int32_t* gather, int32_t k, int32_t chunks, int32_t rows, int16_t* q,
                     float* scale, int32_t* sum);
    void (*sort_values)(const float* x, const int32_t* gather, int32_t k, int32_t chunks, int32_t rows, float* value);

    /// out (rows, ld): columns 16*tile0 .. of tiles tile0 .. tile1-1, x W + bias. Standard and exact compute.
    void (*product)(const QuantView& w, const ActView& x, int32_t rows, int32_t tile0, int32_t tile1, float* out,
                    int64_t ld, Store store);
    void (*product_exact)(const QuantView& w, const ActView& x, int32_t rows, int32_t tile0, int32_t tile1, float* out,
                          int64_t ld, Store store);
    /// Columns n0 .. n1-1 of x W + bias; x (rows, ldx).
    void (*dense)(const DenseView& w, const float* x, int64_t ldx, int32_t rows, int32_t n0, int32_t n1, float* out,
                  int64_t ld, Store store);

    /// out = weight * x / sqrt(mean(x^2) + eps); may be in place.
    void (*rms_norm)(const float* x, const float* weight, int32_t n, float eps, float* out);
    /// out = weight * (x - mean) / sqrt(variance + eps) + bias; a null weight or bias is 1 or 0; may be in place.
    void (*layer_norm)(const float* x, const float* weight, const float* bias, int32_t n, float eps, float* out);
    /// Pairs (t, t + half) of one head, or (2t, 2t+1) where interleaved: x (2 * half), in place.
    void (*rotate)(float* x, const float* cosine, const float* sine, int32_t half, bool interleaved);
    /// gate = activation(gate) * up; without `up` where that is null.
    void (*gated)(Activation activation, float* gate, const float* up, int32_t n);
    /// x = x * scale, then where softcap is not 0 softcap * tanh(x / softcap).
    void (*cap)(float* x, int32_t n, float scale, float softcap);
    void (*to_half)(const float* x, int32_t n, uint16_t* out);  // saturates at +-65504
    void (*from_half)(const uint16_t* x, int32_t n, float* out);

    /// Multiplies x (n) by the normalised Hadamard matrix of the largest power of two that divides n, block by block;
    /// in place, its own inverse. q8 and q4 caches hold rotated heads.
    void (*hadamard)(float* x, int32_t n);
    /// One token's key and value (head_dim each) into the cache; rotates them itself where the type asks for it.
    void (*store_head)(const KvView& kv, int32_t position, const float* key, const float* value);
    /// n_heads queries (n_heads, head_dim) of one token, at position `last`, against keys first .. last of their KV
    /// head; out (n_heads, head_dim). q and out are rotated where the cache is. scores (n_heads, last - first + 1):
    /// working space.
    void (*attend)(const KvView& kv, const ScoreRule& rule, const float* q, int32_t n_heads, int32_t first,
                   int32_t last, float* scores, float* out);

    /// The largest logit (ties: the lowest index) and ln(sum(exp(logits))).
    void (*log_sum)(const float* logits, int32_t n, int32_t* argmax, double* log_sum);

    /// Independent multiply-adds from registers, for measuring the peak; the operations done, two a multiply-add.
    double (*multiply_add)(Arithmetic kind, int64_t turns);
};

const Table& portable_table();
#if defined(__x86_64__)
// Only where the processor has them: AVX2 and F16C; those and AVX-VNNI; AVX-512 F, BW, DQ, VL and VNNI.
const Table& avx2_table();
const Table& avxvnni_table();
const Table& avx512vnni_table();
const Table& avxvnni_evex_table();  // avxvnni's source in AVX-512's encoding, for tests: chosen by its name only
#endif

/// The table that QUANTPLUG_CPU names, or the machine's best; null and a sentence in `error` where it cannot be had.
QP_KERNELS_API const Table* choose_table(const char* name, const char** error);

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
