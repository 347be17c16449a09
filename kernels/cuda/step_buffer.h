// A step in memory: filled on the host in pinned memory, copied to the device in one piece.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/views.h"
#include "kernels/device.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

struct ScratchLayout;

/// Rows of decode first ("d"), in the step's order, then those of prompts ("p"), by sequence and position: the two are
/// computed in different ways (CudaDevice::path).
struct StepShape {
    int32_t n_rows = 0, n_decode = 0, n_wanted = 0, n_tiles = 0;  // live ones
    int32_t rows = 0, decode_rows = 0, wanted = 0;                // launched: with dummies
    int32_t n_candidates = 0;                                     // the most that a Wanted asks for
    bool distinct = true;                                         // no two rows of one sequence
};

/// Where the parts lie in the block, by capacity. Of the table and the adjustments only what there is is copied.
class StepBuffer {
 public:
    static constexpr int32_t most_adjusts_per_row = 4096;

    static uint64_t bytes(const ScratchLayout& layout);

    Status prepare(const ScratchLayout& layout, uint8_t* device);
    /// Fills the host's half. The step was checked. INVALID_ARGUMENT where it is beyond what a CUDA step holds:
    /// most_sequences, adjustments.
    Status write(const Step& step, int32_t block_tokens, StepShape* shape);
    /// What was written, to the device. The host's half must stay until the copy is done.
    Status upload(StreamHandle stream) const;
    /// Launched row of the step's row r.
    int32_t place(int32_t r) const { return places_[size_t(r)]; }

    // On the device.
    StepView view() const;
    const AdjustRecord* adjusts() const { return reinterpret_cast<const AdjustRecord*>(device_ + adjusts_); }
    const RowTile* tiles() const { return reinterpret_cast<const RowTile*>(device_ + tiles_); }

 private:
    void plan(const ScratchLayout& layout);

    Block host_;
    uint8_t* device_ = nullptr;
    uint64_t rows_ = 0, wanted_ = 0, tiles_ = 0, adjusts_ = 0, table_ = 0, total_ = 0;  // offsets
    uint64_t n_adjusts_ = 0;                                                            // capacity
    uint64_t n_table_ = 0;
    uint64_t written_ = 0, adjusts_written_ = 0;  // bytes of the step at hand
    std::vector<int32_t> order_, places_, sequences_;
};

/// Rows of prompts longer than this are computed as prompts, the last one excepted.
constexpr int32_t short_prompt = 64;
inline bool is_prompt_row(int32_t position, int32_t length) { return length > short_prompt && position + 1 < length; }

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
