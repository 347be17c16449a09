// The reference device: decoded weights, plain vectors, steps of reference/ops.h.
#include <algorithm>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/half.h"
#include "kernels/reference/ops.h"
#include "kernels/step.h"
#include "kernels/threads/float_mode.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace reference {
namespace {

uint64_t plain_bytes(const MatrixShape& shape) {
    const uint64_t weights = saturating_mul(count_of(shape.in_features), count_of(shape.out_features));
    return saturating_mul(saturating_add(weights, shape.has_bias ? count_of(shape.out_features) : 0), sizeof(float));
}

class ReferenceDevice final : public Device, private Handles {
 public:
    std::string describe() const override { return "reference (double precision)"; }
    uint64_t matrix_bytes(const MatrixShape& shape) const override { return plain_bytes(shape); }
    uint64_t kv_bytes(const ModelSpec& spec, const KvSpec& kv) const override {
        const uint64_t tokens = saturating_mul(count_of(kv.n_blocks), count_of(kv.block_tokens));
        const uint64_t width = saturating_mul(count_of(spec.n_kv_heads), count_of(spec.head_dim));
        return saturating_mul(saturating_mul(saturating_mul(tokens, width), spec.layers.size()), 2 * sizeof(double));
    }
    uint64_t scratch_bytes(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted) const override {
        uint64_t bytes = 0;
        for (const PlainSlot& slot : plain_slots(spec, max_rows, max_wanted))
            bytes = saturating_add(bytes, saturating_mul(saturating_mul(slot.rows, slot.width), sizeof(double)));
        return bytes;
    }
    MemoryUse memory() const override {
        MemoryUse use{0, 0, ops_.scratch_bytes()};
        for (const PlainMatrix& m : ops_.matrices) use.weights += (m.weights.size() + m.bias.size()) * sizeof(float);
        for (const auto& v : ops_.vectors) use.weights += v.size() * sizeof(float);
        for (const auto& kv : kv_) use.kv += kv ? (kv->keys.size() + kv->values.size()) * sizeof(double) : 0;
        return use;
    }

    Status pack(const QuantSource& source, Matrix* out) override {
        return guarded([&] {
            if (Status status = check_quant(source); !status.ok()) return status;
            const size_t k = size_t(source.in_features), n = size_t(source.out_features);
            std::vector<uint16_t> decoded(k * n);
            if (Status status = decode_f16(source, 0, source.in_features, decoded.data()); !status.ok()) return status;
            PlainMatrix matrix{source.in_features, source.out_features, std::vector<float>(k * n), source.bias};
            for (size_t r = 0; r < k; ++r) {
                const size_t input = source.perm.empty() ? r : size_t(source.perm[r]);
                for (size_t c = 0; c < n; ++c) matrix.weights[c * k + input] = f16_to_f32(decoded[r * n + c]);
            }
            return keep(std::move(matrix), out);
        });
    }
    Status pack(const DenseSource& source, Matrix* out) override {
        return guarded([&] {
            if (Status status = check_dense(source); !status.ok()) return status;
            const size_t count = size_t(source.in_features) * size_t(source.out_features);
            PlainMatrix matrix{source.in_features, source.out_features, std::vector<float>(count), source.bias};
            if (source.dtype == DType::f32) {
                if (Status status = source.read_rows(0, source.out_features, matrix.weights.data()); !status.ok())
                    return status;
            } else {
                std::vector<uint16_t> stored(count);
                if (Status status = source.read_rows(0, source.out_features, stored.data()); !status.ok())
                    return status;
                std::transform(stored.begin(), stored.end(), matrix.weights.begin(),
                               [&](uint16_t v) { return source.dtype == DType::f16 ? f16_to_f32(v) : bf16_to_f32(v); });
            }
            return keep(std::move(matrix), out);
        });
    }
    Status upload(std::span<const float> values, Vector* out) override {
        return guarded([&] {
            if (values.empty()) return Status::error(invalid_argument, "a vector has no values");
            ops_.vectors.emplace_back(values.begin(), values.end());
            *out = {uint32_t(ops_.vectors.size() - 1)};
            return Status{};
        });
    }
    Status prepare(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted) override {
        return guarded([&] {
            if (max_rows_) return Status::error(failed_precondition, "the device is prepared already");
            if (Status status = check_dimensions(spec); !status.ok()) return status;
            if (max_rows < 1 || max_rows > max_step_rows || max_wanted < 0 || max_wanted > max_step_rows) {
                return Status::error(invalid_argument, "steps of " + std::to_string(max_rows) + " rows with " +
                                                           std::to_string(max_wanted) + " wanted are outside 1.." +
                                                           std::to_string(max_step_rows));
            }
            ops_.prepare(spec, max_rows, max_wanted);
            scratch_ = scratch_bytes(spec, max_rows, max_wanted);
            max_rows_ = max_rows;
            max_wanted_ = max_wanted;
            return Status{};
        });
    }
    Status make_kv(const ModelSpec& spec, const KvSpec& kv, Kv* out) override {
        return guarded([&] {
            if (Status status = check_kv(spec, kv); !status.ok()) return status;
            PlainKv cache{kv, int32_t(spec.layers.size()), spec.n_kv_heads * spec.head_dim, {}, {}};
            const size_t count = cache.at(cache.n_layers, 0, 0);
            cache.keys.resize(count);
            cache.values.resize(count);
            kv_.emplace_back(std::move(cache));
            *out = {uint32_t(kv_.size() - 1)};
            return Status{};
        });
    }
    void free_kv(Kv kv) override {
        if (kv.id < kv_.size()) kv_[kv.id].reset();
    }
    Status truncate(Kv kv, std::span<const int32_t>, int32_t) override {
        return kv.id < kv_.size() && kv_[kv.id]
                   ? Status{}
                   : Status::error(not_found, "there is no KV cache " + std::to_string(kv.id));
    }
    Ticket submit(const ModelSpec& spec, const Step& step, const Walk& walk) override {
        Pending& pending = pending_.emplace_back(Pending{++ticket_, {}, {}});
        pending.status = guarded([&] { return run(spec, step, walk, &pending.result); });
        before_.failed = !pending.status.ok();
        return {ticket_};
    }
    Status wait(Ticket ticket, StepResult* out) override {
        const auto found =
            std::find_if(pending_.begin(), pending_.end(), [&](const Pending& p) { return p.id == ticket.id; });
        if (found == pending_.end()) {
            return Status::error(
                not_found, "ticket " + std::to_string(ticket.id) + " is not waiting: it was given twice or never");
        }
        Status status = std::move(found->status);
        if (out) *out = status.ok() ? std::move(found->result) : StepResult{};
        pending_.erase(found);
        return status;
    }
    bool finished(Ticket) override { return true; }

 private:
    template <class Work>
    Status guarded(Work&& work) {
        const FloatMode mode;
        try {
            return work();
        } catch (const std::bad_alloc&) {
            return Status::error(resource_exhausted, "there is no memory for the reference device");
        }
    }
    Status keep(PlainMatrix matrix, Matrix* out) {
        ops_.matrices.push_back(std::move(matrix));
        *out = {uint32_t(ops_.matrices.size() - 1)};
        return {};
    }
    struct Pending {
        uint64_t id;
        Status status;
        StepResult result;
    };
    Status run(const ModelSpec& spec, const Step& step, const Walk& walk, StepResult* result) {
        if (!max_rows_)
            return Status::error(failed_precondition, "a step was submitted before the device was prepared");
        if (Status status = check_model(spec, *this); !status.ok()) return status;
        if (scratch_bytes(spec, max_rows_, max_wanted_) != scratch_) {
            return Status::error(failed_precondition,
                                 "a step's model has other dimensions than the one the device was prepared for");
        }
        if (step.kv.id >= kv_.size() || !kv_[step.kv.id]) {
            return Status::error(not_found, "there is no KV cache " + std::to_string(step.kv.id));
        }
        PlainKv& kv = *kv_[step.kv.id];
        if (kv.n_layers != int32_t(spec.layers.size()) || kv.width != spec.n_kv_heads * spec.head_dim) {
            return Status::error(invalid_argument, "the step's KV cache was made for a model of other dimensions");
        }
        std::vector<int64_t> slots;
        if (Status status = check_step(spec, step, kv.spec, max_rows_, max_wanted_, slots, &before_); !status.ok())
            return status;
        Step known = step;
        known.rows = rows_.fill(step.rows, chosen_);
        ops_.begin_step(spec, known, &kv, result);
        if (!walk(ops_)) return Status::error(cancelled, "the step was cancelled");
        if (ops_.status().ok() && !step.wanted.empty() && !ops_.sampled()) {
            return Status::error(invalid_argument, "the step wants results, and its walk ended without head_sample");
        }
        if (ops_.status().ok()) keep_chosen(step, *result, before_, chosen_);
        return ops_.status();
    }
    bool matrix_size(Matrix matrix, int32_t* in_features, int32_t* out_features) const override {
        if (matrix.id == 0 || matrix.id >= ops_.matrices.size()) return false;
        *in_features = ops_.matrices[matrix.id].k;
        *out_features = ops_.matrices[matrix.id].n;
        return true;
    }
    bool vector_size(Vector vector, int32_t* size) const override {
        if (vector.id == 0 || vector.id >= ops_.vectors.size()) return false;
        *size = int32_t(ops_.vectors[vector.id].size());
        return true;
    }

    ReferenceOps ops_;
    std::vector<std::optional<PlainKv>> kv_{1};
    int32_t max_rows_ = 0, max_wanted_ = 0;
    uint64_t scratch_ = 0, ticket_ = 0;
    StepBefore before_;
    std::vector<int32_t> chosen_;  // by before_: the ids of its argmaxes
    KnownRows rows_;
    std::vector<Pending> pending_;
};

}  // namespace
}  // namespace reference

std::unique_ptr<Device> make_reference_device() { return std::make_unique<reference::ReferenceDevice>(); }

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
