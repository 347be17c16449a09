// The block ops on a CUDA device: every primitive is a kernel on the device's queue, products take their operands from
// the kernels before where those could write them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/step_buffer.h"
#include "kernels/ops.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

struct StoredMatrix {
    MatrixView view;
    uint32_t order = 0;  // the number of its row order: matrices of one order take one operand
};
struct StoredVector {
    const float* data = nullptr;
    int32_t size = 0;
};

/// (layer, keys | values), each as KvView says; scales behind them.
struct StoredKv {
    Block memory;
    KvSpec spec;
    int32_t n_layers = 0, n_kv_heads = 0, head_dim = 0;
    uint64_t bytes = 0;
    KvView layer(int32_t index) const;
};
/// Bytes of keys (and again of values) of one layer: codes, scales.
struct KvBytes {
    uint64_t codes = 0, scales = 0;
    uint64_t total = 0;  // of all layers, both
};
KvBytes kv_layer_bytes(const ModelSpec& spec, const KvSpec& kv);

class CudaOps final : public BlockOps {
 public:
    // What the handles stand for; owned by the device. Index 0 is absent.
    std::vector<StoredMatrix> matrices{1};
    std::vector<StoredVector> vectors{1};

    /// RMS norms of decode rows are folded into the products around them, where that is possible.
    bool fold_norms = true;

    void set_scratch(const ScratchLayout& layout, uint8_t* memory, int32_t n_multiprocessors) {
        layout_ = layout;
        memory_ = memory;
        n_multiprocessors_ = n_multiprocessors;
    }
    /// `buffer`: whose device half holds the step when the kernels run. `blas` may be null.
    void begin_step(const ModelSpec& spec, const Step& step, const StoredKv& kv, const StepBuffer& buffer,
                    const StepShape& shape, Queue* queue, Blas* blas, StepResult* result);
    /// Tables of the experts' views, by layer: filled once for a spec.
    Status make_expert_tables(const ModelSpec& spec, StreamHandle stream);

    template <class T>
    T* at(const ScratchLayout::Part& part) const {
        return reinterpret_cast<T*>(memory_ + part.offset);
    }
    RowsView rows_of(Slot slot) const;

 private:
    // ends.cpp
    void load_hidden(Slot out) override;
    void store_hidden(Slot x) override;
    void embed_rows(Matrix embedding, float scale, Slot out) override;
    void add_positions(Matrix table, int32_t offset, Slot x) override;
    int32_t wanted_rows() const override { return layout_.max_wanted; }
    void select(Slot x, std::span<const Wanted> wanted, int32_t width, Slot out) override;
    void cap_logits(Slot logits, int32_t width, float scale, float softcap) override;
    void emit(std::span<const Wanted> wanted, int32_t n_vocab, Slot logits, StepResult* result) override;

    // ops.cpp
    void norm(const NormSpec&, Slot x, int32_t width, Slot out) override;
    void project(Matrix w, Slot x, Slot out, int32_t column, Store store) override;
    void project_add(const ModelSpec&, const LayerSpec&, Activations attended, Activations x) override;
    void down_add(const ModelSpec&, const LayerSpec&, Activations h, Activations x) override;
    void project_qkv(const ModelSpec&, const LayerSpec&, Slot x, Slot out) override;
    void gate_up(Activation, const Mlp&, int32_t inner, Slot x, Slot gate, Slot up) override;
    void add_scaled(Slot from, float scale, int32_t width, Slot to) override;
    void clamp(Slot x, int32_t width, float limit) override;
    void activate(Activation, Slot gate, Slot up, int32_t width) override;
    void add_gated(Slot from, Slot gate, int32_t width, Slot to) override;

    // attend.cpp
    void head_norm(const NormSpec&, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) override;
    Activations norm_qkv(const ModelSpec&, const LayerSpec&, Activations x) override;
    Activations rope_append_attend(const ModelSpec&, const LayerSpec&, int32_t layer, Activations qkv) override;

    // experts.cpp
    void run_experts(const ModelSpec&, const LayerSpec&) override;
    void route(const MoeSpec&, Slot chosen) override;

    /// A norm that nobody has computed yet: products read it through their operands.
    struct PendingNorm {
        bool there = false;
        NormView norm;
        Slot from = Slot::none, to = Slot::none;
        int32_t width = 0;
    };
    /// An operand that lies in its buffer.
    struct Ready {
        Slot slot = Slot::none;
        uint32_t order = 0;
        Operand operand;
        FoldIn fold;  // of the rows that are computed as decode
    };
    /// The norm that follows a product into the residual stream, and a matrix of those that alone read it.
    struct FoldTarget {
        const NormSpec* norm = nullptr;  // null: none
        Matrix reader;
    };
    /// A norm of the residual stream's decode rows whose operand lies in its buffer, for want of a factor.
    struct FoldedNorm {
        bool there = false;
        const float* weight = nullptr;
        uint32_t order = 0;
        Operand operand;
        FoldIn in;
    };

    int32_t rows(Slot slot) const;         // launched
    int32_t decode_rows(Slot slot) const;  // of them, those that are computed as decode
    NormView view_of(const NormSpec& norm, int32_t head_dim = 0) const;

    /// Before `slot` is read as FP32: a norm that is due is computed.
    RowsView read(Slot slot);
    /// Before `slot` is written: operands and norms made of what it held are void.
    RowsView write(Slot slot);
    void drop(Slot source);

    static OperandRole role_of(Slot slot);
    int32_t rows_that_fit(OperandRole role, int32_t k_padded) const;
    Operand operand_buffer(OperandRole role, int32_t k_padded, int32_t exponent) const;
    /// x in the matrix's order, as a kernel before left it or prepared now. Where not all rows fit: rows row0 .. row0 +
    /// n - 1 alone, as rows 0 .. of the operand.
    Ready operand_of(const StoredMatrix& matrix, Slot x, int32_t row0, int32_t n);
    // folded.cpp
    bool fits_always(OperandRole role, const StoredMatrix& matrix) const;
    FoldTarget target(const NormSpec& norm, Matrix reader) const;
    FoldTarget mlp_target(const LayerSpec& layer) const;
    FoldTarget attention_target(const LayerSpec& layer) const;
    RowSquares squares_buffer(int32_t i, int32_t n) const;
    /// Where a norm of `from` that is prepared leaves its sums of squares, for the fold that follows.
    RowSquares squares_of(Slot from, const NormView& norm);
    /// What the product to the residual stream leaves for fold_target_; nothing where it cannot.
    FoldOut fold_out();
    void keep_fold(const FoldOut& out);
    const FoldedNorm* folded(const StoredMatrix& matrix, Slot x) const;

    /// Rows [row0, row0 + n) of a launch whose out is row 0's, and x row row0's; folds are those of decode rows.
    void multiply(const ProductLaunch& launch, int32_t row0, int32_t n, int32_t n_decode);
    struct Target {
        Matrix w;
        int32_t column;
    };
    /// x through up to three matrices of one order, side by side.
    void project_together(std::span<const Target> targets, Slot x, Slot out, Store store);
    bool same_order(Matrix a, Matrix b) const { return matrices[a.id].order == matrices[b.id].order; }
    Saturation* saturation() const { return at<Saturation>(layout_.saturation); }

    bool norms_in_attention(const LayerSpec& layer) const { return !layer.qk_norm_full && !layer.qk_norm_after_rope; }
    AngleView angles_of(int32_t rope) const;
    void make_angles();

    /// Of one layer, from the experts' matrices.
    struct ExpertTables {
        const MatrixView *gates = nullptr, *ups = nullptr, *downs = nullptr;  // device
        MatrixView gate, up, down;                                            // with the largest K' of all
        bool one_order = false;                                               // gate and up of every expert
    };
    void run_expert_rows(const ModelSpec&, const LayerSpec&, const ExpertTables&, int32_t row0, int32_t n);

    ScratchLayout layout_;
    uint8_t* memory_ = nullptr;
    int32_t n_multiprocessors_ = 1;
    const StoredKv* kv_ = nullptr;
    const StepBuffer* buffer_ = nullptr;
    StepView view_;
    StepShape shape_;
    Queue* queue_ = nullptr;
    Blas* blas_ = nullptr;
    PendingNorm pending_;
    Ready ready_[size_t(OperandRole::count)];
    FoldTarget fold_target_;
    FoldedNorm folded_;
    RowSquares squares_;                     // of the residual stream as it is; x null: not known
    int32_t squares_at_ = 0;                 // the buffer of them, 0 or 1
    bool normed_[size_t(Slot::count)] = {};  // holds a norm's result: values of order one
    bool void_[size_t(Slot::count)] = {};    // holds nothing that may be read
    std::vector<ExpertTables> experts_;      // by layer
};

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
