// A model over several devices: every stage computes its layers, the residual stream passes through the host's memory.
#include <algorithm>
#include <deque>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/split/stage_ops.h"
#include "kernels/split/stage_spec.h"
#include "kernels/step.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace split {
namespace {

class SplitDevice final : public Device {
 public:
    explicit SplitDevice(std::vector<std::unique_ptr<Device>> stages) {
        for (std::unique_ptr<Device>& device : stages) {
            Stage stage;
            const std::string words = device->describe();
            stage.name = words.substr(0, words.find(' '));
            stage.device = std::move(device);
            stages_.push_back(std::move(stage));
        }
    }

    std::string describe() const override {
        std::string words;
        for (const Stage& stage : stages_) words += (words.empty() ? "" : " + ") + stage.device->describe();
        return words;
    }
    int32_t max_rows() const override {
        int32_t least = INT32_MAX;
        for (const Stage& stage : stages_) least = std::min(least, stage.device->max_rows());
        return least;
    }
    bool prefers_candidates() const override { return stages_.back().device->prefers_candidates(); }
    // Never ahead: a stage needs the ids themselves, and so waits for the last one.
    int32_t path(int32_t position, int32_t length) const override {
        int32_t most = 0;
        for (const Stage& stage : stages_) most = std::max(most, stage.device->path(position, length));
        return most;
    }

    void set_deterministic(bool on) override {
        for (const Stage& stage : stages_) stage.device->set_deterministic(on);
    }

    int32_t n_parts() const override { return int32_t(stages_.size()); }
    void select(int32_t part) override {
        if (part >= 0 && part < n_parts()) selected_ = part;
    }
    std::optional<uint64_t> free_memory() const override { return selected().device->free_memory(); }
    Status reserve(uint64_t weights) override { return named(selected(), selected().device->reserve(weights)); }

    uint64_t matrix_bytes(const MatrixShape& shape) const override { return selected().device->matrix_bytes(shape); }
    uint64_t kv_bytes(const ModelSpec& spec, const KvSpec& kv) const override {
        return selected().device->kv_bytes(stage_spec(spec, selected_, n_parts(), matrices_, vectors_), kv);
    }
    uint64_t scratch_bytes(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted) const override {
        const ModelSpec stage = stage_spec(spec, selected_, n_parts(), matrices_, vectors_);
        return selected().device->scratch_bytes(stage, max_rows, stage.has_head ? max_wanted : 0);
    }
    MemoryUse memory() const override { return selected().device->memory(); }

    Status pack(const QuantSource& source, Matrix* out) override { return keep(matrices_, source, out); }
    Status pack(const DenseSource& source, Matrix* out) override { return keep(matrices_, source, out); }
    Status upload(std::span<const float> values, Vector* out) override {
        return guarded([&] {
            vectors_.reserve_one();
            Vector own;
            if (Status status = selected().device->upload(values, &own); !status.ok()) return named(selected(), status);
            out->id = vectors_.add(selected_, own.id);
            return Status{};
        });
    }

    Status prepare(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted) override {
        return guarded([&] {
            if (max_rows_) return Status::error(failed_precondition, "the device is prepared already");
            if (Status status = check_stages(spec, n_parts()); !status.ok()) return status;
            slots_.reserve(size_t(std::max(max_rows, 0)));
            for (int32_t part = 0; part < n_parts(); ++part) {
                Stage& stage = stages_[size_t(part)];
                const ModelSpec own = stage_spec(spec, part, n_parts(), matrices_, vectors_);
                if (Status status = stage.device->prepare(own, max_rows, own.has_head ? max_wanted : 0); !status.ok())
                    return named(stage, std::move(status));
            }
            max_rows_ = max_rows;
            max_wanted_ = max_wanted;
            return Status{};
        });
    }

    Status make_kv(const ModelSpec& spec, const KvSpec& kv, Kv* out) override {
        return guarded([&] {
            if (Status status = check_stages(spec, n_parts()); !status.ok()) return status;
            size_t id = 1;
            while (id < kv_.size() && kv_[id]) ++id;
            if (id >= kv_.size()) kv_.resize(id + 1);
            SplitKv made{kv, {}};
            made.of_stage.reserve(stages_.size());
            for (int32_t part = 0; part < n_parts(); ++part) {
                Kv own;
                Device& device = *stages_[size_t(part)].device;
                Status status = device.make_kv(stage_spec(spec, part, n_parts(), matrices_, vectors_), kv, &own);
                if (!status.ok()) {
                    free_all(made);
                    return named(stages_[size_t(part)], std::move(status));
                }
                made.of_stage.push_back(own);
            }
            kv_[id] = std::move(made);
            *out = {uint32_t(id)};
            return Status{};
        });
    }
    void free_kv(Kv kv) override {
        if (!find_kv(kv)) return;
        free_all(*kv_[kv.id]);
        kv_[kv.id].reset();
    }
    Status truncate(Kv kv, std::span<const int32_t> blocks, int32_t n_tokens) override {
        const SplitKv* found = find_kv(kv);
        if (!found) return no_kv(kv);
        for (size_t i = 0; i < stages_.size(); ++i) {
            Status status = stages_[i].device->truncate(found->of_stage[i], blocks, n_tokens);
            if (!status.ok()) return named(stages_[i], std::move(status));
        }
        return {};
    }

    // All stages but the last have computed when it returns; the last may be under way.
    Ticket submit(const ModelSpec& spec, const Step& step, const Walk& walk) override {
        const Ticket ticket{next_ticket_++};
        // A device may keep no more than one result.
        for (Pending& pending : pending_) {
            if (pending.under_way && last().device->finished(pending.of_last)) collect(pending);
        }
        Pending& pending = pending_.emplace_back();
        pending.ticket = ticket.id;
        pending.status = guarded([&] { return run(spec, step, walk, pending); });
        latest_ = ticket.id;
        before_.failed = true;  // until its result is known
        return ticket;
    }
    Status wait(Ticket ticket, StepResult* out) override {
        const auto found =
            std::find_if(pending_.begin(), pending_.end(), [&](const Pending& p) { return p.ticket == ticket.id; });
        if (found == pending_.end()) {
            return Status::error(
                not_found, "ticket " + std::to_string(ticket.id) + " is not waiting: it was given twice or never");
        }
        collect(*found);
        Status status = std::move(found->status);
        if (out) *out = std::move(found->result);
        pending_.erase(found);
        return status;
    }
    bool finished(Ticket ticket) override {
        for (const Pending& pending : pending_) {
            if (pending.ticket == ticket.id) return !pending.under_way || last().device->finished(pending.of_last);
        }
        return true;
    }

 private:
    struct Stage {
        std::string name;  // "cuda:1"
        std::unique_ptr<Device> device;
        std::unique_ptr<ModelSpec> spec;  // at one address while the model is the same
        int32_t first_layer = 0;
    };
    struct SplitKv {
        KvSpec spec;
        std::vector<Kv> of_stage;
    };
    struct Pending {
        uint64_t ticket = 0;
        Ticket of_last;
        bool under_way = false;  // on the last stage, which reads what follows
        Step step;
        KnownRows rows;
        std::vector<float> hidden;
        Status status;
        StepResult result;
    };

    const Stage& selected() const { return stages_[size_t(selected_)]; }
    Stage& last() { return stages_.back(); }
    const SplitKv* find_kv(Kv kv) const { return kv.id < kv_.size() && kv_[kv.id] ? &*kv_[kv.id] : nullptr; }
    static Status no_kv(Kv kv) { return Status::error(not_found, "there is no KV cache " + std::to_string(kv.id)); }
    void free_all(const SplitKv& kv) {
        for (size_t i = 0; i < kv.of_stage.size(); ++i) stages_[i].device->free_kv(kv.of_stage[i]);
    }

    static Status named(const Stage& stage, Status status) {
        if (!status.ok() && status.code != cancelled) status.message = stage.name + ": " + status.message;
        return status;
    }
    template <class Work>
    static Status guarded(Work&& work) {
        try {
            return work();
        } catch (const std::bad_alloc&) {
            return Status::error(resource_exhausted, "there is no memory for a model over several devices");
        }
    }
    template <class Source>
    Status keep(PlacedHandles& handles, const Source& source, Matrix* out) {
        return guarded([&] {
            handles.reserve_one();
            Matrix own;
            if (Status status = selected().device->pack(source, &own); !status.ok())
                return named(selected(), std::move(status));
            out->id = handles.add(selected_, own.id);
            return Status{};
        });
    }

    /// Specs of the stages, new ones where the model is not the one of the step before.
    Status update_specs(const ModelSpec& spec) {
        write_image(spec, new_image_);
        if (new_image_ == image_) return {};
        image_.clear();
        if (Status status = check_stages(spec, n_parts()); !status.ok()) return status;
        collect_all();
        std::vector<std::unique_ptr<ModelSpec>> specs;  // beside the old ones: never at an address that meant another
        for (int32_t part = 0; part < n_parts(); ++part) {
            specs.push_back(std::make_unique<ModelSpec>(stage_spec(spec, part, n_parts(), matrices_, vectors_)));
        }
        int32_t first = 0;
        for (size_t i = 0; i < stages_.size(); ++i) {
            stages_[i].first_layer = first;
            first += int32_t(specs[i]->layers.size());
            stages_[i].spec = std::move(specs[i]);
        }
        image_.swap(new_image_);
        return {};
    }

    Status run(const ModelSpec& spec, const Step& step, const Walk& walk, Pending& pending) {
        if (!max_rows_)
            return Status::error(failed_precondition, "a step was submitted before the device was prepared");
        const SplitKv* kv = find_kv(step.kv);
        if (!kv) return no_kv(step.kv);
        if (Status status = update_specs(spec); !status.ok()) return status;
        if (std::any_of(step.rows.begin(), step.rows.end(), [](const Row& row) { return row.token < 0; }))
            collect_all();
        // Before the first stage: it writes keys and values.
        if (Status status = check_step(spec, step, kv->spec, max_rows_, max_wanted_, slots_, &before_); !status.ok())
            return status;
        Step& own = pending.step;
        own = step;
        own.rows = pending.rows.fill(step.rows, chosen_);
        for (size_t i = 0; i < stages_.size(); ++i) {
            Stage& stage = stages_[i];
            own.kv = kv->of_stage[i];
            const bool ends = i + 1 == stages_.size();
            own.wanted = ends ? step.wanted : std::span<const Wanted>();
            own.adjusts = ends ? step.adjusts : std::span<const Adjust>();
            if (i > 0) own.hidden_in = pending.hidden;
            const Ticket ticket = stage.device->submit(*stage.spec, own, [&](Ops& ops) {
                StageOps stage_ops(ops, spec, *stage.spec, stage.first_layer);
                return walk(stage_ops);
            });
            if (ends) {
                pending.of_last = ticket;
                pending.under_way = true;
                break;
            }
            StepResult result;
            if (Status status = stage.device->wait(ticket, &result); !status.ok())
                return named(stage, std::move(status));
            if (result.hidden.size() != own.rows.size() * size_t(spec.hidden_size)) {
                return named(stage, Status::error(invalid_argument,
                                                  "the walk of a stage without the head ended without head_sample"));
            }
            pending.hidden = std::move(result.hidden);
        }
        return {};
    }

    /// Waits for the last stage.
    void collect(Pending& pending) {
        if (!pending.under_way) return;
        pending.status = named(last(), last().device->wait(pending.of_last, &pending.result));
        pending.under_way = false;
        settle(pending);
    }
    void collect_all() {
        for (Pending& pending : pending_) collect(pending);
    }
    /// A step's result is known; the latest one's choices are kept for the step after it.
    void settle(Pending& pending) {
        if (!pending.status.ok()) pending.result = {};
        if (pending.ticket != latest_ || !pending.status.ok()) return;
        keep_chosen(pending.step, pending.result, before_, chosen_);
        before_.failed = false;
    }

    std::vector<Stage> stages_;
    int32_t selected_ = 0;
    PlacedHandles matrices_, vectors_;
    std::vector<std::optional<SplitKv>> kv_{1};
    int32_t max_rows_ = 0, max_wanted_ = 0;
    SpecImage image_, new_image_;
    std::vector<int64_t> slots_;
    uint64_t next_ticket_ = 1, latest_ = 0;
    std::deque<Pending> pending_;
    StepBefore before_;
    std::vector<int32_t> chosen_;  // by the step submitted last
};

}  // namespace
}  // namespace split

Status make_split_device(std::vector<std::unique_ptr<Device>> stages, std::unique_ptr<Device>* out) {
    if (stages.empty()) return Status::error(invalid_argument, "a model over several devices is given none");
    for (const std::unique_ptr<Device>& stage : stages) {
        if (!stage || stage->n_parts() != 1)
            return Status::error(invalid_argument, "a stage of a model is no device, or is split itself");
    }
    *out = stages.size() == 1 ? std::move(stages.front()) : std::make_unique<split::SplitDevice>(std::move(stages));
    return {};
}

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
