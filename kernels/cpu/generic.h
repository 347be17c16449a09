// Row-wise functions of a Table that every instruction set compiles from this one source. Included by one .cpp per
// instruction set, which defines from_half and to_half, static and in this namespace.
// Only static functions and no std:: functions: what is compiled for one instruction set must not be linked into
// another's.
#pragma once

#include "kernels/cpu/attention.h"
#include "kernels/cpu/rows.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

// A chunk's code: amax over 32 values, x = round(a * 32385 / amax), ties to even. 32385 = 127.5 * 254, so that x = 254
// hi + lo with both within +-127 where an instruction set multiplies bytes. A chunk with a NaN or an infinity has the
// scale NaN; one below 2^-100 is zero.
inline void quantize_chunk(const float* values, int16_t* q, float* scale, int32_t* sum) {
    uint32_t largest = 0;
    for (int32_t i = 0; i < chunk_rows; ++i) {
        const uint32_t magnitude = as_bits(values[i]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
    }
    if (largest >= 0x7f800000u || largest < 0x0d800000u) {
        for (int32_t i = 0; i < chunk_rows; ++i) q[i] = 0;
        *scale = largest >= 0x7f800000u ? __builtin_nanf("") : 0.0f;
        *sum = 0;
        return;
    }
    const float amax = as_float(largest), factor = 32385.0f / amax, magic = 0x1.8p23f;
    int32_t total = 0;
    for (int32_t i = 0; i < chunk_rows; ++i) {
        const int32_t x =
            int32_t(as_bits(values[i] * factor + magic)) - int32_t(as_bits(magic));  // values * factor within +-32386
        q[i] = int16_t(x);
        total += x;
    }
    *scale = amax / 32385.0f;
    *sum = total;
}

inline void sort_chunk(const float* x, const int32_t* gather, int32_t k, int32_t chunk, float* values) {
    const int32_t row0 = chunk * chunk_rows;
    if (gather) {
        for (int32_t i = 0; i < chunk_rows; ++i) {
            const int32_t from = gather[row0 + i];
            values[i] = from < 0 ? 0.0f : x[from];
        }
    } else {
        const int32_t n = k - row0 < chunk_rows ? k - row0 : chunk_rows;
        for (int32_t i = 0; i < n; ++i) values[i] = x[row0 + i];
        for (int32_t i = n; i < chunk_rows; ++i) values[i] = 0.0f;
    }
}

void quantize(const float* x, const int32_t* gather, int32_t k, int32_t chunks, int32_t rows, int16_t* q, float* scale,
              int32_t* sum) {
    float values[chunk_rows];
    for (int32_t c = 0; c < chunks; ++c) {
        const int64_t at = int64_t(c) * rows;
        sort_chunk(x, gather, k, c, values);
        quantize_chunk(values, q + at * chunk_rows, scale + at, sum + at);
    }
}

void sort_values(const float* x, const int32_t* gather, int32_t k, int32_t chunks, int32_t rows, float* value) {
    for (int32_t c = 0; c < chunks; ++c) sort_chunk(x, gather, k, c, value + int64_t(c) * rows * chunk_rows);
}

void log_sum(const float* logits, int32_t n, int32_t* argmax, double* result) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; ++i) best = logits[i] > logits[best] ? i : best;
    const float largest = logits[best];
    double lane[16] = {};
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int32_t j = 0; j < 16; ++j) lane[j] += double(exp_f32(logits[i + j] - largest));
    }
    for (int32_t j = 0; i + j < n; ++j) lane[j] += double(exp_f32(logits[i + j] - largest));
    for (int32_t step = 8; step > 0; step /= 2) {
        for (int32_t j = 0; j < step; ++j) lane[j] += lane[j + step];
    }
    *argmax = best;
    *result = double(largest) + log_f64(lane[0]);
}

// A table of what is compiled from here; the instruction set adds its products.
constexpr Table generic_table(const char* name) {
    Table table{};
    table.name = name;
    table.quantize = quantize;
    table.sort_values = sort_values;
    table.rms_norm = rms_norm;
    table.layer_norm = layer_norm;
    table.rotate = rotate;
    table.gated = gated;
    table.cap = cap;
    table.to_half = to_half;
    table.from_half = from_half;
    table.hadamard = hadamard;
    table.store_head = store_head;
    table.attend = attend;
    table.log_sum = log_sum;
    return table;
}

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
