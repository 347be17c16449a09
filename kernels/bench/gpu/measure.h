// Timing of work on a stream: medians of repeats, by events.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "kernels/bench/gpu/synthetic.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/runtime.h"

namespace quantplug::bench {

namespace cuda = kernels::cuda;

inline double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + ptrdiff_t(values.size() / 2), values.end());
    return values[values.size() / 2];
}

/// A stream of device 0 with a pair of events.
class Stopwatch {
 public:
    Stopwatch() : use_(0) {
        check(use_.status());
        check(cuda::create_stream(&stream_));
        check(cuda::create_event(&begin_));
        check(cuda::create_event(&end_));
        queue = cuda::Queue(stream_);
    }
    ~Stopwatch() {
        cuda::destroy_event(begin_);
        cuda::destroy_event(end_);
        cuda::destroy_stream(stream_);
    }
    Stopwatch(const Stopwatch&) = delete;
    Stopwatch& operator=(const Stopwatch&) = delete;

    /// Seconds of one call of `work`: the median of `repeats` after one to warm up. As a graph: what launching costs
    /// the host is left out.
    double seconds(const std::function<void(cuda::Queue&)>& work, bool graph, int32_t repeats) {
        cuda::GraphHandle captured = nullptr;
        work(queue);  // attributes, modules
        check(queue.take_status());
        check(cuda::synchronize(stream_));
        if (graph) {
            check(cuda::begin_capture(stream_));
            work(queue);
            check(cuda::end_capture(stream_, &captured));
            check(queue.take_status());
        }
        std::vector<double> all;
        for (int32_t i = 0; i <= repeats; ++i) {
            check(cuda::record(begin_, stream_));
            if (graph)
                check(cuda::launch_graph(captured, stream_));
            else
                work(queue);
            check(cuda::record(end_, stream_));
            check(queue.take_status());
            check(cuda::wait_event(end_));
            float ms = 0;
            check(cuda::elapsed_ms(begin_, end_, &ms));
            if (i > 0) all.push_back(1e-3 * double(ms));
        }
        if (captured) cuda::destroy_graph(captured);
        return std::max(median(std::move(all)), 1e-9);
    }

    cuda::StreamHandle stream() const { return stream_; }
    cuda::Queue queue;

 private:
    cuda::UseDevice use_;
    cuda::StreamHandle stream_ = nullptr;
    cuda::EventHandle begin_ = nullptr, end_ = nullptr;
};

inline cuda::Block device_block(uint64_t bytes) {
    cuda::Block block;
    check(cuda::Block::make(bytes, cuda::Block::device, &block));
    return block;
}

}  // namespace quantplug::bench
