// The block ops on the CPU: the primitives, and the blocks that are fused.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/pack.h"
#include "kernels/cpu/table.h"
#include "kernels/ops.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {

constexpr int32_t wanted_block = 32;  // rows of logits that lie in the scratch at once

/// Where everything lies in the scratch, from shapes alone.
struct ScratchPlan {
    struct Part {
        uint64_t offset = 0;
        int64_t ld = 0;  // floats
    };
    Part slots[size_t(Slot::count)];
    uint64_t angles = 0, angles_ld = 0;  // per rope and row: cosines, then sines, angles_ld floats each
    uint64_t activations = 0, activation_bytes = 0;
    uint64_t scores = 0, scores_ld = 0;  // per thread
    uint64_t total = 0;

    ScratchPlan() = default;
    ScratchPlan(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted, int32_t threads);
};

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

    Activations norm_qkv(const ModelSpec&, const LayerSpec&, Activations x) override;
    Activations gate_up_act(const ModelSpec&, const LayerSpec&, Activations x) override;

 private:
    void embed_rows(Matrix embedding, Slot out) override;
    void norm(const NormSpec&, Slot x, int32_t width, Slot out) override;
    void project(Matrix w, Slot x, Slot out, int32_t column, Store store) override;
    void head_norm(const NormSpec&, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) override;
    void rope(const RopeSpec&, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) override;
    void append(const ModelSpec&, int32_t layer, Slot qkv) override;
    void attend(const ModelSpec&, const LayerSpec&, int32_t layer, Slot qkv, Slot out) override;
    void gated(Activation, Slot gate, Slot up, int32_t width) override;
    int32_t wanted_rows() const override { return wanted_block; }
    void select(Slot x, std::span<const Wanted> wanted, int32_t width, Slot out) override;
    void emit(std::span<const Wanted> wanted, int32_t n_vocab, Slot logits, StepResult* result) override;

    // One product of a fused region.
    struct Target {
        const PackedMatrix* matrix;
        Slot out;
        int32_t column;
        Store store;
    };
    /// x through every target; those that take x in one order share its preparation and one parallel region.
    void project_all(std::span<const Target> targets, Slot x);
    /// Prepares rows row0 .. of x in the matrix's order in the activation buffer.
    void prepare_activations(const PackedMatrix& matrix, Slot x, int32_t row0, int32_t rows);
    /// Tiles tile0 .. tile1-1 of rows row0 .. of one target, on the calling thread.
    void product(const Target& target, Slot x, int32_t row0, int32_t rows, int32_t tile0, int32_t tile1);
    int32_t batch_rows(const PackedMatrix& matrix) const;
    ActView activations(const PackedMatrix& matrix, int32_t rows) const;
    KvView kv_view(int32_t layer, int32_t head, int32_t sequence) const;

    template <class Work>
    void for_rows(int32_t rows, Work&& work);  // work(row), in parallel where there are enough

    float* row(Slot slot, int64_t r) const;
    int32_t rows(Slot slot) const { return slot == Slot::wanted || slot == Slot::logits ? n_wanted_ : n_rows_; }
    int64_t ld(Slot slot) const { return plan_.slots[size_t(slot)].ld; }

    const Table& table_;
    const int32_t threads_;
    ScratchPlan plan_;
    uint8_t* scratch_ = nullptr;
    const KvCache* kv_ = nullptr;
    int32_t n_rows_ = 0, n_wanted_ = 0;
    bool exact_ = false;
};

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
