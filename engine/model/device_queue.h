// Turns on a device: served in the order they were asked for.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace quantplug::engine {

/// A mutex for std::lock_guard that nobody overtakes: a pass over many steps and a scheduler alternate.
class DeviceQueue {
 public:
    void lock() {
        std::unique_lock hold(mutex_);
        const uint64_t ticket = next_++;
        turn_.wait(hold, [&] { return serving_ == ticket; });
    }
    void unlock() {
        const std::lock_guard hold(mutex_);
        ++serving_;
        turn_.notify_all();
    }

 private:
    std::mutex mutex_;
    std::condition_variable turn_;
    uint64_t next_ = 0, serving_ = 0;
};

}  // namespace quantplug::engine
