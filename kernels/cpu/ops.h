// The block ops on the CPU: the primitives, and the blocks that are fused.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/pack.h"
#include "kernels/cpu/table.h"
#include "kernels/ops.h"
#include "kernels/threads/pool.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {

constexpr int32_t wanted_block = 32;  // rows of logits that lie in the scratch at once
constexpr int32_t parallel_rows = 8;  // fewer are done faster by the calling thread than by waking others

/// Where everything lies in the scratch, from the spec's numbers alone.
struct ScratchPlan {
    struct Part {
        uint64_t offset = 0;
        int64_t ld = 0;  // floats
    };
    Part slots[size_t(Slot::count)];
    uint64_t angles = 0, angles_ld = 0;  // per rope and row: cosines, then sines, angles_ld floats each
    uint64_t activations = 0, activation_bytes = 0;
    uint64_t scores = 0, scores_ld = 0;  // per thread
    uint64_t expert_rows = 0;            // int32: the rows that chose the experts at work
    int64_t rows = 0;                    // of the slots
    uint64_t total = 0;

    ScratchPlan() = default;
    ScratchPlan(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted, int32_t threads);
};

/// Bytes of one prepared row of K'.
inline uint64_t activation_row_bytes(uint64_t chunks, bool exact) {
    return exact ? chunks * chunk_rows * 4 : chunks * (chunk_rows * 2 + 8);
}

/// What one token and head takes in the cache, for keys and again for values.
struct KvRow {
    uint64_t bytes, scales;  // of codes or values; FP16 scales

    KvRow(KvSpec::Type type, uint64_t head_dim)
        : bytes(type == KvSpec::f32   ? head_dim * 4
                : type == KvSpec::f16 ? head_dim * 2
                : type == KvSpec::q8  ? head_dim
                                      : head_dim / 2),
          scales(type == KvSpec::q8   ? 1
                 : type == KvSpec::q4 ? head_dim / 32
                                      : 0) {}
    uint64_t total() const { return bytes + 2 * scales; }
};

/// (layer, keys | values, block, kv_head), each block_tokens rows as KvView says.
struct KvCache {
    Mapping memory;
    KvSpec spec;
    int32_t n_layers = 0, n_kv_heads = 0, head_dim = 0;
    uint64_t bytes = 0;
};

struct FloatVector {
    const float* data = nullptr;
    int32_t size = 0;
};

/// The index-th of `count` equal parts of 0 .. total-1 begins here.
inline int64_t cut(int64_t total, int32_t index, int32_t count) { return int64_t(__int128(total) * index / count); }

/// Cuts a sequence of jobs, each of equal units, for one thread: a unit belongs to the thread in whose part of the
/// whole cost it begins.
class Share {
 public:
    Share(int64_t cost, int32_t index, int32_t count)
        : begin_(cut(cost, index, count)), end_(cut(cost, index + 1, count)) {}

    struct Units {
        int32_t first, last;  // first .. last-1
    };
    /// Of the next job.
    Units next(int64_t unit_cost, int32_t n_units) {
        const auto unit_at = [&](int64_t at) {
            return at <= base_ ? 0 : int32_t(std::min<int64_t>((at - base_ + unit_cost - 1) / unit_cost, n_units));
        };
        const Units units = {unit_at(begin_), unit_at(end_)};
        base_ += unit_cost * n_units;
        return units;
    }

 private:
    const int64_t begin_, end_;
    int64_t base_ = 0;  // cost of the jobs before
};

class CpuOps final : public BlockOps {
 public:
    CpuOps(const Table& table, int32_t threads) : table_(table), threads_(threads) {}

    // What the handles stand for; owned by the device. Index 0 is absent.
    std::vector<PackedMatrix> matrices{1};
    std::vector<FloatVector> vectors{1};

    void set_scratch(const ScratchPlan& plan, uint8_t* memory) {
        plan_ = plan;
        scratch_ = memory;
    }
    void begin_step(const ModelSpec& spec, const Step& step, const KvCache& kv, StepResult* result);

 private:
    // embed_head.cpp
    void load_hidden(Slot out) override;
    void store_hidden(Slot x) override;
    void embed_rows(Matrix embedding, float scale, Slot out) override;
    void add_positions(Matrix table, int32_t offset, Slot x) override;
    int32_t wanted_rows() const override { return wanted_block; }
    void select(Slot x, std::span<const Wanted> wanted, int32_t width, Slot out) override;
    void cap_logits(Slot logits, int32_t width, float scale, float softcap) override;
    void emit(std::span<const Wanted> wanted, int32_t n_vocab, Slot logits, StepResult* result) override;

    // candidates.cpp
    /// Working space of a thread that chooses candidates.
    struct Chooser {
        struct Ranked {
            float adjusted;
            int32_t id;
        };
        std::vector<Ranked> best;
        std::vector<float> before;  // the adjusted logits as they were
    };
    /// Wanted::candidates of one row, which is as it was afterwards. `sums`: of all, of the adjusted below n_sampled.
    void choose_candidates(const Wanted& wanted, float* logits, int32_t n_vocab, Chooser& chooser, Candidate* out,
                           double sums[2]) const;

    // ops.cpp
    void norm(const NormSpec&, Slot x, int32_t width, Slot out) override;
    void project(Matrix w, Slot x, Slot out, int32_t column, Store store) override;
    void project_qkv(const ModelSpec&, const LayerSpec&, Slot x, Slot out) override;
    void gate_up(Activation, const Mlp&, int32_t inner, Slot x, Slot gate, Slot up) override;
    void add_scaled(Slot from, float scale, int32_t width, Slot to) override;
    void activate(Activation, Slot gate, Slot up, int32_t width) override;

    // attend.cpp
    void clamp(Slot x, int32_t width, float limit) override;
    void head_norm(const NormSpec&, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) override;
    void rope(const RopeSpec&, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) override;
    void append(const ModelSpec&, int32_t layer, Slot qkv) override;
    void attend(const ModelSpec&, const LayerSpec&, int32_t layer, Slot qkv, Slot out) override;

    // experts.cpp
    void run_experts(const ModelSpec&, const LayerSpec&) override;
    void route(const MoeSpec&, Slot chosen) override;
    bool gather(int32_t expert, Slot chosen, Slot x, Slot out) override;
    void scatter(int32_t expert, Slot chosen, Slot from, Slot to) override;
    void clear(Slot x, int32_t width) override;
    void add_gated(Slot from, Slot gate, int32_t width, Slot to) override;

    // One product of a fused region.
    struct Target {
        const PackedMatrix* matrix;
        Slot out;
        int32_t column;
        Store store;
        uint64_t prepared = 0;  // where its prepared input begins in the activation buffer, bytes
    };
    /// x through every target; those that take x in one order share its preparation and one parallel region.
    void project_all(std::span<const Target> targets, Slot x);
    /// Prepares rows row0 .. of x in the matrix's order in the activation buffer.
    void prepare_activations(const PackedMatrix& matrix, Slot x, int32_t row0, int32_t rows);
    /// Row r of a view from `values` (K).
    void prepare_row(const PackedMatrix& matrix, const ActView& view, const float* values, int32_t r) const;
    /// Tiles tile0 .. tile1-1 of rows row0 .. of one target, on the calling thread.
    void product(const Target& target, Slot x, int32_t row0, int32_t rows, int32_t tile0, int32_t tile1);
    int32_t batch_rows(const PackedMatrix& matrix) const;
    ActView activations(const PackedMatrix& matrix, int32_t rows, uint64_t offset) const;
    uint64_t row_bytes(const PackedMatrix& matrix) const;  // of a prepared row
    /// x (n) to out by the norm's weight and bias, which begin at element `at` of theirs.
    void norm_row(const NormSpec&, const float* x, int32_t n, int32_t at, float* out) const;
    float* angles(size_t rope, int32_t row) const;
    KvView kv_view(int32_t layer, int32_t head, int32_t sequence) const;

    /// work(row), in parallel where there are enough.
    template <class Work>
    void for_rows(int32_t count, Work&& work) {
        if (count < parallel_rows || threads_ == 1) {
            for (int32_t r = 0; r < count; ++r) work(r);
            return;
        }
        run_parallel(threads_, [&](int32_t index, int32_t total) {
            for (int64_t r = cut(count, index, total), end = cut(count, index + 1, total); r < end; ++r)
                work(int32_t(r));
        });
    }

    float* row(Slot slot, int64_t r) const {
        const ScratchPlan::Part& part = plan_.slots[size_t(slot)];
        return reinterpret_cast<float*>(scratch_ + part.offset) + r * part.ld;
    }
    int32_t rows(Slot slot) const;
    int64_t ld(Slot slot) const { return plan_.slots[size_t(slot)].ld; }
    int32_t* expert_rows() const { return reinterpret_cast<int32_t*>(scratch_ + plan_.expert_rows); }

    const Table& table_;
    const int32_t threads_;
    ScratchPlan plan_;
    uint8_t* scratch_ = nullptr;
    const KvCache* kv_ = nullptr;
    int32_t n_rows_ = 0, n_wanted_ = 0, n_expert_rows_ = 0, expert_rows_begin_ = 0;
    bool exact_ = false;

    // One expert's rows in the expert slots.
    struct ExpertRows {
        int32_t expert, row0, count;
        uint64_t prepared;  // as Target's
    };
    /// Gathers experts from `expert` on into Slot::expert_in, as many as there is room for; the next expert.
    int32_t gather_batch(const MoeSpec&, int32_t expert);
    /// Experts' products of prepared rows in one region: gate and up, or down.
    void expert_products(const ModelSpec&, const LayerSpec&, bool down);
    std::vector<ExpertRows> batch_;
};

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
