// A CUDA card behind kernels::Device.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda/graphs.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/step_buffer.h"
#include "kernels/step.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// Steps go to one stream: the step's rows to device memory, its kernels (as a captured graph where it is decode of up
/// to most_graph_rows sequences, one by one otherwise), its answers back to pinned memory, an event. Two may be under
/// way.
class CudaDevice final : public Device, private Handles {
 public:
    static Status make(int32_t ordinal, std::unique_ptr<Device>* out);
    ~CudaDevice() override;

    std::string describe() const override;
    int32_t max_rows() const override { return 1024; }
    bool prefers_candidates() const override { return true; }
    bool runs_ahead() const override { return true; }
    void set_deterministic(bool on) override { deterministic_ = on; }
    int32_t path(int32_t position, int32_t length) const override { return is_prompt_row(position, length); }
    std::optional<uint64_t> free_memory() const override;
    Status reserve(uint64_t weights) override;

    uint64_t matrix_bytes(const MatrixShape& shape) const override;
    uint64_t kv_bytes(const ModelSpec& spec, const KvSpec& kv) const override;
    uint64_t scratch_bytes(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted) const override;
    MemoryUse memory() const override;

    Status pack(const QuantSource& source, Matrix* out) override;
    Status pack(const DenseSource& source, Matrix* out) override;
    Status upload(std::span<const float> values, Vector* out) override;
    Status prepare(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted) override;
    Status make_kv(const ModelSpec& spec, const KvSpec& kv, Kv* out) override;
    void free_kv(Kv kv) override;
    Status truncate(Kv kv, std::span<const int32_t> blocks, int32_t n_tokens) override;

    Ticket submit(const ModelSpec& spec, const Step& step, const Walk& walk) override;
    Status wait(Ticket ticket, StepResult* out) override;
    bool finished(Ticket ticket) override;

    /// For comparisons: steps as single launches, norms by themselves, kernels that wait for each other's end.
    void use_graphs(bool on) { use_graphs_ = on; }
    /// RMS norms of decode within the products around them (CudaOps::FoldedNorm), or as kernels of their own.
    void use_folded_norms(bool on) { ops_.fold_norms = on; }
    void use_dependent_launch(bool on) { queue_.dependent_launch = on; }
    size_t n_graphs() const { return graphs_.size(); }
    /// FP16 stores that saturated so far. Waits for the steps under way.
    Status saturated(uint32_t* count);

 private:
    /// What a step under way needs on the host.
    struct Lane {
        StepBuffer buffer;
        Block answers;  // RowAnswer (wanted), CandidateRecord (wanted, most_candidates), pinned
        Block logits;   // (wanted, n_vocab)
        Block hidden;   // (rows, hidden), in or out
        EventHandle done = nullptr;
        uint64_t ticket = 0;  // 0: free
    };
    struct Pending {
        uint64_t id = 0;
        int32_t lane = -1;  // -1: it ended in submit
        Status status;
        std::vector<Wanted> wanted;
        int32_t n_rows = 0, n_candidates = 0;
        std::vector<int32_t> places;  // of the rows, where the stage hands the residual stream out
    };

    CudaDevice(int32_t ordinal, DeviceFacts facts);
    template <class Work>
    Status guarded(Work&& work) const;
    template <class Source>
    Status pack_any(const Source& source, Matrix* out);
    Status run(const ModelSpec& spec, const Step& step, const Walk& walk, Pending* pending);
    Status check(const ModelSpec& spec, const Step& step);
    Status enqueue(const ModelSpec& spec, const Step& step, const Walk& walk, Lane& lane, Pending* pending);
    Status run_walk(const ModelSpec& spec, const Step& step, const Walk& walk, const Lane& lane,
                    const StepShape& shape);
    Status fetch(const ModelSpec& spec, const Step& step, Lane& lane, const StepShape& shape);
    Status collect(const Pending& pending, const Lane& lane, StepResult* out) const;
    Status wait_for(Lane& lane);
    uint32_t order_of(const std::vector<int32_t>& gather);
    const StoredKv* find_kv(Kv kv) const { return kv.id < kv_.size() && kv_[kv.id] ? &*kv_[kv.id] : nullptr; }
    bool matrix_size(Matrix matrix, int32_t* in_features, int32_t* out_features) const override;
    bool vector_size(Vector vector, int32_t* size) const override;

    const int32_t ordinal_;
    const DeviceFacts facts_;
    StreamHandle stream_ = nullptr;
    Queue queue_;
    std::unique_ptr<Blas> blas_;
    bool use_graphs_ = true, deterministic_ = false;

    Slabs weights_;
    std::vector<uint8_t> image_;                // of the matrix that is packed
    std::vector<std::vector<int32_t>> orders_;  // the row orders that matrices have
    Block scratch_;
    std::vector<std::optional<StoredKv>> kv_{1};
    CudaOps ops_;

    std::optional<ModelSpec> prepared_;  // without layers
    ScratchLayout layout_;
    int32_t max_rows_ = 0, max_wanted_ = 0;
    const void* checked_spec_ = nullptr;  // ModelSpec::layers' address of the spec that was checked last
    size_t checked_layers_ = 0;
    std::vector<int64_t> slots_;
    StepBefore before_;

    Graphs graphs_;
    Lane lanes_[2];
    std::deque<Pending> pending_;
    uint64_t next_ticket_ = 1;
};

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
