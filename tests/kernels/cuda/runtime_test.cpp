// Streams, events, graphs and memory as runtime.h promises them, on a GPU and in the shim; its failures in the shim
// alone.
#include <doctest/doctest.h>

#include <numeric>
#include <thread>

#include "tests/kernels/cuda/device_array.h"
#if defined(QP_CUDA_SHIM)
#include "kernels/cuda/shim/launch.h"
#include "kernels/cuda/shim/simt.h"
#endif

namespace quantplug::test {
namespace {

using kernels::Status;

std::vector<int32_t> counting(size_t n, int32_t from) {
    std::vector<int32_t> values(n);
    std::iota(values.begin(), values.end(), from);
    return values;
}

TEST_CASE("runtime: facts of a device") {
    if (!cuda_there()) return;
    cuda::DeviceFacts facts;
    require_ok(cuda::device_facts(0, &facts));
    CHECK(!facts.name.empty());
    CHECK(facts.major * 10 + facts.minor >= 75);
    CHECK(facts.n_multiprocessors > 0);
    CHECK(facts.shared_bytes_per_block >= 64 << 10);
    CHECK(facts.driver >= 12000);
    const cuda::UseDevice use(0);
    uint64_t free_bytes = 0, total = 0;
    require_ok(cuda::memory_info(&free_bytes, &total));
    CHECK(free_bytes <= total);
    CHECK(total > 0);
    const Status status = cuda::device_facts(1000, &facts);
    CHECK(status.code == kernels::invalid_argument);
    CHECK(status.message.find("there is no device cuda:1000") == 0);
    CHECK(!cuda::UseDevice(1000).status().ok());
}

TEST_CASE("runtime: copies in every direction, in order") {
    if (!cuda_there()) return;
    TestQueue queue;
    const auto stream = queue.queue.stream();
    const auto values = counting(1000, 5);
    DeviceArray<int32_t> a(queue, values), b(queue, 1000);
    require_ok(cuda::copy_on_device(stream, b.data(), a.data(), 4000));
    require_ok(cuda::fill(stream, a.data(), 0x11, 2000));
    CHECK(b.get() == values);
    const auto filled = a.get();
    CHECK(filled[499] == 0x11111111);
    CHECK(filled[500] == values[500]);
    void* nothing = &queue;
    require_ok(cuda::allocate(0, &nothing));
    CHECK(nothing == nullptr);
    cuda::release(nothing);
}

TEST_CASE("runtime: addresses are aligned to 256 bytes") {
    if (!cuda_there()) return;
    const cuda::UseDevice use(0);
    std::vector<void*> all(10);
    for (auto& p : all) require_ok(cuda::allocate(1 + size_t(&p - all.data()), &p));
    for (void* p : all) CHECK(reinterpret_cast<uintptr_t>(p) % 256 == 0);
    for (void* p : all) cuda::release(p);
}

TEST_CASE("runtime: pinned memory is there for copies that nobody waits for") {
    if (!cuda_there()) return;
    TestQueue queue;
    void* p = nullptr;
    require_ok(cuda::allocate_host(4000, &p));
    auto* host = static_cast<int32_t*>(p);
    const auto values = counting(1000, -3);
    DeviceArray<int32_t> a(queue, values);
    require_ok(cuda::copy_to_host(queue.queue.stream(), host, a.data(), 4000));
    queue.finish();
    CHECK(std::vector<int32_t>(host, host + 1000) == values);
    cuda::release_host(p);
}

TEST_CASE("runtime: an event is finished when what came before it is") {
    if (!cuda_there()) return;
    TestQueue queue;
    const auto stream = queue.queue.stream();
    DeviceArray<int32_t> a(queue, counting(100, 0));
    cuda::EventHandle before = nullptr, after = nullptr;
    require_ok(cuda::create_event(&before));
    require_ok(cuda::create_event(&after));
    bool finished = false;
    require_ok(cuda::query_event(before, &finished));
    CHECK(finished);  // of nothing

    int32_t host[100] = {};
    require_ok(cuda::record(before, stream));
    require_ok(cuda::copy_to_host(stream, host, a.data(), 400));
    require_ok(cuda::record(after, stream));
#if defined(QP_CUDA_SHIM)
    float too_early = 0;
    CHECK(cuda::elapsed_ms(before, after, &too_early).code == kernels::failed_precondition);
    CHECK(host[99] == 0);
    require_ok(cuda::query_event(after, &finished));
    CHECK(!finished);
#endif
    require_ok(cuda::wait_event(after));
    CHECK(host[99] == 99);
    require_ok(cuda::query_event(before, &finished));
    CHECK(finished);
    float ms = -1;
    require_ok(cuda::elapsed_ms(before, after, &ms));
    CHECK(ms >= 0);
    cuda::destroy_event(before);
    cuda::destroy_event(after);
}

TEST_CASE("runtime: a graph reads the memory as it is at each launch") {
    if (!cuda_there()) return;
    TestQueue queue;
    const auto stream = queue.queue.stream();
    DeviceArray<int32_t> a(queue, counting(64, 0)), b(queue, 64), c(queue, 64);
    require_ok(cuda::begin_capture(stream));
    require_ok(cuda::copy_on_device(stream, b.data(), a.data(), 256));
    require_ok(cuda::copy_on_device(stream, c.data(), b.data(), 256));
    require_ok(cuda::fill(stream, a.data(), 0, 4));
    cuda::GraphHandle graph = nullptr;
    require_ok(cuda::end_capture(stream, &graph));
    REQUIRE(graph);
    CHECK(c.get()[5] == -1);  // nothing ran

    for (const int32_t from : {100, 200, 300}) {
        a.put(counting(64, from));
        require_ok(cuda::launch_graph(graph, stream));
        CHECK(c.get() == counting(64, from));
        CHECK(a.get()[0] == 0);
        CHECK(a.get()[1] == from + 1);
    }
    require_ok(cuda::launch_graph(graph, stream));
    queue.finish();
    cuda::destroy_graph(graph);
}

TEST_CASE("runtime: a capture can be dropped") {
    if (!cuda_there()) return;
    TestQueue queue;
    const auto stream = queue.queue.stream();
    DeviceArray<int32_t> a(queue, counting(64, 7));
    require_ok(cuda::begin_capture(stream));
    require_ok(cuda::fill(stream, a.data(), 0, 256));
    require_ok(cuda::end_capture(stream, nullptr));
    CHECK(a.get() == counting(64, 7));
}

TEST_CASE("runtime: what a capture forbids spoils it and nothing else") {
    if (!cuda_there()) return;
    TestQueue queue;
    const auto stream = queue.queue.stream();
    DeviceArray<int32_t> a(queue, counting(64, 7));
    require_ok(cuda::begin_capture(stream));
    require_ok(cuda::fill(stream, a.data(), 0, 256));
    CHECK(cuda::synchronize(stream).code == kernels::failed_precondition);
    cuda::GraphHandle graph = nullptr;
    CHECK(cuda::end_capture(stream, &graph).code == kernels::failed_precondition);
    CHECK(!graph);
    CHECK(a.get() == counting(64, 7));
#if defined(QP_CUDA_SHIM)
    CHECK(cuda::end_capture(stream, &graph).code == kernels::failed_precondition);
    require_ok(cuda::begin_capture(stream));
    CHECK(cuda::begin_capture(stream).code == kernels::failed_precondition);
    void* p = nullptr;
    CHECK(cuda::allocate(100, &p).message == "allocate during the capture of a graph");
    CHECK(cuda::end_capture(stream, &graph).message == "the capture of a graph was spoilt by allocate");
#endif
}

TEST_CASE("runtime: too much memory is refused, and the next allocation is not") {
    if (!cuda_there()) return;
    const cuda::UseDevice use(0);
    void* p = nullptr;
    const Status status = cuda::allocate(uint64_t(1) << 50, &p);
    CHECK(status.code == kernels::resource_exhausted);
    CHECK(status.message.find("no room for 1125899906842624 bytes of device memory") == 0);
    CHECK(p == nullptr);
    require_ok(cuda::allocate(1000, &p));
    cuda::release(p);
}

TEST_CASE("runtime: threads with a stream each") {
    if (!cuda_there()) return;
    std::vector<std::thread> threads;
    std::vector<int> failed(4, 1);
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&failed, i] {
            const cuda::UseDevice use(0);
            cuda::StreamHandle stream = nullptr;
            void* p = nullptr;
            std::vector<int32_t> host(256), zero(256);
            bool ok = use.status().ok() && cuda::create_stream(&stream).ok() && cuda::allocate(1024, &p).ok();
            for (int round = 0; ok && round < 50; ++round) {
                const auto values = counting(256, i * 1000 + round);
                ok = cuda::copy_to_device(stream, p, values.data(), 1024).ok() &&
                     cuda::copy_to_host(stream, host.data(), p, 1024).ok() && cuda::synchronize(stream).ok() &&
                     host == values;
            }
            cuda::release(p);
            cuda::destroy_stream(stream);
            failed[size_t(i)] = !ok;
        });
    for (auto& thread : threads) thread.join();
    for (const int f : failed) CHECK(f == 0);
}

#if defined(QP_CUDA_SHIM)

struct Shim {
    Shim() : settings(cuda::shim_settings()) { cuda::reset_shim(); }
    ~Shim() { cuda::reset_shim(); }
    cuda::ShimSettings& settings;
};

TEST_CASE("runtime: no driver, an old driver, no card, an old card: one sentence each") {
    Shim shim;
    int32_t n = 7;
    const auto message = [&] {
        const Status status = cuda::count_devices(&n);
        CHECK(status.code == kernels::unavailable);
        CHECK(n == 0);
        cuda::DeviceFacts facts;
        CHECK(cuda::device_facts(0, &facts).message == status.message);
        CHECK(cuda::UseDevice(0).status().message == status.message);
        return status.message;
    };
    shim.settings.driver = 0;
    CHECK(message() == "no NVIDIA driver was found; install one, or use --device cpu");
    shim.settings.driver = 12020;
    CHECK(message() ==
          "the NVIDIA driver supports CUDA 12.2 and this build needs CUDA 13.0; install driver 580 or newer, or use "
          "--device cpu");
    shim.settings.driver = 13010;
    shim.settings.n_devices = 0;
    CHECK(message() == "the NVIDIA driver shows no card to this process (see CUDA_VISIBLE_DEVICES); use --device cpu");
    shim.settings.n_devices = 2;
    shim.settings.major = 6;
    shim.settings.minor = 1;
    require_ok(cuda::count_devices(&n));
    CHECK(n == 2);
    cuda::DeviceFacts facts;
    const Status status = cuda::device_facts(1, &facts);
    CHECK(status.code == kernels::unavailable);
    CHECK(status.message ==
          "cuda:1 (CPU shim) has compute capability 6.1 and 7.5 is needed; use another card, or --device cpu");
}

TEST_CASE("runtime: several devices, each with its memory and its streams") {
    Shim shim;
    shim.settings.n_devices = 2;
    shim.settings.memory_bytes = 1 << 20;
    const cuda::UseDevice first(0);
    void *p = nullptr, *q = nullptr;
    cuda::StreamHandle stream = nullptr;
    require_ok(cuda::allocate(600 << 10, &p));
    cuda::EventHandle event = nullptr;
    require_ok(cuda::create_event(&event));
    {
        const cuda::UseDevice second(1);
        require_ok(cuda::allocate(600 << 10, &q));
        require_ok(cuda::create_stream(&stream));
        uint64_t free_bytes = 0, total = 0;
        require_ok(cuda::memory_info(&free_bytes, &total));
        CHECK(total - free_bytes == 600 << 10);
    }
    CHECK(cuda::shim_allocated_bytes() == 1200 << 10);
    void* more = nullptr;
    CHECK(cuda::allocate(600 << 10, &more).code == kernels::resource_exhausted);
    CHECK(cuda::record(event, stream).code == kernels::invalid_argument);
    CHECK(cuda::shim_launch(stream, "kernel", {}, {32}, 0, [] {}).message ==
          "kernel kernel: a stream of another device");
    cuda::release(p);
    cuda::release(q);
    cuda::destroy_event(event);
    cuda::destroy_stream(stream);
    CHECK(cuda::shim_allocated_bytes() == 0);
}

TEST_CASE("runtime: the n-th allocation fails when it is told to") {
    Shim shim;
    shim.settings.fail_allocation = 1;
    void* p[3] = {};
    require_ok(cuda::allocate(10, &p[0]));
    CHECK(cuda::allocate(10, &p[1]).code == kernels::resource_exhausted);
    require_ok(cuda::allocate_host(10, &p[2]));
    cuda::release(p[0]);
    cuda::release_host(p[2]);
    shim.settings.fail_allocation = 0;
    CHECK(cuda::allocate_host(10, &p[2]).code == kernels::resource_exhausted);
}

TEST_CASE("runtime: release waits for work that uses the memory") {
    Shim shim;
    void* p = nullptr;
    cuda::StreamHandle stream = nullptr;
    require_ok(cuda::create_stream(&stream));
    require_ok(cuda::allocate(64, &p));
    int64_t host[8] = {};
    require_ok(cuda::fill(stream, p, 3, 64));
    require_ok(cuda::copy_to_host(stream, host, p, 64));
    CHECK(host[7] == 0);
    cuda::release(p);
    CHECK(host[7] == 0x0303030303030303);
    cuda::destroy_stream(stream);
}

/// Everything that a step does; the first error.
Status run_all(void** p, void** host, cuda::StreamHandle* stream, cuda::EventHandle* event) {
    const cuda::UseDevice use(0);
    Status status = use.status();
    const auto next = [&](auto call) {
        if (status.ok()) status = call();
    };
    bool finished = false;
    float ms = 0;
    cuda::GraphHandle graph = nullptr;
    next([&] { return cuda::allocate(64, p); });
    next([&] { return cuda::allocate_host(64, host); });
    next([&] { return cuda::create_stream(stream); });
    next([&] { return cuda::create_event(event); });
    next([&] { return cuda::fill(*stream, *p, 1, 64); });
    next([&] { return cuda::begin_capture(*stream); });
    next([&] {
        return cuda::shim_launch(*stream, "the_kernel", {}, {32}, 0, [] { cuda::wait_for_earlier_kernels(); });
    });
    if (*stream) {
        const Status end = cuda::end_capture(*stream, &graph);
        next([&] { return end; });
    }
    next([&] { return cuda::launch_graph(graph, *stream); });
    next([&] { return cuda::copy_to_host(*stream, *host, *p, 64); });
    next([&] { return cuda::copy_to_device(*stream, *p, *host, 64); });
    next([&] { return cuda::record(*event, *stream); });
    next([&] { return cuda::query_event(*event, &finished); });
    next([&] { return cuda::wait_event(*event); });
    next([&] { return cuda::elapsed_ms(*event, *event, &ms); });
    next([&] { return cuda::synchronize(*stream); });
    cuda::destroy_graph(graph);
    return status;
}

TEST_CASE("runtime: the first sticky fault is every later answer, wherever it comes") {
    int faults = 0;
    bool kernel_named = false;
    for (int64_t at = 0;; ++at) {
        Shim shim;
        shim.settings.fault_at_call = at;
        void *p = nullptr, *host = nullptr;
        cuda::StreamHandle stream = nullptr;
        cuda::EventHandle event = nullptr;
        const Status first = run_all(&p, &host, &stream, &event);
        if (!first.ok()) {
            ++faults;
            CHECK(first.code == kernels::unavailable);
            CHECK(first.message.find("cuda:0 failed in ") == 0);
            CHECK(first.message.find("cudaErrorIllegalAddress") != std::string::npos);
            kernel_named |= first.message.find("failed in the_kernel:") != std::string::npos;
            int32_t n = 0;
            void* more = nullptr;
            CHECK(cuda::count_devices(&n).message == first.message);
            CHECK(cuda::allocate(10, &more).message == first.message);
            CHECK(cuda::UseDevice(0).status().message == first.message);
            if (stream) CHECK(cuda::synchronize(stream).message == first.message);
        }
        cuda::release(p);
        cuda::release_host(host);
        cuda::destroy_event(event);
        cuda::destroy_stream(stream);
        if (first.ok()) break;
    }
    CHECK(faults >= 16);
    CHECK(kernel_named);
    CHECK(cuda_there());  // reset_shim took it back
}

TEST_CASE("runtime: an error of a queue keeps the first and stops the rest") {
    Shim shim;
    cuda::Queue queue;
    queue.keep({});
    CHECK(queue.ok());
    queue.keep(Status::error(kernels::internal, "one"));
    queue.keep(Status::error(kernels::internal, "two"));
    CHECK(queue.status().message == "one");
    CHECK(queue.take_status().message == "one");
    CHECK(queue.ok());
}

#endif

}  // namespace
}  // namespace quantplug::test
