// The candidates of a row: its largest logits after adjustments.
//
// A block selects the best n of its piece by bisection on ordered keys in registers, the last one those of all pieces,
// and then ranks them. Bisection, not a histogram: it stops as soon as a bound parts exactly n, after some 16 of 32
// rounds on real logits, and logits that crowd in a few bins cost no conflicts.
#include <cmath>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows_launch.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/sample_block.h"
#include "kernels/cuda/sample_launch.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

struct CandidateShared {
    SampleShared sums;
    alignas(16) uint32_t counts[2][piece_threads / 32];
    uint32_t n_taken;
    uint32_t keys[most_candidates];
    uint32_t tokens[most_candidates];
    alignas(16) float logits[piece_columns];  // of the piece, adjusted
};

/// Larger for larger logits; 0 for what is no candidate: NaN and -inf.
QP_DEVICE uint32_t candidate_key(float z) {
    const uint32_t bits = float_bits(z + 0.0f);  // -0 counts as 0
    return !(z > no_logit) ? 0u : bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

/// Sums over the block, one after another.
class BlockCount {
 public:
    QP_DEVICE explicit BlockCount(CandidateShared& shared) : shared_(shared) {}
    QP_DEVICE int32_t operator()(int32_t n) {
        uint32_t count = uint32_t(n);
        for (int mask = 16; mask > 0; mask >>= 1) count += shuffle_xor(count, mask);
        uint32_t* words = shared_.counts[turn_];
        turn_ ^= 1;  // two barriers lie between writing words twice
        if (threadIdx.x % 32 == 0) words[threadIdx.x / 32] = count;
        sync_block();
        count = 0;
        QP_UNROLL
        for (int32_t w = 0; w < piece_threads / 32; w += 4) {
            const uint4 four = load4(words + w);
            count += four.x + four.y + four.z + four.w;
        }
        return int32_t(count);
    }

 private:
    CandidateShared& shared_;
    int32_t turn_ = 0;
};

/// The set {key above `key`, or equal and token below `token`}.
struct Bound {
    uint32_t key, token;
};
QP_DEVICE bool inside(const Bound& bound, uint32_t key, uint32_t token) {
    return key > bound.key || (key == bound.key && token < bound.token);
}

/// The bound that parts the n best of the block's candidates, all where there are no more; ties to the lower token.
QP_DEVICE Bound bound_of_best(const uint32_t (&keys)[piece_values], const uint32_t (&tokens)[piece_values], int32_t n,
                              BlockCount& block_count) {
    const auto count_from = [&](uint32_t key) {
        int32_t count = 0;
        QP_UNROLL
        for (int32_t i = 0; i < piece_values; ++i) count += keys[i] >= key ? 1 : 0;
        return block_count(count);
    };
    int32_t n_from = count_from(1);
    if (n_from <= n) return {0, 0};
    uint32_t key = 0;  // the largest that n candidates reach
    for (uint32_t bit = 1u << 31; bit != 0 && n_from != n; bit >>= 1) {
        const int32_t count = count_from(key | bit);
        if (count < n) continue;
        key |= bit;
        n_from = count;
    }
    if (n_from == n) return {key - 1, 0};
    const int32_t n_ties = n - (key == UINT32_MAX ? 0 : count_from(key + 1));  // that are in
    uint32_t token = 0;
    for (uint32_t bit = 1u << 30; bit != 0; bit >>= 1) {
        int32_t count = 0;
        QP_UNROLL
        for (int32_t i = 0; i < piece_values; ++i) count += keys[i] == key && tokens[i] < (token | bit) ? 1 : 0;
        count = block_count(count);
        if (count <= n_ties) token |= bit;
        if (count == n_ties) break;
    }
    return {key, token};
}

/// The n best to shared.keys and shared.tokens, in any order; how many they are.
QP_DEVICE int32_t take_best(const uint32_t (&keys)[piece_values], const uint32_t (&tokens)[piece_values], int32_t n,
                            CandidateShared& shared) {
    if (threadIdx.x == 0) shared.n_taken = 0;
    BlockCount block_count(shared);
    const Bound bound = bound_of_best(keys, tokens, n, block_count);
    QP_UNROLL
    for (int32_t i = 0; i < piece_values; ++i) {
        if (!inside(bound, keys[i], tokens[i])) continue;
        const uint32_t place = atomic_add(&shared.n_taken, 1);
        shared.keys[place] = keys[i];
        shared.tokens[place] = tokens[i];
    }
    sync_block();
    return int32_t(shared.n_taken);
}

struct CandidateArguments {
    RowIn logits;
    int32_t n_vocab = 0, n_sampled = 0, n_candidates = 0;
    const StepHeader* header = nullptr;
    const StepWanted* wanted = nullptr;
    const AdjustRecord* adjusts = nullptr;
    RowAnswer* answers = nullptr;
    CandidateRecord* candidates = nullptr;
    float* partials = nullptr;
    uint32_t* counters = nullptr;
};

/// The piece's logits, adjusted, in the threads' hands.
QP_DEVICE void load_adjusted(const CandidateArguments& a, int32_t row, int32_t column0, CandidateShared& shared,
                             float (&z)[piece_values]) {
    const float* logits = a.logits.x + row * a.logits.ld;
    QP_UNROLL
    for (int32_t i = 0; i < piece_values; i += 4)
        store_four(shared.logits, piece_column(i), piece_columns, true,
                   load_four(logits, column0 + piece_column(i), a.n_sampled, a.logits.wide));
    sync_block();
    const StepWanted wanted = a.wanted[row];
    for (int32_t i = int32_t(threadIdx.x); i < wanted.n_adjusts; i += piece_threads) {
        const AdjustRecord adjust = a.adjusts[wanted.first_adjust + i];
        const int32_t at = adjust.token - column0;
        if (at < 0 || at >= piece_columns) continue;
        const float before = shared.logits[at];
        const float repeated = before > 0.0f ? div_rn(before, adjust.repeat) : mul_rn(before, adjust.repeat);
        shared.logits[at] = add_rn(repeated, adjust.add);
    }
    sync_block();
    QP_UNROLL
    for (int32_t i = 0; i < piece_values; ++i) z[i] = shared.logits[piece_column(i)];
}

/// The best of all pieces' lists of n, a block's registers full at a time.
QP_DEVICE int32_t merge_lists(const uint32_t* list_keys, const uint32_t* list_tokens, int32_t n_listed, int32_t n,
                              CandidateShared& shared) {
    uint32_t keys[piece_values], tokens[piece_values];
    int32_t n_kept = 0;
    for (int32_t done = 0; done < n_listed;) {
        QP_UNROLL
        for (int32_t i = 0; i < piece_values; ++i) {
            const int32_t at = i * piece_threads + int32_t(threadIdx.x), from = done + at - n_kept;
            keys[i] = at < n_kept ? shared.keys[at] : from < n_listed ? list_keys[from] : 0u;
            tokens[i] = at < n_kept ? shared.tokens[at] : from < n_listed ? list_tokens[from] : 0u;
        }
        done += piece_columns - n_kept;
        sync_block();
        n_kept = take_best(keys, tokens, n, shared);
    }
    return n_kept;
}

// Candidates and adjusted_log_sum_exp of logits (rows, ld) FP32: grid (pieces, rows), blocks of 512 threads. Rows
// beyond n_wanted are left alone. n_candidates <= 256.
QP_KERNEL QP_BOUNDS(512, 1) candidates_kernel(QP_PARAM CandidateArguments a) {
    let_next_kernel_start();
    wait_for_earlier_kernels();
    CandidateShared& shared = *reinterpret_cast<CandidateShared*>(dynamic_shared());
    const int32_t row = int32_t(blockIdx.y), piece = int32_t(blockIdx.x), n_blocks = int32_t(gridDim.x);
    const int32_t n = a.n_candidates, thread = int32_t(threadIdx.x), column0 = piece * piece_columns;
    if (row >= a.header->n_wanted) return;
    float* pieces = a.partials + int64_t(row) * n_blocks * piece_floats;
    uint32_t* list_keys = reinterpret_cast<uint32_t*>(pieces + n_blocks * 4);
    uint32_t* list_tokens = list_keys + n_blocks * n;
    {
        float z[piece_values];
        load_adjusted(a, row, column0, shared, z);
        const PieceSum sum = sum_piece(z, column0, a.n_sampled, shared.sums);
        if (thread == 0) store_piece(pieces, piece, sum);
        uint32_t keys[piece_values], tokens[piece_values];
        QP_UNROLL
        for (int32_t i = 0; i < piece_values; ++i) {
            tokens[i] = uint32_t(column0 + piece_column(i));
            keys[i] = int32_t(tokens[i]) < a.n_sampled ? candidate_key(z[i]) : 0u;
        }
        const int32_t n_taken = take_best(keys, tokens, n, shared);
        if (thread < n) {
            list_keys[piece * n + thread] = thread < n_taken ? shared.keys[thread] : 0u;
            list_tokens[piece * n + thread] = thread < n_taken ? shared.tokens[thread] : 0u;
        }
    }
    if (!last_arriver(a.counters + row, uint32_t(n_blocks), &shared.sums.flag)) return;

    const RowSum sum = join_pieces(pieces, n_blocks, shared.sums);
    if (thread == 0) {
        const float largest = sum.best.value;
        a.answers[row].adjusted_log_sum_exp = largest == no_logit ? no_logit : float(double(largest) + sum.log_sum);
    }
    const int32_t n_kept = merge_lists(list_keys, list_tokens, n_blocks * n, n, shared);
    if (thread >= n) return;
    CandidateRecord* out = a.candidates + int64_t(row) * n;
    if (thread >= n_kept) {
        out[thread] = {-1, 0.0f};
        return;
    }
    const uint32_t key = shared.keys[thread], token = shared.tokens[thread];
    int32_t rank = 0;
    for (int32_t i = 0; i < n_kept; ++i) rank += inside({key, token}, shared.keys[i], shared.tokens[i]) ? 1 : 0;
    out[rank] = {int32_t(token), a.logits.x[row * a.logits.ld + token]};
}

}  // namespace

void emit_candidates(Queue& queue, const CandidateLaunch& l) {
    if (l.emit.n <= 0 || l.n_candidates <= 0) return;
    const Status fits = check_emission("emit_candidates", l.emit);
    if (!fits.ok()) return queue.keep(fits);
    if (l.n_candidates > most_candidates || l.n_sampled < 1 || l.n_sampled > l.emit.n_vocab)
        return queue.keep(refuse_rows(
            "emit_candidates", std::to_string(l.n_candidates) + " candidates among " + std::to_string(l.n_sampled) +
                                   " of " + std::to_string(l.emit.n_vocab) + " ids; up to 256 can be taken"));
    CandidateArguments a;
    a.logits = row_in(l.emit.logits);
    a.n_vocab = l.emit.n_vocab;
    a.n_sampled = l.n_sampled;
    a.n_candidates = l.n_candidates;
    a.header = l.emit.step.header;
    a.wanted = l.emit.step.wanted;
    a.adjusts = l.adjusts;
    a.answers = l.emit.answers;
    a.candidates = l.candidates;
    a.partials = l.emit.partials;
    a.counters = l.emit.counters;
    launch(queue, "emit_candidates", candidates_kernel, {uint32_t(n_pieces(l.emit.n_vocab)), uint32_t(l.emit.n)},
           {uint32_t(piece_threads)}, sizeof(CandidateShared), a);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
