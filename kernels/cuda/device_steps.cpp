// Steps of a CUDA device: to the stream and back.
#include <algorithm>
#include <cstring>
#include <new>
#include <string>

#include "kernels/cuda/device.h"
#include "kernels/threads/float_mode.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

// What a prepared scratch and the tables in it depend on.
bool same_dimensions(const ModelSpec& a, const ModelSpec& b) {
    const auto same_rope = [](const RopeSpec& x, const RopeSpec& y) {
        return x.inv_freq == y.inv_freq && x.long_inv_freq == y.long_inv_freq;
    };
    return a.hidden_size == b.hidden_size && a.intermediate_size == b.intermediate_size && a.n_vocab == b.n_vocab &&
           a.n_heads == b.n_heads && a.n_kv_heads == b.n_kv_heads && a.head_dim == b.head_dim &&
           a.n_experts == b.n_experts && a.expert_intermediate_size == b.expert_intermediate_size &&
           a.shared_intermediate_size == b.shared_intermediate_size && a.embedding_size == b.embedding_size &&
           a.max_positions == b.max_positions && a.compute == b.compute && a.embeds == b.embeds &&
           a.has_head == b.has_head && a.alibi_slopes == b.alibi_slopes &&
           std::equal(a.ropes.begin(), a.ropes.end(), b.ropes.begin(), b.ropes.end(), same_rope);
}

/// What a walk meets when its graph is captured already: only its answer counts.
class NoOps final : public Ops {
 public:
    Activations embed(const ModelSpec&) override { return handle(Slot::residual); }
    Activations norm_qkv(const ModelSpec&, const LayerSpec&, Activations) override { return handle(Slot::qkv); }
    Activations rope_append_attend(const ModelSpec&, const LayerSpec&, int32_t, Activations) override {
        return handle(Slot::attended);
    }
    void project_add(const ModelSpec&, const LayerSpec&, Activations, Activations) override {}
    Activations gate_up_act(const ModelSpec&, const LayerSpec&, Activations) override { return handle(Slot::gate); }
    void down_add(const ModelSpec&, const LayerSpec&, Activations, Activations) override {}
    void moe_add(const ModelSpec&, const LayerSpec&, Activations) override {}
    void head_sample(const ModelSpec&, Activations) override {}
};

}  // namespace

Status CudaDevice::check(const ModelSpec& spec, const Step& step) {
    if (!prepared_) return Status::error(failed_precondition, "a step was submitted before the device was prepared");
    const StoredKv* kv = find_kv(step.kv);
    if (!kv) return Status::error(not_found, "there is no KV cache " + std::to_string(step.kv.id));
    if (spec.layers.data() != checked_spec_ || spec.layers.size() != checked_layers_) {
        if (!same_dimensions(spec, *prepared_)) {
            return Status::error(failed_precondition,
                                 "a step's model has other dimensions than the one the device was prepared for");
        }
        if (Status status = check_model(spec, *this); !status.ok()) return status;
        if (ScratchLayout(spec, max_rows_, max_wanted_).total != layout_.total) {
            return Status::error(failed_precondition,
                                 "a step's model has other layers than the one the device was prepared for");
        }
        if (Status status = synchronize(stream_); !status.ok()) return status;
        if (Status status = ops_.make_expert_tables(spec, stream_); !status.ok()) return status;
        graphs_.clear();
        checked_spec_ = spec.layers.data();
        checked_layers_ = spec.layers.size();
    }
    if (kv->n_layers != int32_t(spec.layers.size()) || kv->n_kv_heads != spec.n_kv_heads ||
        kv->head_dim != spec.head_dim)
        return Status::error(invalid_argument, "the step's KV cache was made for a model of other dimensions");
    return check_step(spec, step, kv->spec, max_rows_, max_wanted_, slots_, &before_);
}

Status CudaDevice::wait_for(Lane& lane) { return lane.ticket ? wait_event(lane.done) : Status{}; }

Ticket CudaDevice::submit(const ModelSpec& spec, const Step& step, const Walk& walk) {
    Pending pending;
    pending.id = next_ticket_++;
    const FloatMode mode;
    const UseDevice use(ordinal_);
    try {
        pending.status = use.status().ok() ? run(spec, step, walk, &pending) : use.status();
    } catch (const std::bad_alloc&) {
        pending.status = Status::error(resource_exhausted, "there is no host memory for a step");
    }
    before_.failed = !pending.status.ok();
    if (pending.status.ok()) {
        before_.wanted.clear();
        for (const Wanted& w : step.wanted) before_.wanted.push_back(w.what);
    }
    pending_.push_back(std::move(pending));
    return {pending_.back().id};
}

Status CudaDevice::run(const ModelSpec& spec, const Step& step, const Walk& walk, Pending* pending) {
    if (Status status = check(spec, step); !status.ok()) return status;
    Lane* lane = std::find_if(std::begin(lanes_), std::end(lanes_), [](const Lane& l) { return l.ticket == 0; });
    if (lane == std::end(lanes_)) {
        return Status::error(failed_precondition,
                             "two steps are under way on the CUDA device; wait for the first before a third");
    }
    pending->wanted.assign(step.wanted.begin(), step.wanted.end());
    pending->n_rows = int32_t(step.rows.size());
    if (Status status = enqueue(spec, step, walk, *lane, pending); !status.ok()) {
        (void)synchronize(stream_);  // the lane's memory may be in use
        (void)queue_.take_status();
        return status;
    }
    lane->ticket = pending->id;
    pending->lane = int32_t(lane - lanes_);
    return {};
}

Status CudaDevice::enqueue(const ModelSpec& spec, const Step& step, const Walk& walk, Lane& lane, Pending* pending) {
    StepShape shape;
    if (Status status = lane.buffer.write(step, find_kv(step.kv)->spec.block_tokens, &shape); !status.ok())
        return status;
    pending->n_candidates = shape.n_candidates;
    if (Status status = lane.buffer.upload(stream_); !status.ok()) return status;
    const uint64_t row_bytes = uint64_t(spec.hidden_size) * sizeof(float);
    if (!spec.has_head) {
        for (int32_t r = 0; r < shape.n_rows; ++r) pending->places.push_back(lane.buffer.place(r));
    }
    if (!spec.embeds) {
        for (int32_t r = 0; r < shape.n_rows; ++r) {
            std::memcpy(lane.hidden.data() + uint64_t(lane.buffer.place(r)) * row_bytes,
                        step.hidden_in.data() + size_t(r) * size_t(spec.hidden_size), row_bytes);
        }
        if (Status status = copy_to_device(stream_, ops_.at<uint8_t>(layout_.stage), lane.hidden.data(),
                                           uint64_t(shape.n_rows) * row_bytes);
            !status.ok())
            return status;
    }

    const bool decode = shape.n_decode == shape.n_rows && shape.distinct && shape.rows <= most_graph_rows;
    if (graphs_.full()) {
        if (Status status = synchronize(stream_); !status.ok()) return status;
        graphs_.trim();
    }
    const GraphKey key{
        spec.layers.data(),         step.kv.id,     shape.rows, shape.wanted, shape.n_candidates, step.n_sampled,
        shape.rows != shape.n_rows, ops_.fold_norms};
    Graphs::Entry* entry = decode && use_graphs_ ? graphs_.find(key) : nullptr;
    if (!entry) {
        if (Status status = run_walk(spec, step, walk, lane, shape); !status.ok()) return status;
        return fetch(spec, step, lane, shape);
    }
    if (entry->graph) {
        NoOps ops;
        if (!walk(ops)) return Status::error(cancelled, "the step was cancelled");
    } else {
        if (Status status = begin_capture(stream_); !status.ok()) return status;
        const Status status = run_walk(spec, step, walk, lane, shape);
        const Status ended = end_capture(stream_, status.ok() ? &entry->graph : nullptr);
        if (!status.ok()) return status;
        if (!ended.ok()) return ended;
    }
    if (Status status = launch_graph(entry->graph, stream_); !status.ok()) return status;
    return fetch(spec, step, lane, shape);
}

Status CudaDevice::run_walk(const ModelSpec& spec, const Step& step, const Walk& walk, const Lane& lane,
                            const StepShape& shape) {
    StepResult unused;
    ops_.begin_step(spec, step, *find_kv(step.kv), lane.buffer, shape, &queue_, deterministic_ ? nullptr : blas_.get(),
                    &unused);
    const bool done = walk(ops_);
    const Status launched = queue_.take_status();
    if (!done) return Status::error(cancelled, "the step was cancelled");
    if (!launched.ok()) return launched;
    if (!ops_.status().ok()) return ops_.status();
    if (!step.wanted.empty() && !ops_.sampled())
        return Status::error(invalid_argument, "the step wants results, and its walk ended without head_sample");
    return {};
}

// Answers to pinned memory; rows of logits where they are wanted.
Status CudaDevice::fetch(const ModelSpec& spec, const Step& step, Lane& lane, const StepShape& shape) {
    if (spec.has_head && shape.n_wanted > 0) {
        const uint64_t n = uint64_t(shape.n_wanted);
        uint8_t* answers = lane.answers.data();
        if (Status status = copy_to_host(stream_, answers, ops_.at<uint8_t>(layout_.answers), n * sizeof(RowAnswer));
            !status.ok())
            return status;
        if (shape.n_candidates > 0) {
            if (Status status = copy_to_host(stream_, answers + uint64_t(layout_.max_wanted) * sizeof(RowAnswer),
                                             ops_.at<uint8_t>(layout_.candidates),
                                             n * uint64_t(shape.n_candidates) * sizeof(CandidateRecord));
                !status.ok())
                return status;
        }
        const RowsView logits = ops_.rows_of(Slot::logits);
        for (int32_t i = 0; i < shape.n_wanted; ++i) {
            if (step.wanted[size_t(i)].what != Wanted::logits) continue;
            const uint64_t bytes = uint64_t(spec.n_vocab) * sizeof(float);
            if (Status status =
                    copy_to_host(stream_, lane.logits.data() + uint64_t(i) * bytes, logits.x + i * logits.ld, bytes);
                !status.ok())
                return status;
        }
    }
    if (!spec.has_head) {
        if (Status status = copy_to_host(stream_, lane.hidden.data(), ops_.at<uint8_t>(layout_.stage),
                                         uint64_t(shape.n_rows) * uint64_t(spec.hidden_size) * sizeof(float));
            !status.ok())
            return status;
    }
    return record(lane.done, stream_);
}

Status CudaDevice::wait(Ticket ticket, StepResult* out) {
    const FloatMode mode;
    const auto at = std::find_if(pending_.begin(), pending_.end(), [&](const Pending& p) { return p.id == ticket.id; });
    if (at == pending_.end()) {
        return Status::error(not_found,
                             "ticket " + std::to_string(ticket.id) + " is not waiting: it was given twice or never");
    }
    Pending pending = std::move(*at);
    pending_.erase(at);
    StepResult result;
    Status status = pending.status;
    if (pending.lane >= 0) {
        Lane& lane = lanes_[pending.lane];
        const UseDevice use(ordinal_);
        status = wait_for(lane);
        lane.ticket = 0;
        try {
            if (status.ok()) status = collect(pending, lane, &result);
        } catch (const std::bad_alloc&) {
            status = Status::error(resource_exhausted, "there is no host memory for a step's results");
        }
    }
    if (out) *out = status.ok() ? std::move(result) : StepResult{};
    return status;
}

Status CudaDevice::collect(const Pending& pending, const Lane& lane, StepResult* out) const {
    const auto* answers = reinterpret_cast<const RowAnswer*>(lane.answers.data());
    const auto* candidates = reinterpret_cast<const CandidateRecord*>(lane.answers.data() +
                                                                      uint64_t(layout_.max_wanted) * sizeof(RowAnswer));
    const size_t vocab = size_t(prepared_->n_vocab);
    for (size_t i = 0; i < pending.wanted.size() && prepared_->has_head; ++i) {
        const RowAnswer& answer = answers[i];
        switch (pending.wanted[i].what) {
            case Wanted::argmax:
                out->tokens.push_back(answer.best);
                out->values.push_back(answer.best_logprob);
                break;
            case Wanted::logprob_of:
                out->values.push_back(answer.token_logprob);
                break;
            case Wanted::logits: {
                const auto* logits = reinterpret_cast<const float*>(lane.logits.data()) + i * vocab;
                out->values.insert(out->values.end(), logits, logits + vocab);
                break;
            }
            case Wanted::candidates:
                out->values.push_back(answer.log_sum_exp);
                out->values.push_back(answer.adjusted_log_sum_exp);
                for (int32_t c = 0; c < pending.wanted[i].n; ++c) {
                    const CandidateRecord& from = candidates[i * size_t(pending.n_candidates) + size_t(c)];
                    out->candidates.push_back({from.token, from.logit});
                }
                break;
        }
    }
    if (!prepared_->has_head) {
        const size_t width = size_t(prepared_->hidden_size);
        const auto* hidden = reinterpret_cast<const float*>(lane.hidden.data());
        out->hidden.reserve(pending.places.size() * width);
        for (const int32_t place : pending.places)
            out->hidden.insert(out->hidden.end(), hidden + size_t(place) * width, hidden + (size_t(place) + 1) * width);
    }
    return {};
}

bool CudaDevice::finished(Ticket ticket) {
    for (const Pending& pending : pending_) {
        if (pending.id != ticket.id) continue;
        if (pending.lane < 0) return true;
        const UseDevice use(ordinal_);
        bool done = false;
        return !query_event(lanes_[pending.lane].done, &done).ok() || done;  // a fault: wait tells
    }
    return true;
}

Status CudaDevice::saturated(uint32_t* count) {
    const UseDevice use(ordinal_);
    *count = 0;
    if (!scratch_.data()) return {};
    if (Status status = copy_to_host(stream_, count, ops_.at<uint8_t>(layout_.saturation), sizeof *count); !status.ok())
        return status;
    return synchronize(stream_);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
