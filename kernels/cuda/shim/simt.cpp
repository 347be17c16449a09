// Fibers, meeting points and tensor-core arithmetic of the shim.
#include "kernels/cuda/shim/simt.h"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace simt {
namespace {

constexpr size_t stack_bytes = 64 << 10;

struct Copy {
    void* shared;
    const void* global;
    int bytes;
};

struct Lane {
    enum State : uint8_t { ready, at_warp, at_barrier, done } state = ready;
    uint32_t index = 0;
    Position position;
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
};

struct Warp {
    Exchange exchange;
    uint32_t arrived = 0;
    const char* operation = nullptr;
    Compute compute = nullptr;
};

struct Grid {
    std::vector<Lane> lanes;
    std::vector<Warp> warps;
    std::vector<unsigned char> shared;
    ucontext_t scheduler;
    Lane* running = nullptr;
    uint64_t random = 1;
    void (*body)(const void*) = nullptr;
    const void* context = nullptr;

    uint64_t next_random() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        return random;
    }
};

thread_local Grid* grid_at_work = nullptr;

Lane& self() { return *grid_at_work->running; }

void yield(Lane::State state) {
    Lane& lane = self();
    lane.state = state;
    swapcontext(&lane.context, &grid_at_work->scheduler);
}

void enter() {
    grid_at_work->body(grid_at_work->context);
    if (!self().open.empty() || !self().groups.empty()) die("a thread ended with copies that nobody waited for");
    yield(Lane::done);
}

void run_block(Grid& grid, uint32_t n_threads) {
    const uint32_t n_warps = (n_threads + 31) / 32;
    if (grid.lanes.size() != n_threads) {
        grid.lanes = std::vector<Lane>(n_threads);
        for (Lane& lane : grid.lanes) lane.stack = std::make_unique<char[]>(stack_bytes);
    }
    grid.warps.resize(n_warps);
    for (Warp& warp : grid.warps) warp.arrived = 0;
    for (uint32_t i = 0; i < n_threads; ++i) {
        Lane& lane = grid.lanes[i];
        getcontext(&lane.context);
        lane.context.uc_stack.ss_sp = lane.stack.get();
        lane.context.uc_stack.ss_size = stack_bytes;
        lane.context.uc_link = nullptr;
        makecontext(&lane.context, enter, 0);
        lane.state = Lane::ready;
        lane.index = i;
        lane.groups.clear();
        lane.open.clear();
    }
    while (true) {
        bool ran = false;
        const uint32_t first_warp = uint32_t(grid.next_random() % n_warps);
        for (uint32_t w = 0; w < n_warps; ++w) {
            const uint32_t begin = (first_warp + w) % n_warps * 32, n = std::min(32u, n_threads - begin);
            const uint32_t first = uint32_t(grid.next_random() % n), step = grid.next_random() & 1 ? 1 : n - 1;
            for (uint32_t i = 0; i < n; ++i) {
                Lane& lane = grid.lanes[begin + (first + i * step) % n];
                if (lane.state != Lane::ready) continue;
                grid.running = &lane;
                swapcontext(&grid.scheduler, &lane.context);
                ran = true;
            }
        }
        if (ran) continue;
        uint32_t at_barrier = 0, done = 0;
        for (const Lane& lane : grid.lanes) at_barrier += lane.state == Lane::at_barrier, done += lane.state == Lane::done;
        if (done == n_threads) return;
        if (at_barrier != n_threads) die("a barrier or a warp operation that not every thread reaches");
        for (Lane& lane : grid.lanes) lane.state = Lane::ready;
    }
}

}  // namespace

const Position& position() { return self().position; }

void die(const char* what) {
    const Position& at = self().position;
    std::fprintf(stderr, "shim: %s (block %u %u %u, thread %u)\n", what, at.block.x, at.block.y, at.block.z, self().index);
    std::abort();
}

void warp_operation(const char* name, const uint32_t* in, int n_in, uint32_t* out, int n_out, Compute compute,
                    const void* arguments) {
    Grid& grid = *grid_at_work;
    Lane& lane = self();
    const uint32_t w = lane.index / 32, l = lane.index % 32, n_threads = uint32_t(grid.lanes.size());
    const uint32_t n = std::min(32u, n_threads - w * 32);
    Warp& warp = grid.warps[w];
    if (warp.arrived == 0) {
        warp.operation = name;
        warp.compute = compute;
    } else if (warp.operation != name || warp.compute != compute) {
        die("lanes of one warp meet in different operations");
    }
    for (int i = 0; i < n_in; ++i) warp.exchange.in[l][i] = in[i];
    if (++warp.arrived < n) {
        yield(Lane::at_warp);
    } else {
        if (n < 32 && compute) die("a warp operation in a warp of fewer than 32 threads");
        warp.arrived = 0;
        if (compute) compute(warp.exchange, arguments);
        for (uint32_t i = 0; i < n; ++i) grid.lanes[w * 32 + i].state = Lane::ready;
    }
    for (int i = 0; i < n_out; ++i) out[i] = warp.exchange.out[l][i];
}

void barrier() { yield(Lane::at_barrier); }

void defer_copy(void* shared, const void* global, int bytes) {
    if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) & uintptr_t(bytes - 1))
        die("copy_async of a misaligned address");
    self().open.push_back({shared, global, bytes});
}
void commit_copies() {
    self().groups.push_back(std::move(self().open));
    self().open.clear();
}
void wait_copies(int pending_groups) {
    auto& groups = self().groups;
    while (int(groups.size()) > pending_groups) {
        for (const Copy& copy : groups.front()) std::memcpy(copy.shared, copy.global, size_t(copy.bytes));
        groups.erase(groups.begin());
    }
}

unsigned char* shared_memory() { return grid_at_work->shared.data(); }

void run_grid(Index size, Index block, size_t shared_bytes, uint64_t seed, void (*body)(const void*), const void* context) {
    static thread_local Grid grid;
    grid_at_work = &grid;
    grid.random = seed * 0x9e3779b97f4a7c15u + 1;
    grid.body = body;
    grid.context = context;
    const uint32_t n_threads = block.x * block.y * block.z;
    std::vector<uint64_t> order(uint64_t(size.x) * size.y * size.z);
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[grid.next_random() % i]);
    for (const uint64_t b : order) {
        grid.shared.assign(shared_bytes, 0xff);  // NaN in any float
        if (grid.lanes.size() != n_threads) grid.lanes.clear();
        const Index at{uint32_t(b % size.x), uint32_t(b / size.x % size.y), uint32_t(b / size.x / size.y)};
        if (grid.lanes.empty()) {
            grid.lanes = std::vector<Lane>(n_threads);
            for (Lane& lane : grid.lanes) lane.stack = std::make_unique<char[]>(stack_bytes);
        }
        for (uint32_t i = 0; i < n_threads; ++i)
            grid.lanes[i].position = {{i % block.x, i / block.x % block.y, i / block.x / block.y}, at, block, size};
        run_block(grid, n_threads);
    }
    grid_at_work = nullptr;
}

float half_value(uint32_t h) {
    static const std::unique_ptr<float[]> table = [] {
        auto values = std::make_unique<float[]>(65536);
        for (uint32_t i = 0; i < 65536; ++i) values[i] = f16_to_f32(uint16_t(i));
        return values;
    }();
    return table[h];
}

}  // namespace simt

using simt::Exchange;

void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    uint32_t in[8] = {a[0], a[1], a[2], a[3], b0, b1, 0, 0}, out[4];
    // The accumulators join by the lanes' own hands: each adds its products to them after the meeting.
    simt::warp_operation(
        "mma_16x8x16", in, 6, out, 4,
        [](Exchange& e, const void*) {
            float rows[16][16], columns[8][16];
            for (uint32_t l = 0; l < 32; ++l) {
                const uint32_t g = l / 4, t = l % 4;
                for (uint32_t r = 0; r < 4; ++r) {
                    float* at = &rows[g + 8 * (r & 1)][2 * t + 8 * (r >> 1)];
                    at[0] = low_to_float(e.in[l][r]);
                    at[1] = high_to_float(e.in[l][r]);
                }
                for (uint32_t r = 0; r < 2; ++r) {
                    columns[g][2 * t + 8 * r] = low_to_float(e.in[l][4 + r]);
                    columns[g][2 * t + 8 * r + 1] = high_to_float(e.in[l][4 + r]);
                }
            }
            for (uint32_t l = 0; l < 32; ++l) {
                for (uint32_t q = 0; q < 4; ++q) {
                    const float *x = rows[l / 4 + 8 * (q >> 1)], *y = columns[2 * (l % 4) + (q & 1)];
                    float sum = 0;
                    for (int k = 0; k < 16; ++k) sum += x[k] * y[k];
                    e.out[l][q] = float_bits(sum);
                }
            }
        },
        nullptr);
    for (int q = 0; q < 4; ++q) c[q] += bits_float(out[q]);
}

namespace {

template <bool Transposed>
void load_four(uint32_t (&r)[4], const void* shared_row) {
    if (reinterpret_cast<uintptr_t>(shared_row) & 15) simt::die("a row of load_matrices that is not aligned to 16 bytes");
    uint32_t in[4];
    std::memcpy(in, shared_row, 16);
    simt::warp_operation(
        Transposed ? "load_matrices_transposed" : "load_matrices", in, 4, r, 4,
        [](Exchange& e, const void*) {
            uint16_t values[4][8][8];  // matrix, row, column
            for (uint32_t l = 0; l < 32; ++l) std::memcpy(values[l / 8][l % 8], e.in[l], 16);
            for (uint32_t l = 0; l < 32; ++l) {
                const uint32_t g = l / 4, t = l % 4;
                for (uint32_t m = 0; m < 4; ++m) {
                    const uint16_t low = Transposed ? values[m][2 * t][g] : values[m][g][2 * t];
                    const uint16_t high = Transposed ? values[m][2 * t + 1][g] : values[m][g][2 * t + 1];
                    e.out[l][m] = low | (uint32_t(high) << 16);
                }
            }
        },
        nullptr);
}

}  // namespace

void load_matrices(uint32_t (&r)[4], const void* shared_row) { load_four<false>(r, shared_row); }
void load_matrices_transposed(uint32_t (&r)[4], const void* shared_row) { load_four<true>(r, shared_row); }

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
