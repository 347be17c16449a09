#include "kernels/bench/gpu/synthetic.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <stdexcept>

#include "kernels/half.h"

namespace quantplug::bench {

using namespace quantplug::kernels;

namespace {

constexpr int32_t block_tokens = 64;
constexpr size_t pool_bytes = size_t(16) << 20;

}  // namespace

void check(const Status& status) {
    if (!status.ok()) throw std::runtime_error(status.message);
}

SyntheticModel::SyntheticModel(std::unique_ptr<Device> device, const SyntheticShape& shape, int32_t bits, int32_t group,
                               int32_t max_positions, int32_t n_sequences, int32_t max_rows)
    : device_(std::move(device)), shape_(shape), pool_(pool_bytes) {
    std::mt19937_64 random(7);
    for (size_t i = 0; i < pool_.size(); i += 8) {
        const uint64_t value = random();
        std::memcpy(pool_.data() + i, &value, 8);
    }
    spec_.hidden_size = shape.hidden;
    spec_.intermediate_size = shape.inner;
    spec_.n_vocab = shape.n_vocab;
    spec_.n_heads = shape.n_heads;
    spec_.n_kv_heads = shape.n_kv_heads;
    spec_.head_dim = shape.head_dim;
    spec_.attention_scale = 1 / std::sqrt(float(shape.head_dim));
    spec_.max_positions = max_positions;
    RopeSpec rope;
    for (int32_t t = 0; t < shape.head_dim / 2; ++t)
        rope.inv_freq.push_back(std::pow(10000.0f, -2 * float(t) / float(shape.head_dim)));
    spec_.ropes = {rope};
    const std::vector<float> ones(size_t(shape.hidden), 1.0f);
    const auto norm = [&] {
        NormSpec out{NormSpec::rms, 1e-5f, {}, {}};
        check(device_->upload(ones, &out.weight));
        return out;
    };
    const int32_t q = shape.n_heads * shape.head_dim, kv = shape.n_kv_heads * shape.head_dim;
    for (int32_t l = 0; l < shape.n_layers; ++l) {
        LayerSpec layer;
        layer.attention_norm = norm();
        layer.mlp_norm = norm();
        layer.q = matrix(shape.hidden, q, bits, group);
        layer.k = matrix(shape.hidden, kv, bits, group);
        layer.v = matrix(shape.hidden, kv, bits, group);
        layer.o = matrix(q, shape.hidden, bits, group);
        layer.gate = matrix(shape.hidden, shape.inner, bits, group);
        layer.up = matrix(shape.hidden, shape.inner, bits, group);
        layer.down = matrix(shape.inner, shape.hidden, bits, group);
        spec_.layers.push_back(layer);
    }
    spec_.final_norm = norm();
    spec_.head = matrix(shape.hidden, shape.n_vocab, std::max(bits, 6), group);
    spec_.embedding = plain(shape.hidden, shape.n_vocab);
    max_blocks_ = (max_positions + block_tokens - 1) / block_tokens;
    const KvSpec kv_spec{KvSpec::f16, block_tokens, max_blocks_ * n_sequences};
    check(device_->make_kv(spec_, kv_spec, &kv_));
    kv_bytes_per_token_ = device_->kv_bytes(spec_, kv_spec) / (uint64_t(kv_spec.n_blocks) * block_tokens);
    check(device_->prepare(spec_, max_rows, std::max(n_sequences, 1)));
    for (int32_t b = 0; b < kv_spec.n_blocks; ++b) table_.push_back(b);
}

Matrix SyntheticModel::matrix(int32_t k, int32_t n, int32_t bits, int32_t group) {
    QuantSource source;
    source.in_features = k;
    source.out_features = n;
    for (int32_t row = 0; row < k; row += group) source.groups.push_back({bits, std::min(group, k - row)});
    // Values of about 1 / sqrt(k): the residual stream neither dies nor grows.
    const float scale = 2 / (float(1 << bits) * std::sqrt(float(k)));
    std::mt19937_64 random(++seed_);
    for (size_t i = 0; i < source.groups.size() * size_t(n); ++i)
        source.scales.push_back(f32_to_f16(scale * (0.75f + float(random() % 512) / 1024)));
    const uint8_t mask = uint8_t((1u << bits) - 1);
    source.read_codes = [this, n, mask, start = random() % pool_bytes](int32_t row0, int32_t rows, uint8_t* codes) {
        size_t at = (start + size_t(row0) * size_t(n) * 7) % pool_bytes;
        for (size_t i = 0, count = size_t(rows) * size_t(n); i < count; ++i) {
            codes[i] = pool_[at] & mask;
            at = at + 1 == pool_bytes ? 0 : at + 1;
        }
        return Status{};
    };
    Matrix out;
    check(device_->pack(source, &out));
    bytes_per_step_ += device_->matrix_bytes(source.shape());
    return out;
}

Matrix SyntheticModel::plain(int32_t k, int32_t n) {
    DenseSource source;
    source.in_features = k;
    source.out_features = n;
    source.dtype = DType::f16;
    source.read_rows = [k](int32_t row0, int32_t rows, void* out) {
        std::mt19937_64 random(uint64_t(row0) + 1);
        auto* values = static_cast<uint16_t*>(out);
        for (size_t i = 0, count = size_t(rows) * size_t(k); i < count; ++i)
            values[i] = f32_to_f16(float(int32_t(random() % 2001) - 1000) / 1000);
        return Status{};
    };
    Matrix out;
    check(device_->pack(source, &out));
    return out;
}

Ticket SyntheticModel::submit(const std::vector<Row>& rows, const std::vector<Wanted>& wanted) {
    const Walk walk = [this](Ops& ops) {
        const Activations x = ops.embed(spec_);
        for (size_t l = 0; l < spec_.layers.size(); ++l) {
            const LayerSpec& layer = spec_.layers[l];
            ops.project_add(spec_, layer,
                            ops.rope_append_attend(spec_, layer, int32_t(l), ops.norm_qkv(spec_, layer, x)), x);
            ops.down_add(spec_, layer, ops.gate_up_act(spec_, layer, x), x);
        }
        ops.head_sample(spec_, x);
        return true;
    };
    return device_->submit(spec_, {rows, kv_, table_, max_blocks_, wanted, rows.size() > 1}, walk);
}

StepResult SyntheticModel::wait(Ticket ticket) {
    StepResult result;
    check(device_->wait(ticket, &result));
    return result;
}

StepResult SyntheticModel::run(const std::vector<Row>& rows, const std::vector<Wanted>& wanted) {
    return wait(submit(rows, wanted));
}

}  // namespace quantplug::bench
