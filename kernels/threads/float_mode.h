// The floating-point mode of every computing entry: nearest-even, denormals kept, exceptions masked, whatever the host
// has set.
#pragma once

#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

class FloatMode {
 public:
#if defined(__SSE__)
    FloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
    ~FloatMode() { _mm_setcsr(unsigned(saved_)); }
#elif defined(__aarch64__)
    FloatMode() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" : : "r"(uint64_t(0)));
    }
    ~FloatMode() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
#else
    FloatMode() {}
    ~FloatMode() {}
#endif
    FloatMode(const FloatMode&) = delete;
    FloatMode& operator=(const FloatMode&) = delete;

 private:
    [[maybe_unused]] uint64_t saved_ = 0;
};

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
