#include "kernels/threads/pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "kernels/threads/float_mode.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace {

constexpr auto spin_time = std::chrono::microseconds(50);

void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Spins until `done` or the spin time is over; true if done.
template <class Done>
bool spin(Done done) {
    const auto start = std::chrono::steady_clock::now();
    do {
        for (int i = 0; i < 64; ++i) {
            if (done()) return true;
            pause_cpu();
        }
    } while (std::chrono::steady_clock::now() - start < spin_time);
    return done();
}

// Signals of the host go to the host's own threads: a thread made in this scope has them all blocked.
class BlockSignals {
 public:
    BlockSignals() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &saved_);
    }
    ~BlockSignals() { pthread_sigmask(SIG_SETMASK, &saved_, nullptr); }
    BlockSignals(const BlockSignals&) = delete;
    BlockSignals& operator=(const BlockSignals&) = delete;

 private:
    sigset_t saved_;
};

class Pool {
 public:
    void run(int32_t count, void (*work)(void*, int32_t, int32_t), void* context) {
        const std::lock_guard region(region_);
        const int32_t helpers = std::min(count - 1, grow(count - 1));
        work_ = work;
        context_ = context;
        count_ = count;
        remaining_.store(uint32_t(helpers), std::memory_order_relaxed);
        for (int32_t i = 0; i < helpers; ++i) {
            Worker& worker = *workers_[size_t(i)];
            worker.ticket.fetch_add(1, std::memory_order_seq_cst);  // publishes the region
            if (worker.parked.load(std::memory_order_seq_cst)) worker.ticket.notify_one();
        }
        work(context, 0, count);
        for (int32_t i = helpers + 1; i < count; ++i) work(context, i, count);
        if (helpers == 0) return;
        if (!spin([&] { return remaining_.load(std::memory_order_acquire) == 0; })) {
            for (uint32_t left; (left = remaining_.load(std::memory_order_acquire)) != 0;) remaining_.wait(left);
        }
    }

 private:
    struct alignas(64) Worker {
        std::atomic<uint32_t> ticket{0};
        std::atomic<uint32_t> parked{0};
    };

    // Workers are made when first needed and stay. Returns how many there are.
    int32_t grow(int32_t wanted) {
        if (int32_t(workers_.size()) >= wanted) return wanted;
        const BlockSignals blocked;
        try {
            while (int32_t(workers_.size()) < wanted) {
                workers_.reserve(workers_.size() + 1);
                auto worker = std::make_unique<Worker>();
                const int32_t index = int32_t(workers_.size()) + 1;
                // Detached, and the pool is never destroyed: nothing to join when the process ends.
                std::thread([this, index, w = worker.get()] { serve(*w, index); }).detach();
                workers_.push_back(std::move(worker));
            }
        } catch (const std::system_error&) {  // no more threads
        } catch (const std::bad_alloc&) {
        }
        return int32_t(workers_.size());
    }

    void serve(Worker& worker, int32_t index) {
        const FloatMode mode;
        uint32_t seen = 0;
        for (;;) {
            const auto called = [&] { return worker.ticket.load(std::memory_order_acquire) != seen; };
            if (!spin(called)) {
                worker.parked.store(1, std::memory_order_seq_cst);
                while (worker.ticket.load(std::memory_order_seq_cst) == seen) worker.ticket.wait(seen);
                worker.parked.store(0, std::memory_order_relaxed);
            }
            ++seen;
            work_(context_, index, count_);
            if (remaining_.fetch_sub(1, std::memory_order_acq_rel) == 1) remaining_.notify_one();
        }
    }

    std::mutex region_;
    std::vector<std::unique_ptr<Worker>> workers_;
    void (*work_)(void*, int32_t, int32_t) = nullptr;
    void* context_ = nullptr;
    int32_t count_ = 0;
    alignas(64) std::atomic<uint32_t> remaining_{0};
};

}  // namespace

void run_parallel(int32_t count, void (*work)(void*, int32_t, int32_t), void* context) {
    if (count <= 1) {
        work(context, 0, 1);
        return;
    }
    static Pool* const pool = new Pool;  // never destroyed: its workers outlive main
    pool->run(count, work, context);
}

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
