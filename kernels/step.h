// What every device refuses before it computes: specs that do not fit their matrices, steps that leave their bounds.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/device.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

/// Sizes of plans saturate: an absurd shape plans "more than there is", it does not wrap.
inline uint64_t saturating_mul(uint64_t a, uint64_t b) {
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<uint64_t>::max() : product;
}
inline uint64_t saturating_add(uint64_t a, uint64_t b) {
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? std::numeric_limits<uint64_t>::max() : sum;
}
/// n of T as an int32 in planning: negative numbers count as none.
inline uint64_t count_of(int32_t n) { return n > 0 ? uint64_t(n) : 0; }
inline uint64_t round_up(uint64_t n, uint64_t unit) { return saturating_add(n, unit - 1) / unit * unit; }

constexpr int32_t max_head_dim = 1024;  // stack buffers of the attention
constexpr int32_t max_step_rows = 1 << 16;

/// What a handle stands for, for the checks.
class Handles {
 public:
    virtual bool matrix_size(Matrix matrix, int32_t* in_features,
                             int32_t* out_features) const = 0;  // false: no such matrix
    virtual bool vector_size(Vector vector, int32_t* size) const = 0;

 protected:
    ~Handles() = default;
};

/// The numbers alone: what a plan needs.
Status check_dimensions(const ModelSpec& spec);
/// Dimensions, and every handle's size.
Status check_model(const ModelSpec& spec, const Handles& handles);
Status check_kv(const ModelSpec& spec, const KvSpec& kv);
Status check_quant(const QuantSource& source);
Status check_dense(const DenseSource& source);

/// What a device keeps of the step submitted last, for the rows of the next one: chosen_before().
struct StepBefore {
    bool failed = true;                // or cancelled, or there was none
    std::vector<Wanted::What> wanted;  // of each
};

/// Notes a step that has succeeded: the ids of its argmaxes, by Wanted, for a device that has them in host memory.
void keep_chosen(const Step& step, const StepResult& result, StepBefore& before, std::vector<int32_t>& chosen);

/// Rows with the tokens of the step before in place of references to them; checked ones.
class KnownRows {
 public:
    std::span<const Row> fill(std::span<const Row> rows, std::span<const int32_t> chosen);

 private:
    std::vector<Row> rows_;
};

/// Rows, tokens, positions, the block table, what is wanted and its adjustments. `slots` is working space of the caller
/// (reserve max_rows + sequences). Without `before` no row may have a token of the step before.
Status check_step(const ModelSpec& spec, const Step& step, const KvSpec& kv, int32_t max_rows, int32_t max_wanted,
                  std::vector<int64_t>& slots, const StepBefore* before = nullptr);

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
