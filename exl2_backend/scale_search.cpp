#include "exl2_backend/scale_search.h"

#include <algorithm>
#include <cmath>

#include "kernels/half.h"

namespace quantplug::exl2 {

namespace {

// Adding and subtracting 1.5 * 2^23 rounds |v| < 2^22 to an integer, half to even; unlike std::rint it needs no SSE4.1
// to be vectorised.
constexpr float round_bias = 12582912.0f;

float round_even(float v) { return (v + round_bias) - round_bias; }

}  // namespace

ScaleGrid make_grid(std::span<const float> maxima, int32_t bits) {
    const float half_range = float((1 << bits) - 1) / 2.0f;
    ScaleGrid grid;
    grid.bits = bits;
    grid.steps.resize(maxima.size());
    grid.codes.resize(maxima.size());
    for (size_t n = 0; n < maxima.size(); ++n) {
        grid.steps[n] = (maxima[n] + 1e-12f) / half_range;
        grid.largest = std::max(grid.largest, grid.steps[n]);
    }
    for (size_t n = 0; n < maxima.size(); ++n) {
        const float code = std::clamp(round_even(16.0f * std::sqrt(grid.steps[n] / grid.largest)), 1.0f, 16.0f);
        grid.codes[n] = uint8_t(code);
        grid.steps[n] = (code / 16.0f) * (code / 16.0f) * grid.largest;
    }
    return grid;
}

float grid_factor(int32_t i) {
    const float share = float(i) / 96.0f;
    return 0.7f * (1.0f - share) + 1.2f * share;
}

void add_errors(const float* x, int32_t rows, const float* steps, float largest, int32_t bits,
                std::array<double, grid_size>& errors) {
    // A power of two changes no rounding but that of subnormals, where the search does not matter.
    const float unit = std::exp2(float(-std::clamp(std::ilogb(largest), -100, 100)));
    const float low = float(-(1 << (bits - 1))), high = float((1 << (bits - 1)) - 1);
    for (int32_t i = 0; i < grid_size; ++i) {
        const float factor = grid_factor(i);
        float scale[tile_columns], sum[tile_columns];
        for (int32_t c = 0; c < tile_columns; ++c) {
            scale[c] = steps[c] * factor;
            sum[c] = 0;
        }
        for (int32_t r = 0; r < rows; ++r) {
            const float* row = x + r * tile_columns;
            for (int32_t c = 0; c < tile_columns; ++c) {
                float v = row[c] / scale[c];
                v = v < low ? low : v;
                v = v > high ? high : v;
                const float error = std::fabs(round_even(v) * scale[c] - row[c]) * unit;
                sum[c] += error * error * error * std::sqrt(error);
            }
        }
        double total = 0;
        for (int32_t c = 0; c < tile_columns; ++c) total += double(sum[c]);
        errors[size_t(i)] += total;
    }
}

GroupScales choose_scales(const ScaleGrid& grid, const std::array<double, grid_size>& errors) {
    GroupScales out;
    out.best = int32_t(std::min_element(errors.begin(), errors.end()) - errors.begin());
    out.maximum = grid.largest * grid_factor(out.best);
    out.stored_maximum = kernels::f32_to_f16(out.maximum);
    const float unit = kernels::f16_to_f32(kernels::f32_to_f16(kernels::f16_to_f32(out.stored_maximum) / 256.0f));
    out.scales.resize(grid.codes.size());
    for (size_t n = 0; n < grid.codes.size(); ++n)
        out.scales[n] = kernels::f32_to_f16(float(int32_t(grid.codes[n]) * int32_t(grid.codes[n])) * unit);
    return out;
}

uint8_t round_to_code(float x, float scale, int32_t bits) {
    const float middle = float(1 << (bits - 1));
    if (scale == 0.0f) return uint8_t(middle);
    return uint8_t(round_even(std::clamp(x / scale, -middle, middle - 1.0f)) + middle);
}

}  // namespace quantplug::exl2
