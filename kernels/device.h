// kernels::Device: the one interface that the model graph is written against.
//
//   1. engine/ describes a model as data (model.h) and walks it once per step, calling the block ops of `Ops`.
//   2. A block op has a default made of reference primitives (ops.h); a device overrides what it fuses. Nothing outside
//   a device
//      sees a pointer.
//   3. `submit(step, walk)` is asynchronous by contract. The CPU computes at once. A CUDA device captures the walk's
//   kernels once per shape of a step and replays them: whatever changes from step to step is in `Step`, never in the
//   walk, and a spec that was submitted stays as it is.
//   4. `wait` returns what the step was asked for.
//
// Threads: a Device is used by one thread at a time; different Devices may run at once and share the process's thread
// pool.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/matrix.h"
#include "kernels/model.h"
#include "kernels/status.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

// ---------------------------------------------------------------- KV cache: the layout belongs to the device
struct KvSpec {
    enum Type : uint8_t {
        f32,
        f16,
        q8,  // every head rotated by a Hadamard matrix, then int8 with one FP16 scale per token and head
        q4,  // the same with int4 and one FP16 scale per 32 values: head_dim must be a multiple of 32
    } type = f16;
    int32_t block_tokens = 64;  // tokens of one block
    int32_t n_blocks = 0;
};
struct Kv {
    uint32_t id = 0;
};

// ---------------------------------------------------------------- one step
/// One token to be computed. A token's sequence has its keys and values of positions 0 .. position-1 in the cache
/// already, or in earlier rows of this step. position < ModelSpec::max_positions, 0 <= token < n_vocab: refused
/// otherwise.
struct Row {
    int32_t sequence = 0, token = 0, position = 0;  // token below 0: chosen_before()
    /// Tokens that the sequence is known to have: those of the whole prompt in every row of a prefill, position + 1 (or
    /// 0) in decode. Read by ropes that depend on the length only.
    int32_t length = 0;
};

/// As Row::token: the id that the i-th Wanted of the step submitted before this one chose. It was an argmax of the same
/// device, and that step may still be under way.
constexpr int32_t chosen_before(int32_t i) { return -1 - i; }

/// A change of one logit before candidates are taken: z' = (z > 0 ? z / repeat : z * repeat) + add, each operation
/// rounded to FP32. A ban adds -infinity.
struct Adjust {
    int32_t token = 0;
    float repeat = 1, add = 0;
};
inline float adjusted(float z, const Adjust& a) {
    const float repeated = z > 0 ? z / a.repeat : z * a.repeat;
    return repeated + a.add;
}
struct Candidate {
    int32_t token = -1;  // -1: there were fewer
    float logit = 0;     // as computed, without adjustments
};
constexpr int32_t max_candidates = 256;  // of one Wanted
constexpr int32_t max_adjusts = 4096;    // of one Wanted

struct Wanted {
    enum What : uint8_t {
        argmax,      // StepResult::tokens gets the id (ties: the lowest), values its log-probability
        logits,      // values gets n_vocab logits
        logprob_of,  // values gets the natural log of the probability of `token`
        candidates,  // StepResult::candidates gets the n ids below Step::n_sampled with the largest adjusted logits,
                     // largest first, ties to the lower id, NaN and -infinity never; values gets ln sum exp of the
                     // logits of all ids, then of the adjusted logits of ids below n_sampled
    };
    int32_t row = 0;  // index into Step::rows
    What what = logits;
    int32_t token = 0;                        // logprob_of
    int32_t n = 0;                            // candidates: 1 .. max_candidates
    int32_t first_adjust = 0, n_adjusts = 0;  // candidates: of Step::adjusts, each id at most once
};

struct Step {
    std::span<const Row> rows;  // of decode and of prompts, mixed as the engine likes
    Kv kv;
    std::span<const int32_t> block_table;  // (n_sequences, max_blocks): block ids; position p of sequence s lies in
                                           // block [s][p / block_tokens]
    int32_t max_blocks = 0;
    std::span<const Wanted> wanted;  // empty: prefill that is not at its end
    bool prefill = false;
    std::span<const Adjust> adjusts = {};
    int32_t n_sampled = 0;                  // ids below it may be drawn; 0: n_vocab
    std::span<const float> hidden_in = {};  // (rows, hidden_size), where ModelSpec::embeds is false
};

struct StepResult {
    std::vector<int32_t> tokens;  // argmax, in the order of Step::wanted
    std::vector<float> values;    // in the order of Step::wanted: n_vocab for logits, two for candidates, one otherwise
    std::vector<Candidate> candidates;  // n for each Wanted of that kind, in their order
    std::vector<float> hidden;          // (rows, hidden_size): the residual stream, where ModelSpec::has_head is false
};
struct Ticket {
    uint64_t id = 0;
};

// ---------------------------------------------------------------- block ops: called by engine's walk, in order, on the
// step being built
struct Activations {
    uint32_t id = 0;
};  // (rows, width) FP32, owned by the device, valid within a step

/// In a parallel block gate_up_act (or moe_add) comes before project_add: both halves read the x of before.
class QP_KERNELS_API Ops {
 public:
    virtual ~Ops() = default;
    virtual Activations embed(const ModelSpec&) = 0;  // (rows, hidden): the residual stream
    virtual Activations norm_qkv(const ModelSpec&, const LayerSpec&,
                                 Activations x) = 0;  // norm, q, k, v with biases, QK norm
    virtual Activations rope_append_attend(const ModelSpec&, const LayerSpec&, int32_t layer,
                                           Activations qkv) = 0;  // (rows, n_heads*head_dim)
    virtual void project_add(const ModelSpec&, const LayerSpec&, Activations attended,
                             Activations x) = 0;                                             // x += o(attended)
    virtual Activations gate_up_act(const ModelSpec&, const LayerSpec&, Activations x) = 0;  // norm, act(gate) * up
    virtual void down_add(const ModelSpec&, const LayerSpec&, Activations h, Activations x) = 0;  // x += down(h)
    virtual void moe_add(const ModelSpec&, const LayerSpec&, Activations x) = 0;  // norm, router, experts; x += y
    virtual void head_sample(const ModelSpec&, Activations x) = 0;                // final norm, head, what Step wants
};

/// The graph. Returns false to give the step up between two layers (cancel): `wait` then answers CANCELLED and the
/// step's keys and values count as not written.
using Walk = std::function<bool(Ops&)>;

struct MemoryUse {
    uint64_t weights = 0, kv = 0, scratch = 0;
};  // bytes

class QP_KERNELS_API Device {
 public:
    virtual ~Device() = default;               // frees all that the handles hold
    virtual std::string describe() const = 0;  // e.g. "cpu (avx2, 2 threads)"

    /// Rows of one step beyond which more bring nothing.
    virtual int32_t max_rows() const { return 128; }
    /// Candidates are cheaper to get than a row of logits: it would cross a bus.
    virtual bool prefers_candidates() const { return false; }
    /// Idles between two steps unless the next one is submitted before this one's results are waited for.
    virtual bool runs_ahead() const { return false; }
    /// Rows of different numbers may differ in their last bits for equal tokens before them: the device computes them
    /// in different ways. A function of the row alone.
    virtual int32_t path(int32_t position, int32_t length) const {
        (void)position, (void)length;
        return 0;
    }

    /// Bits of a prompt's rows that depend on nothing but the sequence before them, not on how the prompt was cut in
    /// steps. Costs a device speed that has a faster product whose sums depend on the number of rows. Before prepare().
    virtual void set_deterministic(bool on) { (void)on; }

    // Parts: a split device has several, each with its memory and its layers (LayerSpec::device). Plans, `memory`,
    // `free_memory`, `reserve`, `pack` and `upload` are about the selected one.
    virtual int32_t n_parts() const { return 1; }
    virtual void select(int32_t part) { (void)part; }
    /// Bytes that can be allocated on the device now; nothing where it allocates from the host's memory.
    virtual std::optional<uint64_t> free_memory() const { return std::nullopt; }
    /// Room for `weights` bytes in one piece; a device without it takes memory as it comes.
    virtual Status reserve(uint64_t weights) {
        return weights == UINT64_MAX ? Status::error(resource_exhausted, "the weights do not fit") : Status{};
    }

    // Plans: computed from shapes alone; equal to what is then allocated.
    virtual uint64_t matrix_bytes(const MatrixShape& shape) const = 0;
    virtual uint64_t kv_bytes(const ModelSpec& spec, const KvSpec& kv) const = 0;
    virtual uint64_t scratch_bytes(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted) const = 0;
    virtual MemoryUse memory() const = 0;  // what is allocated now

    // Weights. Streams: peak = the packed matrix + a few rows of codes. RESOURCE_EXHAUSTED leaves the device usable.
    virtual Status pack(const QuantSource& source, Matrix* out) = 0;
    virtual Status pack(const DenseSource& source, Matrix* out) = 0;
    virtual Status upload(std::span<const float> values, Vector* out) = 0;

    /// Allocates the scratch for steps of up to max_rows rows that want up to max_wanted rows of logits. Once, before
    /// the first submit.
    virtual Status prepare(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted) = 0;

    virtual Status make_kv(const ModelSpec& spec, const KvSpec& kv, Kv* out) = 0;
    virtual void free_kv(Kv kv) = 0;
    /// Forgets positions >= n_tokens of one sequence, whose blocks these are (stops, rewinding, speculation).
    virtual Status truncate(Kv kv, std::span<const int32_t> blocks, int32_t n_tokens) = 0;

    /// Two steps may be under way. Refusals come from wait. What `step` points to lives until the wait.
    virtual Ticket submit(const ModelSpec& spec, const Step& step, const Walk& walk) = 0;
    virtual Status wait(Ticket ticket, StepResult* out) = 0;  // once per ticket
    virtual bool finished(Ticket ticket) = 0;
};

/// The CPU. Instruction set: the best that the machine has, or what the environment variable QUANTPLUG_CPU names
/// (portable, avx2, avxvnni, avx512vnni), an error if the machine lacks it. threads 0: min(physical cores, affinity,
/// cgroup quota).
QP_KERNELS_API Status make_cpu_device(int32_t threads, std::unique_ptr<Device>* out);

/// Plain loops in double precision, for tests: no fusion, no packing.
QP_KERNELS_API std::unique_ptr<Device> make_reference_device();

/// Names of the CUDA devices of this machine that can be used; empty without a driver, a card or the CUDA room.
QP_KERNELS_API std::vector<std::string> cuda_devices();

/// UNAVAILABLE with the reason in one sentence: a build without CUDA, no driver, too old a driver, no such card, a card
/// below compute capability 7.5, or a fault that CUDA had in this process before.
QP_KERNELS_API Status make_cuda_device(int32_t ordinal, std::unique_ptr<Device>* out);

/// A model over several devices, layer by layer: stages[i] has the layers whose LayerSpec::device is i, which must not
/// fall; the first has the embedding, the last the head. The residual stream passes from one to the next through the
/// host's memory.
QP_KERNELS_API Status make_split_device(std::vector<std::unique_ptr<Device>> stages, std::unique_ptr<Device>* out);

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
