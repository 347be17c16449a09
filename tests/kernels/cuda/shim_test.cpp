// The shim that proves the kernels, proved: its warp operations against plain loops, and every kind of bug it is there
// for, planted and seen.
#if defined(QP_CUDA_SHIM)
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <set>

#include "kernels/cuda/last_arriver.h"
#include "kernels/cuda/launch.h"
#include "tests/kernels/cuda/device_array.h"

namespace quantplug::test {
namespace {

using namespace quantplug::kernels::cuda;
using kernels::f16_to_f32;
using kernels::f32_to_f16;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool has_asan = true;
#elif defined(__has_feature)
constexpr bool has_asan = __has_feature(address_sanitizer);
#else
constexpr bool has_asan = false;
#endif

struct Seed {
    explicit Seed(uint64_t seed) { shim_settings().seed = seed; }
    ~Seed() { shim_settings().seed = 1; }
};

// ---------------------------------------------------------------- warp operations
/// A (16, 16), B (16, 8) row-major FP16; C (16, 8) FP32, added to what is there.
QP_KERNEL multiply(const uint16_t* a, const uint16_t* b, float* c) {
    wait_for_earlier_kernels();
    const uint32_t g = threadIdx.x / 4, t = threadIdx.x % 4;
    uint32_t fa[4], fb[2];
    float fc[4];
    for (uint32_t r = 0; r < 4; ++r) fa[r] = load1(&a[(g + 8 * (r & 1)) * 16 + 2 * t + 8 * (r >> 1)]);
    for (uint32_t r = 0; r < 2; ++r)
        fb[r] = b[(2 * t + 8 * r) * 8 + g] | (uint32_t(b[(2 * t + 8 * r + 1) * 8 + g]) << 16);
    for (uint32_t q = 0; q < 4; ++q) fc[q] = c[(g + 8 * (q >> 1)) * 8 + 2 * t + (q & 1)];
    mma_16x8x16(fc, fa, fb[0], fb[1]);
    for (uint32_t q = 0; q < 4; ++q) c[(g + 8 * (q >> 1)) * 8 + 2 * t + (q & 1)] = fc[q];
}

TEST_CASE("shim: mma is the product of its fragments") {
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<uint16_t> a(256), b(128);
    std::vector<float> c(128);
    for (auto& v : a) v = f32_to_f16(normal(random));
    for (auto& v : b) v = f32_to_f16(normal(random));
    for (auto& v : c) v = normal(random);
    TestQueue queue;
    DeviceArray<uint16_t> da(queue, a), db(queue, b);
    DeviceArray<float> dc(queue, c);
    launch(queue.queue, "multiply", multiply, {}, {32}, 0, da.data(), db.data(), dc.data());
    const std::vector<float> got = dc.get();
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 8; ++j) {
            double sum = c[i * 8 + j], size = std::abs(sum);
            for (int k = 0; k < 16; ++k) {
                const double product = double(f16_to_f32(a[i * 16 + k])) * f16_to_f32(b[k * 8 + j]);
                sum += product;
                size += std::abs(product);
            }
            CAPTURE(i);
            CAPTURE(j);
            CHECK(std::abs(got[i * 8 + j] - sum) <= size * 17 * 0x1p-24);  // 17 roundings
        }
}

TEST_CASE("shim: mma reads every finite FP16 value exactly") {
    std::vector<uint16_t> identity(128), a(256);
    for (int i = 0; i < 8; ++i) identity[i * 8 + i] = f32_to_f16(1);
    TestQueue queue;
    DeviceArray<uint16_t> da(queue, a), db(queue, identity);
    bool same = true;
    for (uint32_t first = 0; first < 65536; first += 128) {
        for (uint32_t i = 0; i < 128; ++i) {
            const uint16_t v = uint16_t(first + i);
            a[i / 8 * 16 + i % 8] = (v & 0x7c00) == 0x7c00 ? 0 : v;
        }
        da.put(a);
        DeviceArray<float> dc(queue, std::vector<float>(128));
        launch(queue.queue, "multiply", multiply, {}, {32}, 0, da.data(), db.data(), dc.data());
        const std::vector<float> got = dc.get();
        for (uint32_t i = 0; i < 128; ++i) same &= got[i] == f16_to_f32(a[i / 8 * 16 + i % 8]);
    }
    CHECK(same);
    std::fill(a.begin(), a.end(), 0);
    a[0] = 0x7c00;       // infinity times 1, and times 0
    a[16 + 1] = 0xfc01;  // NaN
    da.put(a);
    DeviceArray<float> dc(queue, std::vector<float>(128));
    launch(queue.queue, "multiply", multiply, {}, {32}, 0, da.data(), db.data(), dc.data());
    const std::vector<float> got = dc.get();
    CHECK(got[0] == HUGE_VALF);
    CHECK(std::isnan(got[1]));
    CHECK(std::isnan(got[8 + 1]));
    CHECK(got[16] == 0);
}

QP_KERNEL shuffle_all(uint32_t* out) {
    wait_for_earlier_kernels();
    const uint32_t t = threadIdx.x, l = t % 32;
    uint32_t* mine = out + t * 8;
    mine[0] = shuffle_xor(t, 5);
    mine[1] = shuffle(t, 7);
    mine[2] = shuffle(t, int(l + 1) % 32);
    mine[3] = warp_ballot(l % 3 == 0);
    mine[4] = float_bits(shuffle_xor(float(t), 16));
    mine[5] = float_bits(shuffle(float(t), 31));
    mine[6] = float_bits(warp_sum(float(l)));
    mine[7] = float_bits(warp_max(float(l ^ 21)));
}

TEST_CASE("shim: shuffles and ballots") {
    TestQueue queue;
    for (const uint64_t seed : {1, 2, 3}) {
        const Seed use(seed);
        DeviceArray<uint32_t> out(queue, 96 * 8);
        launch(queue.queue, "shuffle_all", shuffle_all, {}, {96}, 0, out.data());
        const auto got = out.get();
        bool same = true;
        for (uint32_t t = 0; t < 96; ++t) {
            const uint32_t l = t % 32, warp = t - l;
            const uint32_t expected[8] = {t ^ 5,
                                          warp + 7,
                                          warp + (l + 1) % 32,
                                          0x49249249u,
                                          float_bits(float(t ^ 16)),
                                          float_bits(float(warp + 31)),
                                          float_bits(496),
                                          float_bits(31)};
            for (int i = 0; i < 8; ++i) same &= got[t * 8 + i] == expected[i];
        }
        CHECK(same);
    }
}

QP_KERNEL load_both(uint32_t* out) {
    wait_for_earlier_kernels();
    auto* values = reinterpret_cast<uint16_t*>(dynamic_shared());  // (32, 8): row l of 8
    for (uint32_t i = 0; i < 8; ++i) values[threadIdx.x * 8 + i] = uint16_t(threadIdx.x * 8 + i);
    sync_block();
    uint32_t r[4];
    load_matrices(r, values + threadIdx.x * 8);
    for (uint32_t j = 0; j < 4; ++j) out[threadIdx.x * 8 + j] = r[j];
    load_matrices_transposed(r, values + threadIdx.x * 8);
    for (uint32_t j = 0; j < 4; ++j) out[threadIdx.x * 8 + 4 + j] = r[j];
}

TEST_CASE("shim: load_matrices, both forms") {
    TestQueue queue;
    DeviceArray<uint32_t> out(queue, 32 * 8);
    launch(queue.queue, "load_both", load_both, {}, {32}, 512, out.data());
    const auto got = out.get();
    bool same = true;
    for (uint32_t l = 0; l < 32; ++l)
        for (uint32_t j = 0; j < 4; ++j) {
            const uint32_t g = l / 4, t = l % 4, base = j * 64;  // an 8 x 8 matrix is 64 values
            same &= got[l * 8 + j] == ((base + g * 8 + 2 * t) | ((base + g * 8 + 2 * t + 1) << 16));
            same &= got[l * 8 + 4 + j] == ((base + 2 * t * 8 + g) | ((base + (2 * t + 1) * 8 + g) << 16));
        }
    CHECK(same);
}

// ---------------------------------------------------------------- copies
QP_KERNEL copy_in_groups(const uint32_t* from, uint32_t* out) {
    wait_for_earlier_kernels();
    auto* shared = reinterpret_cast<uint32_t*>(dynamic_shared()) + threadIdx.x * 12;
    from += threadIdx.x * 12;
    copy_async<16>(shared, from);
    commit_copies();
    copy_async<16>(shared + 4, from + 4);
    commit_copies();
    copy_async<8>(shared + 8, from + 8);
    copy_async<4>(shared + 10, from + 10);
    copy_async<4>(shared + 11, from + 11);
    commit_copies();
    wait_copies<2>();
    for (uint32_t i = 0; i < 12; ++i) out[threadIdx.x * 24 + i] = shared[i];
    wait_copies<0>();
    for (uint32_t i = 0; i < 12; ++i) out[threadIdx.x * 24 + 12 + i] = shared[i];
}

TEST_CASE("shim: copies arrive at their wait and no earlier") {
    std::vector<uint32_t> from(64 * 12);
    std::iota(from.begin(), from.end(), 1u);
    TestQueue queue;
    DeviceArray<uint32_t> device(queue, from), out(queue, 64 * 24);
    launch(queue.queue, "copy_in_groups", copy_in_groups, {}, {64}, 64 * 48, device.data(), out.data());
    const auto got = out.get();
    bool same = true;
    for (uint32_t t = 0; t < 64; ++t)
        for (uint32_t i = 0; i < 12; ++i) {
            same &= got[t * 24 + i] == (i < 4 ? from[t * 12 + i] : 0xffffffffu);
            same &= got[t * 24 + 12 + i] == from[t * 12 + i];
        }
    CHECK(same);
}

// ---------------------------------------------------------------- order
QP_KERNEL take_tickets(uint32_t* counter, uint32_t* order) {
    wait_for_earlier_kernels();
    order[atomic_add(counter, 1)] = blockIdx.x * blockDim.x + threadIdx.x;
}

TEST_CASE("shim: blocks and threads run in an order that the seed decides") {
    TestQueue queue;
    std::set<uint32_t> first, first_block;
    for (uint64_t seed = 1; seed <= 40; ++seed) {
        const Seed use(seed);
        DeviceArray<uint32_t> counter(queue, std::vector<uint32_t>{0}), order(queue, 8 * 64);
        launch(queue.queue, "take_tickets", take_tickets, {8}, {64}, 0, counter.data(), order.data());
        const auto got = order.get();
        first.insert(got[0] % 64);
        first_block.insert(got[0] / 64);
        CHECK(std::set<uint32_t>(got.begin(), got.end()).size() == got.size());
    }
    CHECK(first.size() > 10);
    CHECK(first_block.size() > 4);
}

QP_KERNEL reverse(bool with_barrier, uint32_t* out) {
    wait_for_earlier_kernels();
    auto* shared = reinterpret_cast<uint32_t*>(dynamic_shared());
    shared[threadIdx.x] = threadIdx.x;
    if (with_barrier) sync_block();
    out[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

TEST_CASE("shim: a missing barrier reads poison") {
    TestQueue queue;
    int wrong = 0;
    for (uint64_t seed = 1; seed <= 10; ++seed)
        for (const bool with_barrier : {true, false}) {
            const Seed use(seed);
            DeviceArray<uint32_t> out(queue, 128);
            launch(queue.queue, "reverse", reverse, {}, {128}, 512, with_barrier, out.data());
            const auto got = out.get();
            bool same = true;
            for (uint32_t t = 0; t < 128; ++t) same &= got[t] == 127 - t;
            if (with_barrier)
                CHECK(same);
            else
                wrong += !same;
        }
    CHECK(wrong == 10);
}

/// Between two warps that meet in warp operations only: now and then one runs ahead of the other.
QP_KERNEL pass_on(bool with_barrier, uint32_t* out) {
    wait_for_earlier_kernels();
    auto* shared = reinterpret_cast<volatile uint32_t*>(dynamic_shared());
    for (uint32_t round = 0; round < 40; ++round) {
        if (threadIdx.x == 0) shared[0] = round;
        if (with_barrier)
            sync_block();
        else
            sync_warp();
        if (threadIdx.x == 63) out[round] = shared[0];
        if (with_barrier)
            sync_block();
        else
            sync_warp();
    }
}

TEST_CASE("shim: a warp that does not wait for another reads what is not there") {
    TestQueue queue;
    int wrong = 0;
    std::set<std::vector<uint32_t>> seen;
    for (uint64_t seed = 1; seed <= 10; ++seed)
        for (const bool with_barrier : {true, false}) {
            const Seed use(seed);
            DeviceArray<uint32_t> out(queue, 40);
            launch(queue.queue, "pass_on", pass_on, {}, {64}, 4, with_barrier, out.data());
            const auto got = out.get();
            bool same = true;
            for (uint32_t i = 0; i < 40; ++i) same &= got[i] == i;
            if (with_barrier) {
                CHECK(same);
            } else {
                wrong += !same;
                seen.insert(got);
            }
        }
    CHECK(wrong == 10);
    CHECK(seen.size() > 4);
}

QP_KERNEL sum_of_blocks(const uint32_t* in, uint32_t* partial, uint32_t* counter, uint32_t* out) {
    wait_for_earlier_kernels();
    auto* flag = reinterpret_cast<uint32_t*>(dynamic_shared());
    if (threadIdx.x == 0) partial[blockIdx.x] = in[blockIdx.x];
    if (!last_arriver(counter, gridDim.x, flag)) return;
    if (threadIdx.x == 0) {
        uint32_t sum = 0;
        for (uint32_t i = 0; i < gridDim.x; ++i) sum += partial[i];
        *out += sum;
    }
}

TEST_CASE("shim: the last of the blocks to arrive sees the others' work, launch after launch") {
    TestQueue queue;
    std::vector<uint32_t> in(50);
    std::iota(in.begin(), in.end(), 0u);
    DeviceArray<uint32_t> device(queue, in), partial(queue, 50), counter(queue, std::vector<uint32_t>{0}),
        out(queue, std::vector<uint32_t>{0});
    for (int i = 0; i < 3; ++i)
        launch(queue.queue, "sum_of_blocks", sum_of_blocks, {50}, {32}, 4, device.data(), partial.data(),
               counter.data(), out.data());
    CHECK(out.get()[0] == 3 * 1225);
    CHECK(counter.get()[0] == 0);
}

/// out[i] = in[i] + 1, with `in` read on the right side of the wait or on the wrong one.
QP_KERNEL follow(bool patient, const uint32_t* in, uint32_t* out) {
    uint32_t value = in[blockIdx.x * 32 + threadIdx.x];
    value = shuffle_xor(value, 0);
    wait_for_earlier_kernels();
    if (patient) value = in[blockIdx.x * 32 + threadIdx.x];
    sync_block();
    out[blockIdx.x * 32 + threadIdx.x] = value + 1;
}

TEST_CASE("shim: a kernel that reads before its wait what the kernel ahead writes is early") {
    TestQueue queue;
    for (const bool patient : {true, false})
        for (const bool from_graph : {true, false}) {
            DeviceArray<uint32_t> a(queue, std::vector<uint32_t>(128)), b(queue, 128), c(queue, 128), d(queue, 128);
            cuda::GraphHandle graph = nullptr;
            if (from_graph) require_ok(cuda::begin_capture(queue.queue.stream()));
            launch(queue.queue, "follow", follow, {4}, {32}, 0, true, a.data(), b.data());
            launch(queue.queue, "follow", follow, {4}, {32}, 0, patient, b.data(), c.data());
            launch(queue.queue, "follow", follow, {4}, {32}, 0, patient, c.data(), d.data());
            if (from_graph) {
                require_ok(cuda::end_capture(queue.queue.stream(), &graph));
                require_ok(cuda::launch_graph(graph, queue.queue.stream()));
            }
            const auto second = c.get(), third = d.get();
            if (graph) cuda::destroy_graph(graph);
            const auto n_wrong = [](const std::vector<uint32_t>& values, uint32_t expected) {
                return std::count_if(values.begin(), values.end(), [&](uint32_t v) { return v != expected; });
            };
            CHECK(n_wrong(second, 2) == (patient ? 0 : 32));  // one block of four starts early
            CHECK(n_wrong(third, 3) >= (patient ? 0 : 32));
            if (patient) CHECK(n_wrong(third, 3) == 0);
        }
}

// ---------------------------------------------------------------- bugs that end the process
/// What the process prints that runs `what` and dies of it; empty: it lived.
template <class F>
std::string death(F what) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);  // doctest has a handler of its own
        dup2(ends[1], 2);
        what();
        _exit(0);
    }
    close(ends[1]);
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, size_t(n));
    close(ends[0]);
    int state = 0;
    waitpid(child, &state, 0);
    return WIFEXITED(state) && WEXITSTATUS(state) == 0 ? std::string() : text + "(dead)";
}

struct Plan {
    uint32_t bug;
    uint32_t* memory;  // 64 words
};
QP_KERNEL plant(const Plan plan) {
    if (plan.bug != 13) wait_for_earlier_kernels();
    auto* shared = reinterpret_cast<uint32_t*>(dynamic_shared());
    const uint32_t t = threadIdx.x;
    uint32_t r[4] = {};
    switch (plan.bug) {
        case 1:
            if (t < 40) sync_block();
            break;
        case 2:
            if (t == 5) return;
            sync_warp();
            break;
        case 3:
            if (t & 1)
                r[0] = shuffle(t, 0);
            else
                r[0] = warp_ballot(true);
            break;
        case 4:
            r[0] = load4(plan.memory + 1).x;
            break;
        case 5:
            r[0] = load2(plan.memory + 1).x;
            break;
        case 6:
            copy_async<16>(shared, plan.memory);
            break;
        case 7:
            copy_async<16>(shared + 1, plan.memory);
            commit_copies();
            wait_copies<0>();
            break;
        case 8:
            load_matrices(r, shared + 1);
            break;
        case 9:
            shared[64] = 1;
            break;
        case 10:
            r[0] = plan.memory[64];
            break;
        case 11:
            copy_async<16>(shared, plan.memory + 64);
            commit_copies();
            wait_copies<0>();
            break;
        case 12:
            load_matrices(r, shared + 64);
            break;
        default:
            break;
    }
    if (r[0] == 12345) plan.memory[t] = r[0];
}

TEST_CASE("shim: bugs of a kernel end the process and are named") {
    TestQueue queue;
    DeviceArray<uint32_t> memory(queue, 64);
    const auto run = [&](uint32_t bug) {
        CAPTURE(bug);
        return death([&] {
            launch(queue.queue, "plant", plant, {}, {64}, 256, Plan{bug, memory.data()});
            (void)cuda::synchronize(queue.queue.stream());
        });
    };
    const auto says = [&](uint32_t bug, const char* what) {
        const std::string text = run(bug);
        CHECK_MESSAGE(text.find(what) != std::string::npos, "bug ", bug, ": ", text);
    };
    CHECK(run(0) == "");
    says(1, "not every thread reaches");
    says(2, "not every thread reaches");
    says(3, "different operations");
    says(4, "misaligned address");
    says(5, "misaligned address");
    says(6, "nobody waited for");
    says(7, "misaligned address");
    says(8, "not aligned to 16 bytes");
    says(13, "plant: a kernel that never calls wait_for_earlier_kernels()");
    if (!has_asan) return;
    says(9, "AddressSanitizer");
    says(10, "AddressSanitizer");
    says(11, "AddressSanitizer");
    says(12, "AddressSanitizer");
}

TEST_CASE("shim: a launch that no card would take is refused") {
    TestQueue queue;
    DeviceArray<uint32_t> out(queue, 64);
    const auto refused = [&](Extent grid, Extent block, size_t shared_bytes) {
        cuda::Queue one(queue.queue.stream());
        launch(one, "reverse", reverse, grid, block, shared_bytes, true, out.data());
        return one.status().message;
    };
    CHECK(refused({0}, {64}, 256) == "kernel reverse: a grid of 0 x 1 x 1");
    CHECK(refused({1, 65536}, {64}, 256) == "kernel reverse: a grid of 1 x 65536 x 1");
    CHECK(refused({1}, {2048}, 256) == "kernel reverse: a block of 2048 threads");
    CHECK(refused({1}, {64}, 228 << 10) == "kernel reverse: 233472 bytes of shared memory");
    CHECK(refused({1}, {64}, 256) == "");
    queue.finish();
}

}  // namespace
}  // namespace quantplug::test
#endif
