// Memory of a CUDA device: weights, cache, scratch, and how it begins and ends. Steps: device_steps.cpp.
#include "kernels/cuda/device.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <string>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/messages.h"
#include "kernels/threads/float_mode.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

template <class Work>
Status CudaDevice::guarded(Work&& work) const {
    const FloatMode mode;
    const UseDevice use(ordinal_);
    if (!use.status().ok()) return use.status();
    try {
        return work();
    } catch (const std::bad_alloc&) {
        return Status::error(resource_exhausted,
                             "there is no host memory; take a smaller model or context, or free memory");
    }
}

CudaDevice::CudaDevice(int32_t ordinal, DeviceFacts facts) : ordinal_(ordinal), facts_(std::move(facts)) {}

Status CudaDevice::make(int32_t ordinal, std::unique_ptr<Device>* out) {
    int32_t n = 0;
    if (Status status = count_devices(&n); !status.ok()) return status;
    if (ordinal < 0 || ordinal >= n) return no_such_card(ordinal, n);
    DeviceFacts facts;
    if (Status status = device_facts(ordinal, &facts); !status.ok()) return status;
    if (facts.major * 10 + facts.minor < 75) return card_too_old(ordinal, facts);
    std::unique_ptr<CudaDevice> device(new CudaDevice(ordinal, std::move(facts)));
    const Status status = device->guarded([&] {
        if (Status made = create_stream(&device->stream_); !made.ok()) return made;
        device->queue_ = Queue(device->stream_);
        for (Lane& lane : device->lanes_) {
            if (Status made = create_event(&lane.done); !made.ok()) return made;
        }
        device->blas_ = Blas::open();
        return Status{};
    });
    if (!status.ok()) return status;
    *out = std::move(device);
    return {};
}

CudaDevice::~CudaDevice() {
    (void)guarded([&] {
        if (stream_) (void)synchronize(stream_);  // after a fault it answers at once
        graphs_.clear();
        blas_.reset();
        for (Lane& lane : lanes_) {
            if (lane.done) destroy_event(lane.done);
            lane = {};
        }
        kv_.clear();
        scratch_.reset();
        weights_ = {};
        if (stream_) destroy_stream(stream_);
        return Status{};
    });
}

std::string CudaDevice::describe() const {
    return "cuda:" + std::to_string(ordinal_) + " (" + facts_.name + ", compute capability " +
           std::to_string(facts_.major) + "." + std::to_string(facts_.minor) +
           (blas_ ? std::string(", ") + blas_->version() : std::string()) + ")";
}

std::optional<uint64_t> CudaDevice::free_memory() const {
    uint64_t free_bytes = 0, total = 0;
    const Status status = guarded([&] { return memory_info(&free_bytes, &total); });
    if (!status.ok()) return 0;
    // Modules are loaded when their kernels first run, and graphs take memory of their own.
    constexpr uint64_t reserve_bytes = uint64_t(192) << 20;
    return free_bytes - std::min(free_bytes, reserve_bytes);
}

Status CudaDevice::reserve(uint64_t weights) {
    // What is allocated is a multiple of 256 each: a megabyte covers thousands of norms.
    return guarded([&] { return weights_.reserve(saturating_add(weights, uint64_t(1) << 20)); });
}

// ---------------------------------------------------------------- plans

uint64_t CudaDevice::matrix_bytes(const MatrixShape& shape) const {
    return plan_pack(shape, facts_.n_multiprocessors).total;
}
uint64_t CudaDevice::kv_bytes(const ModelSpec& spec, const KvSpec& kv) const { return kv_layer_bytes(spec, kv).total; }
uint64_t CudaDevice::scratch_bytes(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted) const {
    return ScratchLayout(spec, max_rows, max_wanted).total;
}
MemoryUse CudaDevice::memory() const {
    MemoryUse use{weights_.used(), 0, scratch_.size()};
    for (const auto& kv : kv_) use.kv += kv ? kv->bytes : 0;
    return use;
}

// ---------------------------------------------------------------- weights

uint32_t CudaDevice::order_of(const std::vector<int32_t>& gather) {
    for (size_t i = 0; i < orders_.size(); ++i) {
        if (orders_[i] == gather) return uint32_t(i);
    }
    orders_.push_back(gather);
    return uint32_t(orders_.size() - 1);
}

template <class Source>
Status CudaDevice::pack_any(const Source& source, Matrix* out) {
    const PackPlan plan = plan_pack(source.shape(), facts_.n_multiprocessors);
    ops_.matrices.reserve(ops_.matrices.size() + 1);
    uint8_t* base = nullptr;
    if (Status status = weights_.allocate(plan.total, &base); !status.ok()) return status;
    const auto fill_it = [&]() -> Status {
        image_.resize(plan.total);
        if (Status status = pack_image(source, plan, image_.data()); !status.ok()) return status;
        if (Status status = copy_to_device(stream_, base, image_.data(), plan.total); !status.ok()) return status;
        return synchronize(stream_);
    };
    Status status;
    try {
        status = fill_it();
    } catch (const std::bad_alloc&) {
        status = no_memory(plan.total, "host memory, to pack a matrix");
    }
    if (!status.ok()) {
        weights_.take_back(plan.total);
        return status;
    }
    StoredMatrix matrix{placed(plan, base), 0};
    std::vector<int32_t> gather(size_t(matrix.view.k_padded));
    std::memcpy(gather.data(), image_.data() + plan.gather, gather.size() * sizeof(int32_t));
    matrix.order = order_of(gather);
    ops_.matrices.push_back(matrix);
    *out = {uint32_t(ops_.matrices.size() - 1)};
    return {};
}

Status CudaDevice::pack(const QuantSource& source, Matrix* out) {
    return guarded([&] {
        if (Status status = check_quant(source); !status.ok()) return status;
        return pack_any(source, out);
    });
}
Status CudaDevice::pack(const DenseSource& source, Matrix* out) {
    return guarded([&] {
        if (Status status = check_dense(source); !status.ok()) return status;
        return pack_any(source, out);
    });
}
Status CudaDevice::upload(std::span<const float> values, Vector* out) {
    return guarded([&] {
        if (values.empty() || values.size() > 1 << 24) {
            return Status::error(invalid_argument,
                                 "a vector has " + std::to_string(values.size()) + " values, outside 1..2^24");
        }
        ops_.vectors.reserve(ops_.vectors.size() + 1);
        uint8_t* base = nullptr;
        if (Status status = weights_.allocate(values.size_bytes(), &base); !status.ok()) return status;
        Status status = copy_to_device(stream_, base, values.data(), values.size_bytes());
        if (status.ok()) status = synchronize(stream_);
        if (!status.ok()) {
            weights_.take_back(values.size_bytes());
            return status;
        }
        ops_.vectors.push_back({reinterpret_cast<const float*>(base), int32_t(values.size())});
        *out = {uint32_t(ops_.vectors.size() - 1)};
        return Status{};
    });
}

// ---------------------------------------------------------------- scratch and cache

Status CudaDevice::prepare(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted) {
    return guarded([&] {
        if (prepared_) return Status::error(failed_precondition, "the device is prepared already");
        if (Status status = check_dimensions(spec); !status.ok()) return status;
        if (spec.compute != Compute::standard) {
            return Status::error(unimplemented, "a CUDA device computes `default`; take it, or the CPU (--device cpu)");
        }
        if (spec.head_dim > 256) {
            return Status::error(unimplemented, "head_dim is " + std::to_string(spec.head_dim) +
                                                    ", a CUDA device has attention for up to 256; use --device cpu");
        }
        if (max_rows < 1 || max_rows > max_step_rows || max_wanted < 0 || max_wanted > max_step_rows) {
            return Status::error(invalid_argument, "steps of " + std::to_string(max_rows) + " rows with " +
                                                       std::to_string(max_wanted) + " wanted are outside 1.." +
                                                       std::to_string(max_step_rows));
        }
        const ScratchLayout layout(spec, max_rows, max_wanted);
        Block scratch;
        if (Status status = Block::make(layout.total, Block::device, &scratch); !status.ok()) return status;
        ops_.set_scratch(layout, scratch.data(), facts_.n_multiprocessors);
        // Counters and operands' padding start from zeros.
        if (Status status = fill(stream_, scratch.data(), 0, layout.total); !status.ok()) return status;
        std::vector<float> tables(2 * spec.ropes.size() * size_t(layout.angles_ld));
        for (size_t i = 0; i < spec.ropes.size(); ++i) {
            float* table = tables.data() + 2 * i * size_t(layout.angles_ld);
            std::copy(spec.ropes[i].inv_freq.begin(), spec.ropes[i].inv_freq.end(), table);
            std::copy(spec.ropes[i].long_inv_freq.begin(), spec.ropes[i].long_inv_freq.end(), table + layout.angles_ld);
        }
        const auto put = [&](const ScratchLayout::Part& part, const std::vector<float>& values) {
            if (values.empty()) return Status{};
            return copy_to_device(stream_, scratch.data() + part.offset, values.data(), values.size() * sizeof(float));
        };
        if (Status status = put(layout.rope_tables, tables); !status.ok()) return status;
        if (Status status = put(layout.slopes, spec.alibi_slopes); !status.ok()) return status;
        if (Status status = synchronize(stream_); !status.ok()) return status;
        for (Lane& lane : lanes_) {
            Status status = lane.buffer.prepare(layout, scratch.data() + layout.step.offset);
            const uint64_t wanted = uint64_t(layout.max_wanted);
            if (status.ok()) {
                status = Block::make(wanted * (sizeof(RowAnswer) + most_candidates * sizeof(CandidateRecord)),
                                     Block::host, &lane.answers);
            }
            if (status.ok() && spec.has_head)
                status = Block::make(wanted * count_of(spec.n_vocab) * sizeof(float), Block::host, &lane.logits);
            if (status.ok() && (!spec.has_head || !spec.embeds))
                status = Block::make(layout.stage.bytes, Block::host, &lane.hidden);
            if (!status.ok()) return status;
        }
        scratch_ = std::move(scratch);
        layout_ = layout;
        image_ = {};
        prepared_ = spec;
        prepared_->layers.clear();
        max_rows_ = max_rows;
        max_wanted_ = max_wanted;
        return Status{};
    });
}

Status CudaDevice::make_kv(const ModelSpec& spec, const KvSpec& kv, Kv* out) {
    return guarded([&] {
        if (Status status = check_kv(spec, kv); !status.ok()) return status;
        if (kv.type == KvSpec::f32)
            return Status::error(unimplemented,
                                 "a CUDA device keeps its cache in f16, q8 or q4; take one of them instead of f32");
        if (kv.block_tokens % least_block_tokens) {
            return Status::error(invalid_argument, "block_tokens is " + std::to_string(kv.block_tokens) +
                                                       "; on a CUDA device it is a multiple of " +
                                                       std::to_string(least_block_tokens));
        }
        if (uint64_t(kv.n_blocks) * uint64_t(kv.block_tokens) > uint64_t(std::numeric_limits<int32_t>::max()))
            return Status::error(invalid_argument, "the KV cache has more than 2^31 tokens");
        StoredKv cache;
        cache.spec = kv;
        cache.n_layers = int32_t(spec.layers.size());
        cache.n_kv_heads = spec.n_kv_heads;
        cache.head_dim = spec.head_dim;
        cache.bytes = kv_layer_bytes(spec, kv).total;
        if (Status status = Block::make(cache.bytes, Block::device, &cache.memory); !status.ok()) return status;
        // Padding of the heads is read.
        if (Status status = fill(stream_, cache.memory.data(), 0, cache.bytes); !status.ok()) return status;
        if (Status status = synchronize(stream_); !status.ok()) return status;
        size_t id = 1;
        while (id < kv_.size() && kv_[id]) ++id;
        if (id >= kv_.size()) kv_.resize(id + 1);
        kv_[id] = std::move(cache);
        *out = {uint32_t(id)};
        return Status{};
    });
}

void CudaDevice::free_kv(Kv kv) {
    (void)guarded([&] {
        if (!find_kv(kv)) return Status{};
        (void)synchronize(stream_);
        graphs_.clear();
        kv_[kv.id].reset();
        return Status{};
    });
}

Status CudaDevice::truncate(Kv kv, std::span<const int32_t> blocks, int32_t n_tokens) {
    // Keys beyond the end are never read: attention stops at the row's position. Only the arguments are looked at.
    if (!find_kv(kv)) return Status::error(not_found, "there is no KV cache " + std::to_string(kv.id));
    if (n_tokens < 0)
        return Status::error(invalid_argument, "a sequence cannot keep " + std::to_string(n_tokens) + " tokens");
    for (int32_t block : blocks) {
        if (block < 0 || block >= find_kv(kv)->spec.n_blocks)
            return Status::error(invalid_argument, "block " + std::to_string(block) + " is outside the KV cache");
    }
    return {};
}

bool CudaDevice::matrix_size(Matrix matrix, int32_t* in_features, int32_t* out_features) const {
    if (matrix.id == 0 || matrix.id >= ops_.matrices.size()) return false;
    *in_features = ops_.matrices[matrix.id].view.k;
    *out_features = ops_.matrices[matrix.id].view.n;
    return true;
}
bool CudaDevice::vector_size(Vector vector, int32_t* size) const {
    if (vector.id == 0 || vector.id >= ops_.vectors.size()) return false;
    *size = ops_.vectors[vector.id].size;
    return true;
}

}  // namespace cuda

std::vector<std::string> cuda_devices() {
    std::vector<std::string> names;
    int32_t n = 0;
    if (!cuda::count_devices(&n).ok()) return names;
    for (int32_t i = 0; i < n; ++i) {
        cuda::DeviceFacts facts;
        if (cuda::device_facts(i, &facts).ok() && facts.major * 10 + facts.minor >= 75) names.push_back(facts.name);
    }
    return names;
}

Status make_cuda_device(int32_t ordinal, std::unique_ptr<Device>* out) { return cuda::CudaDevice::make(ordinal, out); }

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
