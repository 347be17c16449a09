#include "kernels/cpu/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

constexpr uint64_t large_page = uint64_t(2) << 20, slab_bytes = uint64_t(64) << 20;

uint64_t round_to_64(uint64_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

Mapping::Mapping(uint64_t bytes, bool large_pages) {
    if (bytes == 0 || bytes > uint64_t(std::numeric_limits<int64_t>::max()) / 2) return;
    const uint64_t mapped = large_pages ? (bytes + large_page - 1) / large_page * large_page + large_page : bytes;
    void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return;
    base_ = base;
    mapped_ = mapped;
    data_ = static_cast<uint8_t*>(base);
    if (large_pages) {
        data_ += (large_page - uint64_t(reinterpret_cast<uintptr_t>(base)) % large_page) % large_page;
        madvise(data_, bytes / large_page * large_page, MADV_HUGEPAGE);  // advice: a refusal costs speed only
    }
    size_ = bytes;
}

Mapping::~Mapping() {
    if (base_) munmap(base_, mapped_);
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      base_(std::exchange(other.base_, nullptr)),
      mapped_(std::exchange(other.mapped_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(base_, other.base_);
    std::swap(mapped_, other.mapped_);
    return *this;
}

uint8_t* Arena::allocate(uint64_t bytes) {
    if (bytes > uint64_t(std::numeric_limits<int64_t>::max()) / 2) return nullptr;
    bytes = round_to_64(bytes);
    if (slabs_.empty() || bytes > slabs_.back().size() - slab_used_) {
        slabs_.reserve(slabs_.size() + 1);
        Mapping slab(std::max(bytes, slab_bytes), true);
        if (!slab.data()) slab = Mapping(bytes, true);
        if (!slab.data()) return nullptr;
        slabs_.push_back(std::move(slab));
        slab_used_ = 0;
    }
    uint8_t* data = slabs_.back().data() + slab_used_;
    slab_used_ += bytes;
    used_ += bytes;
    return data;
}

void Arena::take_back(uint64_t bytes) {
    bytes = round_to_64(bytes);
    slab_used_ -= bytes;
    used_ -= bytes;
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
