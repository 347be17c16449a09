// Fibers, meeting points and tensor-core arithmetic of the shim. A fiber is a loop that runs one CUDA thread after
// another, so that stacks and their sanitizer state last as long as the host thread; a fiber that stops picks the next
// itself. Compiled without sanitizers (their calls are weak): what kernels access is checked in simt.h, in their own
// files.
#include "kernels/cuda/shim/simt.h"

#include <sys/mman.h>

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#include "kernels/cuda/shim/fiber.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace simt {

thread_local constinit Position here;

namespace {

constexpr size_t stack_bytes = 96 << 10;
constexpr uint32_t max_threads = 1024;

struct Copy {
    void* shared;
    const void* global;
    int bytes;
};

struct Lane : Fiber {
    Index thread;
    uint32_t index = 0;
    std::vector<Copy> copies;    // in order of issue; those before `copied` are made
    std::vector<size_t> groups;  // committed and not waited for: where each ends in `copies`
    size_t copied = 0;
};

struct Warp {
    Exchange exchange;
    uint32_t all = 0, ready = 0, held = 0;  // masks of lanes; held: at wait_for_earlier_kernels()
    uint32_t arrived = 0;
    uint32_t first = 0;  // ready lanes run from here on, around
    bool descending = false;
    const char* operation = nullptr;
    Compute compute = nullptr;
};

void enter_lane();

/// The fibers of a grid. A host thread has two: one for the kernel that starts early.
struct Worker {
    Fiber host;
    std::unique_ptr<Lane[]> lanes{new Lane[max_threads]};
    uint32_t n_made = 0;  // lanes that have a fiber
    Warp warps[max_threads / 32];
    Lane* running = nullptr;
    uint32_t warp = 0, n_warps = 0, n_threads = 0, runnable = 0, at_barrier = 0, done = 0;
    bool early = false, waited = false;
    unsigned char* stacks = nullptr;
    uint64_t random = 1;
    GridLaunch launch;
    Position position;            // `here` when the host goes back to the block at work
    std::vector<uint64_t> order;  // of blocks
    std::unique_ptr<unsigned char, decltype(&std::free)> shared{nullptr, &std::free};

    static constexpr size_t guard_bytes = 4096;
    static constexpr size_t area_bytes = max_threads * (stack_bytes + guard_bytes);

    Worker() {
        void* area =
            mmap(nullptr, area_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (area == MAP_FAILED) throw std::bad_alloc();
        stacks = static_cast<unsigned char*>(area);
    }
    ~Worker() { munmap(stacks, area_bytes); }
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    uint32_t next_random() {  // splitmix64's upper half
        random += 0x9e3779b97f4a7c15u;
        uint64_t z = (random ^ (random >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return uint32_t(z >> 32);
    }
    void make_lanes(uint32_t n) {
        for (; n_made < n; ++n_made) {
            Lane& lane = lanes[n_made];
            lane.index = n_made;
            unsigned char* bottom = stacks + n_made * (stack_bytes + guard_bytes);
            mprotect(bottom, guard_bytes, PROT_NONE);
            // The tops lie 640 bytes apart modulo a page: at one place in it they would share few lines of the cache.
            lane.make(bottom + guard_bytes, stack_bytes - n_made % 32 * 640, enter_lane);
        }
    }
    void new_order(Warp& w) {
        const uint32_t r = next_random();
        w.first = r & 31;
        w.descending = r >> 5 & 1;
    }
    void release_warp(uint32_t i) {
        warps[i].ready = warps[i].all;
        runnable |= 1u << i;
        new_order(warps[i]);
    }
    /// To any of the runnable ones, each as likely.
    void change_warp() {
        warp = 0;
        if (runnable == 0) return;  // all wait at a barrier
        uint32_t left = runnable;
        for (uint32_t skip = next_random() % uint32_t(std::popcount(left)); skip > 0; --skip) left &= left - 1;
        warp = uint32_t(std::countr_zero(left));
    }
    /// The lane that runs next; null: every lane is done.
    Lane* pick() {
        while (true) {
            Warp& w = warps[warp];
            if (w.ready) {
                const uint32_t turned = std::rotr(w.ready, int(w.first));
                const uint32_t at =
                    w.descending ? 31 - uint32_t(std::countl_zero(turned)) : uint32_t(std::countr_zero(turned));
                const uint32_t l = (at + w.first) & 31;
                w.ready &= ~(1u << l);
                return &lanes[warp * 32 + l];
            }
            runnable &= ~(1u << warp);
            if (runnable == 0) {
                if (done == n_threads || early) return nullptr;
                if (at_barrier != n_threads) die("a barrier or a warp operation that not every thread reaches");
                at_barrier = 0;
                for (uint32_t i = 0; i < n_warps; ++i) release_warp(i);
            }
            change_warp();
        }
    }
    /// The lane that runs, or null.
    Lane* choose() {
        running = pick();
        if (running) here.thread = running->thread;
        return running;
    }
    void run_next(Lane& from) {
        Lane* next = choose();
        if (next != &from) from.switch_to(next ? static_cast<Fiber&>(*next) : host);
    }
    void begin_grid(const GridLaunch& what) {
        launch = what;
        random = launch.seed;
        n_threads = launch.block.x * launch.block.y * launch.block.z;
        n_warps = (n_threads + 31) / 32;
        waited = false;
        make_lanes(n_threads);
        const Index& block = launch.block;
        for (uint32_t i = 0; i < n_threads; ++i)
            lanes[i].thread = {i % block.x, i / block.x % block.y, i / block.x / block.y};
        position = {{}, {}, block, launch.grid};
        // Exactly as large as was asked for: AddressSanitizer sees the byte behind it.
        shared.reset(static_cast<unsigned char*>(std::malloc(launch.shared_bytes)));
        order.resize(uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z);
        for (size_t i = 0; i < order.size(); ++i) order[i] = i;
        for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[next_random() % i]);
    }
    void begin_block(uint64_t b) {
        if (launch.shared_bytes) std::memset(shared.get(), 0xff, launch.shared_bytes);  // NaN in any float
        const Index& grid = launch.grid;
        position.block = {uint32_t(b % grid.x), uint32_t(b / grid.x % grid.y), uint32_t(b / grid.x / grid.y)};
        at_barrier = done = runnable = 0;
        for (uint32_t i = 0; i < n_warps; ++i) {
            warps[i].arrived = warps[i].held = 0;
            warps[i].all = n_threads - 32 * i >= 32 ? 0xffffffffu : (1u << (n_threads - 32 * i)) - 1;
            release_warp(i);
        }
    }
    /// Until no lane of the block can go on.
    void run_block() {
        here = position;
        change_warp();
        host.leave_host_to(*choose());
    }
    void release_held() {
        for (uint32_t i = 0; i < n_warps; ++i) {
            if (!warps[i].held) continue;
            warps[i].ready |= warps[i].held;
            runnable |= 1u << i;
        }
    }
};

// The address must not be kept over a switch by the sanitizers' stack checks, nor looked up by a call in a library.
[[gnu::tls_model("initial-exec")]] thread_local constinit Worker* worker = nullptr;

void enter_lane() {
    Lane& lane = *worker->running;
    lane.arrived();
    while (true) {
        worker->launch.body(worker->launch.context);
        if (lane.copied != lane.copies.size()) die("a thread ended with copies that nobody waited for");
        lane.copies.clear();
        lane.groups.clear();
        lane.copied = 0;
        ++worker->done;
        worker->run_next(lane);
    }
}

}  // namespace

void die(const char* what) {
    if (worker && worker->running)
        std::fprintf(stderr, "shim: %s: %s (block %u %u %u, thread %u)\n", worker->launch.name, what, here.block.x,
                     here.block.y, here.block.z, worker->running->index);
    else
        std::fprintf(stderr, "shim: %s: %s\n", worker ? worker->launch.name : "runtime", what);
    std::abort();
}

void warp_operation(const char* name, const uint32_t* in, int n_in, uint32_t* out, int n_out, Compute compute,
                    const void* arguments) {
    Worker& work = *worker;
    Lane& lane = *work.running;
    const uint32_t w = lane.index / 32, l = lane.index % 32;
    Warp& warp = work.warps[w];
    if (warp.arrived == 0) {
        warp.operation = name;
        warp.compute = compute;
    } else if (warp.operation != name || warp.compute != compute) {
        die("lanes of one warp meet in different operations");
    }
    for (int i = 0; i < n_in; ++i) warp.exchange.in[l][i] = in[i];
    if (++warp.arrived < uint32_t(std::popcount(warp.all))) {
        work.run_next(lane);
    } else {
        if (compute) {
            if (warp.all != 0xffffffffu) die("a warp operation in a warp of fewer than 32 threads");
            compute(warp.exchange, arguments);
        }
        warp.arrived = 0;
        work.release_warp(w);
        if (work.n_warps > 1 && (work.next_random() & 7) == 0) {  // now and then another warp goes first
            work.change_warp();
            work.run_next(lane);
        } else {
            warp.ready &= ~(1u << l);
        }
    }
    for (int i = 0; i < n_out; ++i) out[i] = warp.exchange.out[l][i];
}

void barrier() {
    ++worker->at_barrier;
    worker->run_next(*worker->running);
}

void defer_copy(void* shared, const void* global, int bytes) {
    if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) & uintptr_t(bytes - 1))
        die("copy_async of a misaligned address");
    worker->running->copies.push_back({shared, global, bytes});
}
void commit_copies() {
    Lane& lane = *worker->running;
    lane.groups.push_back(lane.copies.size());
}
void wait_copies(int pending_groups) {
    Lane& lane = *worker->running;
    const size_t n = lane.groups.size();
    if (n <= size_t(pending_groups)) return;
    const size_t end = lane.groups[n - size_t(pending_groups) - 1];
    for (; lane.copied < end; ++lane.copied) {
        const Copy& copy = lane.copies[lane.copied];
        std::memcpy(copy.shared, copy.global, size_t(copy.bytes));
    }
    lane.groups.erase(lane.groups.begin(), lane.groups.end() - pending_groups);
    if (lane.copied == lane.copies.size()) {
        for (size_t& group : lane.groups) group = 0;
        lane.copies.clear();
        lane.copied = 0;
    }
}

void wait_for_earlier() {
    Worker& work = *worker;
    work.waited = true;
    if (!work.early) return;
    Lane& lane = *work.running;
    work.warps[lane.index / 32].held |= 1u << lane.index % 32;
    work.run_next(lane);
}

unsigned char* shared_memory() { return worker->shared.get(); }

namespace {
struct Workers {
    Worker one, other;
    Worker* begun = nullptr;  // holds the grid of the next run_grid, which has started
    Worker* next = nullptr;   // ... of the one behind it
};
Workers& workers() {
    static thread_local const std::unique_ptr<Workers> mine = std::make_unique<Workers>();
    return *mine;
}
}  // namespace

void start_early(const GridLaunch& launch) {
    Workers& all = workers();
    Worker& work = all.begun == &all.one ? all.other : all.one;
    if (all.next) die("two grids that start early");
    all.next = worker = &work;
    work.begin_grid(launch);
    work.begin_block(work.order[0]);
    work.early = true;
    work.run_block();
    work.early = false;
}

void run_grid(const GridLaunch& launch) {
    Workers& all = workers();
    Worker& work = all.begun ? *all.begun : all.next == &all.one ? all.other : all.one;
    worker = &work;
    size_t n_run = 0;
    if (all.begun) {
        n_run = 1;
        work.release_held();
        if (work.done != work.n_threads) work.run_block();
    } else {
        work.begin_grid(launch);
    }
    for (; n_run < work.order.size(); ++n_run) {
        work.begin_block(work.order[n_run]);
        work.run_block();
    }
    if (!work.waited) die("a kernel that never calls wait_for_earlier_kernels()");
    work.shared.reset();
    all.begun = std::exchange(all.next, nullptr);
    worker = nullptr;
}

namespace {

// Of 8 values: the compiler makes them of what the machine has, whatever the level of optimisation.
typedef float Floats __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));

/// FP16 in the low halves, exactly. The exponent is moved by a product; infinities and NaN get theirs by hand.
inline void to_floats(const uint32_t* from, float* to) {
    Words h;
    std::memcpy(&h, from, sizeof h);
    const Words magnitude = (h & 0x7fffu) << 13;
    Floats value;
    std::memcpy(&value, &magnitude, sizeof value);
    value *= 0x1p112f;
    Words bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits |= Words((h & 0x7c00u) == 0x7c00u) & 0x7f800000u;
    bits |= (h & 0x8000u) << 16;
    std::memcpy(to, &bits, sizeof bits);
}

}  // namespace

#if defined(__x86_64__)
__attribute__((target_clones("avx2", "default")))  // not FMA: the same bits on both
#endif
void mma_products(Exchange& e, const void*) {
    uint32_t a_bits[16][16], b_bits[16][8];
    float a[16][16], b[16][8];
    for (uint32_t l = 0; l < 32; ++l) {
        const uint32_t g = l / 4, t = l % 4;
        for (uint32_t r = 0; r < 4; ++r) {
            uint32_t* at = &a_bits[g + 8 * (r & 1)][2 * t + 8 * (r >> 1)];
            at[0] = e.in[l][r] & 0xffffu;
            at[1] = e.in[l][r] >> 16;
        }
        for (uint32_t r = 0; r < 2; ++r) {
            b_bits[2 * t + 8 * r][g] = e.in[l][4 + r] & 0xffffu;
            b_bits[2 * t + 8 * r + 1][g] = e.in[l][4 + r] >> 16;
        }
    }
    for (int i = 0; i < 256; i += 8) to_floats(&a_bits[0][0] + i, &a[0][0] + i);
    for (int i = 0; i < 128; i += 8) to_floats(&b_bits[0][0] + i, &b[0][0] + i);
    Floats columns[16];
    std::memcpy(columns, b, sizeof columns);
    for (uint32_t row = 0; row < 16; ++row) {
        Floats sum = {};
        for (int k = 0; k < 16; ++k) sum += a[row][k] * columns[k];
        float values[8];
        std::memcpy(values, &sum, sizeof values);
        for (uint32_t column = 0; column < 8; ++column)
            e.out[row % 8 * 4 + column / 2][(row / 8) * 2 + column % 2] = float_bits(values[column]);
    }
}

const float* const half_table = [] {
    static float values[65536];
    for (uint32_t i = 0; i < 65536; ++i) values[i] = f16_to_f32(uint16_t(i));
    return values;
}();

}  // namespace simt
}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
