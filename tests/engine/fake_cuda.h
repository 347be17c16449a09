// A CUDA device for tests of plans: the CPU computes, memory is what the test says.
#pragma once

#include <algorithm>
#include <memory>
#include <string>

#include "engine/model/options.h"
#include "kernels/device.h"

namespace quantplug::test {

struct FakeCards {
    std::vector<uint64_t> free;      // of each card, bytes
    std::vector<uint64_t> reserved;  // by reserve, in the order of its calls
    kernels::Status refusal;         // of make_cuda_device, where it is an error
    bool there = true;               // a card, usable or not
    bool deterministic = false;      // as the last device was told
    static constexpr int32_t max_rows = 256;

    engine::DeviceMakers makers();
};

class FakeCuda : public kernels::Device {
 public:
    FakeCuda(FakeCards& cards, int32_t ordinal) : cards_(cards), ordinal_(ordinal) {
        if (!kernels::make_cpu_device(1, &cpu_).ok()) std::abort();
    }

    std::string describe() const override { return "cuda:" + std::to_string(ordinal_) + " (fake)"; }
    int32_t max_rows() const override { return FakeCards::max_rows; }
    int32_t path(int32_t position, int32_t length) const override { return position + 1 < length; }
    void set_deterministic(bool on) override { cards_.deterministic = on; }
    std::optional<uint64_t> free_memory() const override { return cards_.free[size_t(ordinal_)]; }
    kernels::Status reserve(uint64_t weights) override {
        cards_.reserved.push_back(weights);
        return {};
    }
    uint64_t matrix_bytes(const kernels::MatrixShape& shape) const override { return cpu_->matrix_bytes(shape); }
    uint64_t kv_bytes(const kernels::ModelSpec& spec, const kernels::KvSpec& kv) const override {
        return cpu_->kv_bytes(spec, kv);
    }
    uint64_t scratch_bytes(const kernels::ModelSpec& spec, int32_t rows, int32_t wanted) const override {
        return cpu_->scratch_bytes(spec, rows, wanted);
    }
    kernels::MemoryUse memory() const override { return cpu_->memory(); }
    kernels::Status pack(const kernels::QuantSource& source, kernels::Matrix* out) override {
        return cpu_->pack(source, out);
    }
    kernels::Status pack(const kernels::DenseSource& source, kernels::Matrix* out) override {
        return cpu_->pack(source, out);
    }
    kernels::Status upload(std::span<const float> values, kernels::Vector* out) override {
        return cpu_->upload(values, out);
    }
    kernels::Status prepare(const kernels::ModelSpec& spec, int32_t rows, int32_t wanted) override {
        return cpu_->prepare(spec, rows, wanted);
    }
    kernels::Status make_kv(const kernels::ModelSpec& spec, const kernels::KvSpec& kv, kernels::Kv* out) override {
        return cpu_->make_kv(spec, kv, out);
    }
    void free_kv(kernels::Kv kv) override { cpu_->free_kv(kv); }
    kernels::Status truncate(kernels::Kv kv, std::span<const int32_t> blocks, int32_t n_tokens) override {
        return cpu_->truncate(kv, blocks, n_tokens);
    }
    kernels::Ticket submit(const kernels::ModelSpec& spec, const kernels::Step& step,
                           const kernels::Walk& walk) override {
        return cpu_->submit(spec, step, walk);
    }
    kernels::Status wait(kernels::Ticket ticket, kernels::StepResult* out) override { return cpu_->wait(ticket, out); }
    bool finished(kernels::Ticket ticket) override { return cpu_->finished(ticket); }

 private:
    FakeCards& cards_;
    int32_t ordinal_;
    std::unique_ptr<kernels::Device> cpu_;
};

inline engine::DeviceMakers FakeCards::makers() {
    engine::DeviceMakers out;
    out.cuda_devices = [this] { return std::vector<std::string>(refusal.ok() ? free.size() : 0, "fake card"); };
    out.make_cuda = [this](int32_t ordinal, std::unique_ptr<kernels::Device>* device) {
        if (!refusal.ok()) return refusal;
        if (size_t(ordinal) >= free.size())
            return kernels::Status::error(kernels::unavailable, "there is no card " + std::to_string(ordinal));
        *device = std::make_unique<FakeCuda>(*this, ordinal);
        return kernels::Status{};
    };
    out.has_card = [this] { return there; };
    return out;
}

}  // namespace quantplug::test
