// Card, bandwidth, and what a launch costs.
#include "kernels/bench/gpu/chain.h"
#include "kernels/bench/gpu/steps.h"
#include "kernels/limits.h"

namespace quantplug::bench {

namespace {

// Microseconds from one kernel's start to the next one's, in a chain of 1,000.
double gap_us(Stopwatch& watch, bool graph, bool dependent, const Scale& scale) {
    const int32_t n = scale.shim ? 20 : 1000;
    watch.queue.dependent_launch = dependent;
    const double seconds =
        watch.seconds([&](cuda::Queue& queue) { launch_empty(queue, n); }, graph, scale.shim ? 1 : 9);
    watch.queue.dependent_launch = true;
    return 1e6 * seconds / n;
}

}  // namespace

Json check_machine(Scale& scale) {
    cuda::DeviceFacts facts;
    check(cuda::device_facts(0, &facts));
    Json out;
    out["card"] = facts.name;
    out["compute_capability"] = std::to_string(facts.major) + "." + std::to_string(facts.minor);
    out["multiprocessors"] = facts.n_multiprocessors;
    out["memory_bytes"] = facts.memory_bytes;
    out["l2_bytes"] = facts.l2_bytes;
    out["driver"] = facts.driver;
    out["runtime"] = facts.runtime;

    Stopwatch watch;
    const uint64_t bytes = scale.shim ? uint64_t(1) << 20 : uint64_t(2) << 30;
    const cuda::Block from = device_block(bytes), to = device_block(bytes);
    check(cuda::fill(watch.stream(), from.data(), 0x5a, bytes));
    const int32_t repeats = scale.shim ? 1 : 9;
    const double copy = watch.seconds(
        [&](cuda::Queue& queue) { queue.keep(cuda::copy_on_device(queue.stream(), to.data(), from.data(), bytes)); },
        false, repeats);
    const double read = watch.seconds(
        [&](cuda::Queue& queue) {
            read_all(queue, from.data(), bytes, reinterpret_cast<uint32_t*>(to.data()),
                     scale.shim ? 4 : 8 * facts.n_multiprocessors);
        },
        false, repeats);
    scale.copy_gb_per_s = 2e-9 * double(bytes) / copy;
    out["copy_gb_per_s"] = scale.copy_gb_per_s;
    out["read_gb_per_s"] = 1e-9 * double(bytes) / read;
    out["launch_us"] = {{"stream", gap_us(watch, false, false, scale)},
                        {"stream_dependent", gap_us(watch, false, true, scale)},
                        {"graph", gap_us(watch, true, false, scale)},
                        {"graph_dependent", gap_us(watch, true, true, scale)}};
    return out;
}

}  // namespace quantplug::bench
