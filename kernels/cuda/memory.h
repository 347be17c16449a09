// Device memory of a CUDA device: one allocation a purpose, slabs for the weights.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/cuda/runtime.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// One allocation, released with it. On the device, or pinned on the host.
class Block {
 public:
    enum Where : uint8_t { device, host };

    Block() = default;
    ~Block() { reset(); }
    Block(Block&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)), where_(other.where_) {}
    Block& operator=(Block&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(where_, other.where_);
        return *this;
    }

    /// Nothing is held for 0 bytes.
    static Status make(uint64_t bytes, Where where, Block* out);
    void reset();
    uint8_t* data() const { return data_; }
    uint64_t size() const { return size_; }

 private:
    uint8_t* data_ = nullptr;
    uint64_t size_ = 0;
    Where where_ = device;
};

/// Weights: slabs that grow upwards, freed as a whole.
class Slabs {
 public:
    Status reserve(uint64_t bytes);
    /// 256-byte aligned.
    Status allocate(uint64_t bytes, uint8_t** out);
    /// Takes back the latest allocation.
    void take_back(uint64_t bytes);
    uint64_t used() const { return used_; }  // the sum of what was asked for

 private:
    std::vector<Block> slabs_;
    uint64_t slab_used_ = 0, used_ = 0;
};

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
