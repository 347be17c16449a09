// What the CUDA runtime's failures say, once for the runtime and for the shim, and the first sticky fault of the
// process.
#pragma once

#include <atomic>
#include <cstdio>
#include <string>

#include "kernels/cuda/runtime.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

inline std::string cuda_version(int32_t v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }

inline Status no_driver() {
    return Status::error(unavailable, "no NVIDIA driver was found; install one, or use --device cpu");
}
inline Status driver_too_old(int32_t driver, int32_t runtime) {
    return Status::error(unavailable, "the NVIDIA driver supports CUDA " + cuda_version(driver) +
                                          " and this build needs CUDA " + cuda_version(runtime) + "; install driver " +
                                          (runtime >= 13000 ? "580" : "525") + " or newer, or use --device cpu");
}
inline Status no_card() {
    return Status::error(
        unavailable, "the NVIDIA driver shows no card to this process (see CUDA_VISIBLE_DEVICES); use --device cpu");
}
inline Status card_too_old(int32_t ordinal, const DeviceFacts& facts) {
    return Status::error(unavailable, "cuda:" + std::to_string(ordinal) + " (" + facts.name +
                                          ") has compute capability " + std::to_string(facts.major) + "." +
                                          std::to_string(facts.minor) +
                                          " and 7.5 is needed; use another card, or --device cpu");
}
inline Status no_such_card(int32_t ordinal, int32_t n) {
    return Status::error(invalid_argument, "there is no device cuda:" + std::to_string(ordinal) +
                                               "; this process sees " + std::to_string(n) +
                                               (n == 1 ? " card" : " cards"));
}
inline Status no_memory(uint64_t bytes, const char* of) {
    return Status::error(resource_exhausted,
                         "no room for " + std::to_string(bytes) + " bytes of " + of +
                             "; use a shorter context, fewer sequences, or fewer layers on the device");
}

/// The first sticky fault: static storage, constant-initialised, trivially destructible, so that a thread that outlives
/// main may still ask.
class FirstFault {
 public:
    void keep(int32_t device, const char* call, const char* error) {
        int expected = none;
        if (!state_.compare_exchange_strong(expected, writing)) return;
        std::snprintf(
            text_, sizeof text_,
            "cuda:%d failed in %s: %s; CUDA is lost to this process until it starts again, --device cpu works",
            int(device), call, error);
        state_.store(kept, std::memory_order_release);
    }
    bool there() const { return state_.load(std::memory_order_acquire) != none; }
    Status status() const {
        if (!there()) return {};
        while (state_.load(std::memory_order_acquire) == writing) {
        }
        return Status::error(unavailable, text_);
    }
    void forget() { state_.store(none); }

 private:
    enum : int { none, writing, kept };
    std::atomic<int> state_{none};
    char text_[384] = {};
};

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
