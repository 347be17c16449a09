// The reference: plain loops in double precision over decoded weights, straight from the formulas. No packing, no
// fusion, no threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/half.h"
#include "kernels/ops.h"
#include "kernels/step.h"
#include "kernels/threads/float_mode.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace {

struct PlainMatrix {
    int32_t k = 0, n = 0;
    std::vector<float> weights;  // (N, K)
    std::vector<float> bias;     // (N), or empty
};

struct PlainKv {
    KvSpec spec;
    int32_t n_layers = 0, width = 0;   // width: n_kv_heads * head_dim
    std::vector<double> keys, values;  // (layer, block, token, width)

    size_t at(int32_t layer, int32_t block, int32_t offset) const {
        return ((size_t(layer) * size_t(spec.n_blocks) + size_t(block)) * size_t(spec.block_tokens) + size_t(offset)) *
               size_t(width);
    }
};

struct PlainSlot {
    int32_t width = 0;
    std::vector<double> values;  // (rows, width)
};

class ReferenceOps final : public BlockOps {
 public:
    std::vector<PlainMatrix> matrices{1};
    std::vector<std::vector<float>> vectors{1};

    void begin_step(const ModelSpec& spec, const Step& step, PlainKv* kv, StepResult* result) {
        begin(spec, step, result);
        kv_ = kv;
    }
    void prepare(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted) {
        const int32_t q_width = spec.n_heads * spec.head_dim, kv_width = spec.n_kv_heads * spec.head_dim;
        const auto make = [&](Slot slot, int32_t n_rows, int32_t width) {
            slots_[size_t(slot)] = {width, std::vector<double>(size_t(n_rows) * size_t(width))};
        };
        make(Slot::residual, max_rows, spec.hidden_size);
        make(Slot::normed, max_rows, spec.hidden_size);
        make(Slot::qkv, max_rows, q_width + 2 * kv_width);
        make(Slot::attended, max_rows, q_width);
        make(Slot::gate, max_rows, spec.intermediate_size);
        make(Slot::up, max_rows, spec.intermediate_size);
        make(Slot::wanted, max_wanted, spec.hidden_size);
        make(Slot::logits, max_wanted, spec.n_vocab);
        wanted_rows_ = std::max(1, max_wanted);
    }
    uint64_t scratch_bytes() const {
        uint64_t bytes = 0;
        for (const PlainSlot& slot : slots_) bytes += slot.values.size() * sizeof(double);
        return bytes;
    }

 private:
    double* row(Slot slot, int32_t r) {
        PlainSlot& s = slots_[size_t(slot)];
        return s.values.data() + size_t(r) * size_t(s.width);
    }
    int32_t rows(Slot slot) const {
        return slot == Slot::wanted || slot == Slot::logits ? n_wanted_ : int32_t(step_->rows.size());
    }

    void embed_rows(Matrix embedding, Slot out) override {
        const PlainMatrix& matrix = matrices[embedding.id];
        for (int32_t r = 0; r < rows(out); ++r) {
            const float* from = matrix.weights.data() + size_t(step_->rows[size_t(r)].token) * size_t(matrix.k);
            std::copy(from, from + matrix.k, row(out, r));
        }
    }
    static void rms(const double* x, const std::vector<float>& weight, int32_t n, double eps, double* out) {
        double sum = 0;
        for (int32_t i = 0; i < n; ++i) sum += x[i] * x[i];
        const double factor = 1 / std::sqrt(sum / n + eps);
        for (int32_t i = 0; i < n; ++i) out[i] = x[i] * factor * double(weight[size_t(i)]);
    }
    void norm(const NormSpec& norm, Slot x, int32_t width, Slot out) override {
        for (int32_t r = 0; r < rows(x); ++r) {
            if (norm.kind == NormSpec::none) {
                std::copy(row(x, r), row(x, r) + width, row(out, r));
            } else {
                rms(row(x, r), vectors[norm.weight.id], width, double(norm.eps), row(out, r));
            }
        }
    }
    void project(Matrix w, Slot x, Slot out, int32_t column, Store store) override {
        const PlainMatrix& matrix = matrices[w.id];
        for (int32_t r = 0; r < rows(x); ++r) {
            for (int32_t n = 0; n < matrix.n; ++n) {
                double sum = matrix.bias.empty() ? 0 : double(matrix.bias[size_t(n)]);
                const float* weights = matrix.weights.data() + size_t(n) * size_t(matrix.k);
                for (int32_t k = 0; k < matrix.k; ++k) sum += row(x, r)[k] * double(weights[k]);
                double& to = row(out, r)[column + n];
                to = store == Store::add ? to + sum : sum;
            }
        }
    }
    void head_norm(const NormSpec& norm, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) override {
        for (int32_t r = 0; r < rows(x); ++r) {
            for (int32_t h = 0; h < n_heads; ++h) {
                double* head = row(x, r) + column + h * head_dim;
                rms(head, vectors[norm.weight.id], head_dim, double(norm.eps), head);
            }
        }
    }
    void rope(const RopeSpec& rope, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) override {
        const int32_t half = int32_t(rope.inv_freq.size());
        for (int32_t r = 0; r < rows(x); ++r) {
            for (int32_t t = 0; t < half; ++t) {
                const double angle = double(step_->rows[size_t(r)].position) * double(rope.inv_freq[size_t(t)]);
                const double c = std::cos(angle) * double(rope.scale), s = std::sin(angle) * double(rope.scale);
                for (int32_t h = 0; h < n_heads; ++h) {
                    double* head = row(x, r) + column + h * head_dim;
                    const double a = head[t], b = head[t + half];
                    head[t] = a * c - b * s;
                    head[t + half] = b * c + a * s;
                }
            }
        }
    }
    int32_t block_of(const Row& token, int32_t position) const {
        return step_->block_table[size_t(token.sequence) * size_t(step_->max_blocks) +
                                  size_t(position / kv_->spec.block_tokens)];
    }
    void append(const ModelSpec& spec, int32_t layer, Slot qkv) override {
        for (int32_t r = 0; r < rows(qkv); ++r) {
            const Row& token = step_->rows[size_t(r)];
            const size_t at = kv_->at(layer, block_of(token, token.position), token.position % kv_->spec.block_tokens);
            const double* key = row(qkv, r) + spec.n_heads * spec.head_dim;
            std::copy(key, key + kv_->width, kv_->keys.data() + at);
            std::copy(key + kv_->width, key + 2 * kv_->width, kv_->values.data() + at);
        }
    }
    void attend(const ModelSpec& spec, const LayerSpec& layer, int32_t index, Slot qkv, Slot out) override {
        const int32_t dim = spec.head_dim;
        std::vector<double> p;
        for (int32_t r = 0; r < rows(qkv); ++r) {
            const Row& token = step_->rows[size_t(r)];
            const int32_t first = layer.window > 0 ? std::max(0, token.position - layer.window + 1) : 0;
            for (int32_t h = 0; h < spec.n_heads; ++h) {
                const size_t kv_column = size_t(h / (spec.n_heads / spec.n_kv_heads)) * size_t(dim);
                const double* q = row(qkv, r) + h * dim;
                double* to = row(out, r) + h * dim;
                p.clear();
                for (int32_t t = first; t <= token.position; ++t) {
                    const double* key =
                        kv_->keys.data() + kv_->at(index, block_of(token, t), t % kv_->spec.block_tokens) + kv_column;
                    double dot = 0;
                    for (int32_t d = 0; d < dim; ++d) dot += q[d] * key[d];
                    p.push_back(dot * double(spec.attention_scale));
                }
                const double largest = *std::max_element(p.begin(), p.end());
                double sum = 0;
                for (double& value : p) sum += value = std::exp(value - largest);
                std::fill(to, to + dim, 0.0);
                for (int32_t t = first; t <= token.position; ++t) {
                    const double* value =
                        kv_->values.data() + kv_->at(index, block_of(token, t), t % kv_->spec.block_tokens) + kv_column;
                    for (int32_t d = 0; d < dim; ++d) to[d] += p[size_t(t - first)] / sum * value[d];
                }
            }
        }
    }
    void gated(Activation, Slot gate, Slot up, int32_t width) override {
        for (int32_t r = 0; r < rows(gate); ++r) {
            double *g = row(gate, r), *u = row(up, r);
            for (int32_t i = 0; i < width; ++i) g[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
        }
    }
    int32_t wanted_rows() const override { return wanted_rows_; }
    void select(Slot x, std::span<const Wanted> wanted, int32_t width, Slot out) override {
        n_wanted_ = int32_t(wanted.size());
        for (int32_t i = 0; i < n_wanted_; ++i) std::copy_n(row(x, wanted[size_t(i)].row), width, row(out, i));
    }
    void emit(std::span<const Wanted> wanted, int32_t n_vocab, Slot logits, StepResult* result) override {
        for (int32_t i = 0; i < n_wanted_; ++i) {
            const double *z = row(logits, i), *best = std::max_element(z, z + n_vocab);  // the first of equals
            if (wanted[size_t(i)].what == Wanted::logits) {
                result->values.insert(result->values.end(), z, z + n_vocab);
                continue;
            }
            double sum = 0;
            for (int32_t v = 0; v < n_vocab; ++v) sum += std::exp(z[v] - *best);
            const bool argmax = wanted[size_t(i)].what == Wanted::argmax;
            if (argmax) result->tokens.push_back(int32_t(best - z));
            result->values.push_back(float((argmax ? *best : z[wanted[size_t(i)].token]) - *best - std::log(sum)));
        }
    }

    PlainSlot slots_[size_t(Slot::count)];
    PlainKv* kv_ = nullptr;
    int32_t n_wanted_ = 0, wanted_rows_ = 1;
};

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
        const uint64_t q_width = saturating_mul(count_of(spec.n_heads), count_of(spec.head_dim));
        const uint64_t kv_width = saturating_mul(count_of(spec.n_kv_heads), count_of(spec.head_dim));
        const uint64_t per_row =
            2 * count_of(spec.hidden_size) + 2 * count_of(spec.intermediate_size) + 2 * q_width + 2 * kv_width;
        const uint64_t per_wanted = count_of(spec.hidden_size) + count_of(spec.n_vocab);
        return saturating_mul(saturating_add(saturating_mul(per_row, count_of(max_rows)),
                                             saturating_mul(per_wanted, count_of(max_wanted))),
                              sizeof(double));
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
        result_ = {};
        status_ = guarded([&] { return run(spec, step, walk); });
        return {++ticket_};
    }
    Status wait(Ticket ticket, StepResult* out) override {
        if (ticket.id != ticket_)
            return Status::error(not_found, "ticket " + std::to_string(ticket.id) + " is not waiting");
        if (out) *out = std::move(result_);
        return std::exchange(status_,
                             Status::error(not_found, "ticket " + std::to_string(ticket.id) + " was given twice"));
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
    Status run(const ModelSpec& spec, const Step& step, const Walk& walk) {
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
        if (Status status = check_step(spec, step, kv.spec, max_rows_, max_wanted_, slots); !status.ok()) return status;
        ops_.begin_step(spec, step, &kv, &result_);
        if (!walk(ops_)) return Status::error(cancelled, "the step was cancelled");
        if (ops_.status().ok() && !step.wanted.empty() && !ops_.sampled()) {
            return Status::error(invalid_argument, "the step wants results, and its walk ended without head_sample");
        }
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
    Status status_;
    StepResult result_;
};

}  // namespace

std::unique_ptr<Device> make_reference_device() { return std::make_unique<ReferenceDevice>(); }

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
