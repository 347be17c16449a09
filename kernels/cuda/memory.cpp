#include "kernels/cuda/memory.h"

#include <algorithm>

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

constexpr uint64_t slab_bytes = uint64_t(64) << 20, alignment = 256;

uint64_t aligned(uint64_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

}  // namespace

Status Block::make(uint64_t bytes, Where where, Block* out) {
    Block block;
    block.where_ = where;
    if (bytes) {
        void* data = nullptr;
        const Status status = where == device ? allocate(bytes, &data) : allocate_host(bytes, &data);
        if (!status.ok()) return status;
        block.data_ = static_cast<uint8_t*>(data);
        block.size_ = bytes;
    }
    *out = std::move(block);
    return {};
}

void Block::reset() {
    if (data_) where_ == device ? release(data_) : release_host(data_);
    data_ = nullptr;
    size_ = 0;
}

Status Slabs::reserve(uint64_t bytes) {
    slabs_.reserve(slabs_.size() + 1);
    Block slab;
    if (Status status = Block::make(aligned(bytes), Block::device, &slab); !status.ok()) return status;
    slabs_.push_back(std::move(slab));
    slab_used_ = 0;
    return {};
}

Status Slabs::allocate(uint64_t bytes, uint8_t** out) {
    if (bytes > uint64_t(1) << 62) return Status::error(resource_exhausted, "the device has no memory for a matrix");
    const uint64_t taken = aligned(bytes);
    if (slabs_.empty() || taken > slabs_.back().size() - slab_used_) {
        Status status = reserve(std::max(taken, slab_bytes));
        if (!status.ok() && status.code == resource_exhausted && taken < slab_bytes) status = reserve(taken);
        if (!status.ok()) return status;
    }
    *out = slabs_.back().data() + slab_used_;
    slab_used_ += taken;
    used_ += bytes;
    return {};
}

void Slabs::take_back(uint64_t bytes) {
    slab_used_ -= aligned(bytes);
    used_ -= bytes;
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
