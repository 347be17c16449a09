// Memory of the CPU device: mapped, not malloc'ed, so that it goes back to the system at once and large pages can serve
// it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/version.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {

/// One mapping, zero at first. Empty where the system gave none.
class Mapping {
 public:
    Mapping() = default;
    Mapping(uint64_t bytes, bool large_pages);
    ~Mapping();
    Mapping(Mapping&& other) noexcept;
    Mapping& operator=(Mapping&& other) noexcept;

    uint8_t* data() const { return data_; }
    uint64_t size() const { return size_; }

 private:
    uint8_t* data_ = nullptr;
    uint64_t size_ = 0;
    void* base_ = nullptr;  // of the mapping; data_ is aligned in it
    uint64_t mapped_ = 0;
};

/// Weights: slabs that grow upwards; freed as a whole.
class Arena {
 public:
    /// 64-byte aligned; null where the system gives no more. Content: whatever a taken-back allocation left.
    uint8_t* allocate(uint64_t bytes);
    /// Takes back the latest allocation.
    void take_back(uint64_t bytes);
    uint64_t used() const { return used_; }  // the sum of what was asked for, each rounded up to 64

 private:
    std::vector<Mapping> slabs_;
    uint64_t slab_used_ = 0, used_ = 0;
};

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
