// From logits to what a step is asked for, so that no row of logits crosses the bus unless it is wanted.
#pragma once

#include "kernels/cuda/rows.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/views.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

constexpr int32_t most_candidates = 256;  // kernels::max_candidates

/// out[i] = x[wanted[i].row], i < n
void select_rows(Queue& queue, RowsView x, const StepView& step, int32_t width, int32_t n, RowsView out);
/// z = softcap * tanh(scale * z / softcap), or scale * z
void cap_logits(Queue& queue, RowsView logits, int32_t width, float scale, float softcap, int32_t n);

/// Of one wanted row, all of the logits as they are.
struct RowAnswer {
    int32_t best = 0;                // the first of the largest
    float best_logprob = 0;          // natural logs of the softmax
    float token_logprob = 0;         // of StepWanted::token
    float log_sum_exp = 0;           // ln sum exp(z)
    float adjusted_log_sum_exp = 0;  // of the adjusted logits; emit_candidates
};
/// NaN is never the best; where nothing is above -infinity, best is 0 and the logarithms are NaN, as they are where a
/// logit is NaN or +infinity. Rows beyond n_wanted get chosen = 0 and no answer.
struct EmitLaunch {
    RowsView logits;  // (n, n_vocab)
    int32_t n_vocab = 0, n = 0;
    StepView step;
    RowAnswer* answers = nullptr;  // (n)
    int32_t* chosen = nullptr;     // (n): answers[i].best, for the next step's rows
    float* partials = nullptr;     // emit_workspace_floats, aligned to 16 bytes; serves emit_candidates too
    uint32_t* counters = nullptr;  // (n), zeros before and after
};
uint64_t emit_workspace_floats(int32_t n, int32_t n_vocab);
void emit(Queue& queue, const EmitLaunch& launch);

/// kernels::Adjust of a step, in device memory.
struct AdjustRecord {
    int32_t token;
    float repeat, add;
};
struct CandidateRecord {
    int32_t token;
    float logit;  // as computed, without adjustments
};
/// The n_candidates tokens below n_sampled with the largest adjusted logits z' = (z > 0 ? z / repeat : z * repeat) +
/// add, by falling z', ties to the lower id; fewer where fewer are above -infinity: the rest has token -1. Sets
/// answers[i].adjusted_log_sum_exp, over tokens below n_sampled (-infinity where nothing is above it). A token stands
/// in one record of a row at most. The rest of an answer is emit's.
struct CandidateLaunch {
    EmitLaunch emit;
    const AdjustRecord* adjusts = nullptr;
    int32_t n_candidates = 0, n_sampled = 0;
    CandidateRecord* candidates = nullptr;  // (n, n_candidates)
};
void emit_candidates(Queue& queue, const CandidateLaunch& launch);

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
