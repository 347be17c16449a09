// The CPU behind kernels::Device. A step runs inside submit; wait hands its result over.
#include "kernels/device.h"

#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/table.h"
#include "kernels/step.h"
#include "kernels/threads/float_mode.h"
#include "kernels/threads/pool.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

constexpr int32_t max_threads = 1024;

Status no_memory(const char* what, uint64_t bytes) {
    return Status::error(resource_exhausted, std::string("there is no memory for the ") + what + " of " +
                                                 std::to_string(bytes) +
                                                 " bytes; take a smaller model or context, or free memory");
}

Status no_memory() {
    return Status::error(resource_exhausted, "there is no memory; take a smaller model or context, or free memory");
}

// What a prepared scratch depends on.
bool same_dimensions(const ModelSpec& a, const ModelSpec& b) {
    return a.hidden_size == b.hidden_size && a.intermediate_size == b.intermediate_size && a.n_vocab == b.n_vocab &&
           a.n_heads == b.n_heads && a.n_kv_heads == b.n_kv_heads && a.head_dim == b.head_dim &&
           a.n_experts == b.n_experts && a.expert_intermediate_size == b.expert_intermediate_size &&
           a.shared_intermediate_size == b.shared_intermediate_size && a.embedding_size == b.embedding_size &&
           a.max_positions == b.max_positions && a.ropes.size() == b.ropes.size() && a.compute == b.compute;
}

class CpuDevice final : public Device, private Handles {
 public:
    CpuDevice(const Table& table, int32_t threads) : table_(table), threads_(threads), ops_(table, threads) {}

    std::string describe() const override {
        return std::string("cpu (") + table_.name + ", " + std::to_string(threads_) +
               (threads_ == 1 ? " thread)" : " threads)");
    }

    uint64_t matrix_bytes(const MatrixShape& shape) const override { return packed_bytes(shape); }
    uint64_t kv_bytes(const ModelSpec& spec, const KvSpec& kv) const override {
        const uint64_t tokens = saturating_mul(count_of(kv.n_blocks), count_of(kv.block_tokens));
        const uint64_t width =
            saturating_mul(count_of(spec.n_kv_heads), KvRow(kv.type, count_of(spec.head_dim)).total());
        return saturating_mul(saturating_mul(tokens, saturating_mul(width, 2)), spec.layers.size());
    }
    uint64_t scratch_bytes(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted) const override {
        return ScratchPlan(spec, max_rows, max_wanted, threads_).total;
    }
    MemoryUse memory() const override {
        MemoryUse use{weights_.used(), 0, scratch_.size()};
        for (const auto& kv : kv_) use.kv += kv ? kv->bytes : 0;
        return use;
    }

    Status pack(const QuantSource& source, Matrix* out) override {
        return guarded([&] {
            PackedMatrix matrix;
            if (Status status = reserve_handle(ops_.matrices); !status.ok()) return status;
            if (Status status = pack_quant(source, threads_, weights_, &matrix); !status.ok()) return status;
            matrix.order = order_of(matrix);
            ops_.matrices.push_back(matrix);
            *out = {uint32_t(ops_.matrices.size() - 1)};
            return Status{};
        });
    }
    Status pack(const DenseSource& source, Matrix* out) override {
        return guarded([&] {
            PackedMatrix matrix;
            if (Status status = reserve_handle(ops_.matrices); !status.ok()) return status;
            if (Status status = pack_dense(source, weights_, &matrix); !status.ok()) return status;
            ops_.matrices.push_back(matrix);
            *out = {uint32_t(ops_.matrices.size() - 1)};
            return Status{};
        });
    }
    Status upload(std::span<const float> values, Vector* out) override {
        return guarded([&] {
            if (values.empty() || values.size() > 1 << 24) {
                return Status::error(invalid_argument,
                                     "a vector has " + std::to_string(values.size()) + " values, outside 1..2^24");
            }
            if (Status status = reserve_handle(ops_.vectors); !status.ok()) return status;
            auto* data = reinterpret_cast<float*>(weights_.allocate(values.size_bytes()));
            if (!data) return no_memory("vector", values.size_bytes());
            std::memcpy(data, values.data(), values.size_bytes());
            ops_.vectors.push_back({data, int32_t(values.size())});
            *out = {uint32_t(ops_.vectors.size() - 1)};
            return Status{};
        });
    }

    Status prepare(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted) override {
        return guarded([&] {
            if (prepared_) return Status::error(failed_precondition, "the device is prepared already");
            if (Status status = check_dimensions(spec); !status.ok()) return status;
            if (spec.compute != Compute::standard && spec.compute != Compute::exact) {
                return Status::error(
                    unimplemented,
                    "this CPU device computes `default` and `exact`; take one of them instead of `fast`");
            }
            if (max_rows < 1 || max_rows > max_step_rows || max_wanted < 0 || max_wanted > max_step_rows) {
                return Status::error(invalid_argument, "steps of " + std::to_string(max_rows) + " rows with " +
                                                           std::to_string(max_wanted) + " wanted are outside 1.." +
                                                           std::to_string(max_step_rows));
            }
            const ScratchPlan plan(spec, max_rows, max_wanted, threads_);
            slots_.reserve(size_t(max_rows));
            ModelSpec dimensions = spec;
            dimensions.layers.clear();
            Mapping scratch(plan.total, false);
            if (!scratch.data()) return no_memory("scratch", plan.total);
            scratch_ = std::move(scratch);
            ops_.set_scratch(plan, scratch_.data());
            max_rows_ = max_rows;
            max_wanted_ = max_wanted;
            prepared_ = std::move(dimensions);
            return Status{};
        });
    }

    Status make_kv(const ModelSpec& spec, const KvSpec& kv, Kv* out) override {
        return guarded([&] {
            if (Status status = check_kv(spec, kv); !status.ok()) return status;
            KvCache cache;
            cache.spec = kv;
            cache.n_layers = int32_t(spec.layers.size());
            cache.n_kv_heads = spec.n_kv_heads;
            cache.head_dim = spec.head_dim;
            cache.bytes = kv_bytes(spec, kv);
            cache.memory = Mapping(cache.bytes, false);
            if (cache.bytes && !cache.memory.data()) return no_memory("KV cache", cache.bytes);
            size_t id = 1;
            while (id < kv_.size() && kv_[id]) ++id;
            if (id >= kv_.size()) kv_.resize(id + 1);
            kv_[id] = std::move(cache);
            *out = {uint32_t(id)};
            return Status{};
        });
    }
    void free_kv(Kv kv) override {
        if (kv.id < kv_.size()) kv_[kv.id].reset();
    }
    Status truncate(Kv kv, std::span<const int32_t> blocks, int32_t n_tokens) override {
        // Keys beyond the end are never read: attention stops at the row's position. Only the arguments are looked at.
        if (!find_kv(kv)) return Status::error(not_found, "there is no KV cache " + std::to_string(kv.id));
        if (n_tokens < 0)
            return Status::error(invalid_argument, "a sequence cannot keep " + std::to_string(n_tokens) + " tokens");
        for (int32_t block : blocks) {
            if (block < 0 || block >= find_kv(kv)->spec.n_blocks) {
                return Status::error(invalid_argument, "block " + std::to_string(block) + " is outside the KV cache");
            }
        }
        return {};
    }

    Ticket submit(const ModelSpec& spec, const Step& step, const Walk& walk) override {
        StepResult result;
        Status status = guarded([&] { return run(spec, step, walk, &result); });
        before_.failed = !status.ok();
        if (!status.ok()) result = {};
        const Ticket ticket{next_ticket_++};
        pending_.push_back({ticket.id, std::move(status), std::move(result)});
        return ticket;
    }
    Status wait(Ticket ticket, StepResult* out) override {
        for (size_t i = 0; i < pending_.size(); ++i) {
            if (pending_[i].id != ticket.id) continue;
            Status status = std::move(pending_[i].status);
            if (out) *out = std::move(pending_[i].result);
            pending_.erase(pending_.begin() + int64_t(i));
            return status;
        }
        return Status::error(not_found,
                             "ticket " + std::to_string(ticket.id) + " is not waiting: it was given twice or never");
    }
    bool finished(Ticket) override { return true; }

 private:
    struct Pending {
        uint64_t id;
        Status status;
        StepResult result;
    };

    template <class Work>
    Status guarded(Work&& work) {
        const FloatMode mode;
        try {
            return work();
        } catch (const std::bad_alloc&) {
            return no_memory();
        }
    }

    // Room for one more handle before its memory is taken, so that a failure loses nothing.
    template <class T>
    Status reserve_handle(std::vector<T>& table) {
        if (table.size() == table.capacity()) table.reserve(2 * table.size());
        return {};
    }

    Status run(const ModelSpec& spec, const Step& step, const Walk& walk, StepResult* result) {
        if (!prepared_)
            return Status::error(failed_precondition, "a step was submitted before the device was prepared");
        if (!same_dimensions(spec, *prepared_)) {
            return Status::error(failed_precondition,
                                 "a step's model has other dimensions than the one the device was prepared for");
        }
        if (Status status = check_model(spec, *this); !status.ok()) return status;
        const KvCache* kv = find_kv(step.kv);
        if (!kv) return Status::error(not_found, "there is no KV cache " + std::to_string(step.kv.id));
        if (kv->n_layers != int32_t(spec.layers.size()) || kv->n_kv_heads != spec.n_kv_heads ||
            kv->head_dim != spec.head_dim) {
            return Status::error(invalid_argument, "the step's KV cache was made for a model of other dimensions");
        }
        if (Status status = check_step(spec, step, kv->spec, max_rows_, max_wanted_, slots_, &before_); !status.ok())
            return status;
        Step known = step;
        known.rows = rows_.fill(step.rows, chosen_);
        ops_.begin_step(spec, known, *kv, result);
        if (!walk(ops_)) return Status::error(cancelled, "the step was cancelled");
        if (!ops_.status().ok()) return ops_.status();
        if (!step.wanted.empty() && !ops_.sampled()) {
            return Status::error(invalid_argument, "the step wants results, and its walk ended without head_sample");
        }
        keep_chosen(step, *result, before_, chosen_);
        return {};
    }

    const KvCache* find_kv(Kv kv) const { return kv.id < kv_.size() && kv_[kv.id] ? &*kv_[kv.id] : nullptr; }

    bool matrix_size(Matrix matrix, int32_t* in_features, int32_t* out_features) const override {
        if (matrix.id == 0 || matrix.id >= ops_.matrices.size()) return false;
        *in_features = ops_.matrices[matrix.id].k;
        *out_features = ops_.matrices[matrix.id].n;
        return true;
    }
    bool vector_size(Vector vector, int32_t* size) const override {
        if (vector.id == 0 || vector.id >= ops_.vectors.size()) return false;
        *size = ops_.vectors[vector.id].size;
        return true;
    }

    // The first matrix that takes its input in the same order gives the order its number.
    uint32_t order_of(const PackedMatrix& matrix) const {
        for (size_t i = 1; i < ops_.matrices.size(); ++i) {
            const PackedMatrix& other = ops_.matrices[i];
            if (!other.quantised || other.order != i || other.k != matrix.k ||
                other.quant.chunks != matrix.quant.chunks)
                continue;
            if (!other.gather != !matrix.gather) continue;
            const size_t bytes = size_t(matrix.quant.chunks) * chunk_rows * sizeof(int32_t);
            if (!matrix.gather || std::memcmp(other.gather, matrix.gather, bytes) == 0) return uint32_t(i);
        }
        return uint32_t(ops_.matrices.size());
    }

    const Table& table_;
    const int32_t threads_;
    Arena weights_;
    Mapping scratch_;
    std::vector<std::optional<KvCache>> kv_{1};
    CpuOps ops_;
    std::optional<ModelSpec> prepared_;  // its dimensions
    int32_t max_rows_ = 0, max_wanted_ = 0;
    std::vector<int64_t> slots_;
    StepBefore before_;
    std::vector<int32_t> chosen_;  // by before_: the ids of its argmaxes
    KnownRows rows_;
    uint64_t next_ticket_ = 1;
    std::vector<Pending> pending_;
};

}  // namespace
}  // namespace cpu

Status make_cpu_device(int32_t threads, std::unique_ptr<Device>* out) {
    if (threads < 0 || threads > cpu::max_threads) {
        return Status::error(invalid_argument, "threads is " + std::to_string(threads) + ", outside 0.." +
                                                   std::to_string(cpu::max_threads));
    }
    const cpu::Table* table = nullptr;
    if (Status status = cpu::machine_table(&table); !status.ok()) return status;
    try {
        *out = std::make_unique<cpu::CpuDevice>(*table, threads ? threads : default_threads());
    } catch (const std::bad_alloc&) {
        return cpu::no_memory();
    }
    return {};
}

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
