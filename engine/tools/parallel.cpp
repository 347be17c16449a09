#include "engine/tools/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/threads/pool.h"

namespace quantplug::engine {

void parallel_for(int64_t count, const std::function<void(int64_t)>& task, const std::function<void(int64_t)>& poll) {
    std::atomic<int64_t> next{0}, finished{0};
    std::atomic<bool> stop{false};
    std::mutex mutex;
    std::exception_ptr error;
    const auto work = [&](bool calling) {
        try {
            while (!stop.load(std::memory_order_relaxed)) {
                const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
                if (i >= count) break;
                task(i);
                finished.fetch_add(1, std::memory_order_relaxed);
                if (calling && poll) poll(finished.load(std::memory_order_relaxed));
            }
        } catch (...) {
            stop = true;
            const std::lock_guard lock(mutex);
            if (!error) error = std::current_exception();
        }
    };
    {
        std::vector<std::jthread> threads;
        const int64_t wanted = std::min<int64_t>(count, kernels::default_threads()) - 1;
        try {
            threads.reserve(size_t(std::max<int64_t>(wanted, 0)));
            for (int64_t i = 0; i < wanted; ++i) threads.emplace_back([&work] { work(false); });
        } catch (const std::exception&) {
            // No memory, or a limit on threads: fewer do it too.
        }
        work(true);
    }
    if (error) std::rethrow_exception(error);
}

}  // namespace quantplug::engine
