// Arrays in device memory for tests of single kernels, on a GPU or in the shim: guard bands of a pattern on both sides,
// poison inside.
#pragma once

#include <doctest/doctest.h>

#include <cstring>
#include <vector>

#include "kernels/cuda/runtime.h"

namespace quantplug::test {

namespace cuda = quantplug::kernels::cuda;

/// A stream of its own on device 0. Skips (false) where there is none.
inline bool cuda_there() {
    int32_t n = 0;
    if (cuda::count_devices(&n).ok() && n > 0) return true;
    MESSAGE("no CUDA device: skipped");
    return false;
}

inline void require_ok(const kernels::Status& status) { REQUIRE_MESSAGE(status.ok(), status.message); }

class TestQueue {
 public:
    TestQueue() : use_(0) {
        require_ok(use_.status());
        require_ok(cuda::create_stream(&stream_));
        queue = cuda::Queue(stream_);
    }
    ~TestQueue() { cuda::destroy_stream(stream_); }
    /// All that was launched has run, without an error.
    void finish() {
        require_ok(queue.status());
        require_ok(cuda::synchronize(stream_));
    }
    cuda::Queue queue;

 private:
    cuda::UseDevice use_;
    cuda::StreamHandle stream_ = nullptr;
};

template <class T>
class DeviceArray {
 public:
    DeviceArray(TestQueue& queue, size_t n) : DeviceArray(queue, std::vector<T>(n), true) {}
    DeviceArray(TestQueue& queue, const std::vector<T>& values) : DeviceArray(queue, values, false) {}
    ~DeviceArray() { cuda::release(base_); }
    DeviceArray(const DeviceArray&) = delete;
    DeviceArray& operator=(const DeviceArray&) = delete;

    T* data() { return reinterpret_cast<T*>(base_ + guard); }
    void put(const std::vector<T>& values) {
        REQUIRE(values.size() == n_);
        require_ok(cuda::copy_to_device(queue_.queue.stream(), data(), values.data(), n_ * sizeof(T)));
        queue_.finish();
    }
    /// After everything on the queue; checks the guards.
    std::vector<T> get() {
        std::vector<uint8_t> bytes(n_ * sizeof(T) + 2 * guard);
        require_ok(cuda::copy_to_host(queue_.queue.stream(), bytes.data(), base_, bytes.size()));
        queue_.finish();
        bool intact = true;
        for (size_t i = 0; i < guard; ++i) intact &= bytes[i] == pattern && bytes[bytes.size() - 1 - i] == pattern;
        CHECK_MESSAGE(intact, "a kernel wrote outside its array");
        std::vector<T> values(n_);
        std::memcpy(values.data(), bytes.data() + guard, n_ * sizeof(T));
        return values;
    }

 private:
#if defined(QP_CUDA_SHIM)
    static constexpr size_t guard = 0;  // AddressSanitizer watches every byte
#else
    static constexpr size_t guard = 512;
#endif
    static constexpr uint8_t pattern = 0xa5;

    DeviceArray(TestQueue& queue, const std::vector<T>& values, bool poisoned) : queue_(queue), n_(values.size()) {
        void* p = nullptr;
        require_ok(cuda::allocate(n_ * sizeof(T) + 2 * guard, &p));
        base_ = static_cast<uint8_t*>(p);
        std::vector<uint8_t> bytes(n_ * sizeof(T) + 2 * guard, pattern);
        if (poisoned)
            std::memset(bytes.data() + guard, 0xff, n_ * sizeof(T));  // NaN in any float
        else
            std::memcpy(bytes.data() + guard, values.data(), n_ * sizeof(T));
        require_ok(cuda::copy_to_device(queue_.queue.stream(), base_, bytes.data(), bytes.size()));
        require_ok(cuda::synchronize(queue_.queue.stream()));
    }

    TestQueue& queue_;
    size_t n_;
    uint8_t* base_ = nullptr;
};

}  // namespace quantplug::test
