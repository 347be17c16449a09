// The scales of one group as the EXL2 converter chooses them: 4-bit scale codes by the columns' largest weights, and
// one factor for the whole group out of a grid of 97, by the sum of |error|^3.5.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace quantplug::exl2 {

constexpr int32_t grid_size = 97;
constexpr int32_t tile_columns = 64;

/// What the columns' maxima decide.
struct ScaleGrid {
    int32_t bits = 0;
    float largest = 0;           // M: the largest unsearched scale
    std::vector<uint8_t> codes;  // (n) 1 .. 16; the scale is (code/16)^2 M p
    std::vector<float> steps;    // (n) (code/16)^2 M
};

/// `maxima`: max |x| of every column.
ScaleGrid make_grid(std::span<const float> maxima, int32_t bits);

/// Adds the error sums of up to 64 columns to `errors`: x (rows, 64), `steps` (64) of these columns; columns that are
/// not there have x 0 and any step. The sums are in units of largest^3.5 (to a power of two), so that small weights do
/// not underflow.
void add_errors(const float* x, int32_t rows, const float* steps, float largest, int32_t bits,
                std::array<double, grid_size>& errors);

/// Factor p of grid point i: 0.7 .. 1.2.
float grid_factor(int32_t i);

struct GroupScales {
    int32_t best = 0;              // grid point: the first of the smallest sums
    float maximum = 0;             // M p
    uint16_t stored_maximum = 0;   // as FP16: q_scale_max
    std::vector<uint16_t> scales;  // (n) FP16 bits, as a reader computes them
};

/// Chooses the grid point. `stored_maximum` is infinite where the weights are too large for the format.
GroupScales choose_scales(const ScaleGrid& grid, const std::array<double, grid_size>& errors);

/// Code of weight x with scale s (both FP32): round half to even, clamped; 2^(bits-1) where the scale is 0.
uint8_t round_to_code(float x, float scale, int32_t bits);

}  // namespace quantplug::exl2
