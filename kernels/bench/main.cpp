// qp_bench_kernels [--threads N] [--bits B] [--set NAME] [--exact]: what a step of random layers of TinyLlama-1.1B's
// shapes reaches, for every width and every instruction set that the machine has.
//
// Decode: GB/s of packed weights and its share of the read bandwidth that is measured beside it (virtual machines
// change within seconds). Prefill: Gop/s, two operations a weight and row, and its share of the set's peak.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "kernels/half.h"
#include "kernels/limits.h"

using namespace quantplug::kernels;

namespace {

constexpr int32_t hidden = 2048, inner = 5632, n_heads = 32, n_kv_heads = 4, head_dim = 64, n_vocab = 256, n_layers = 4;
constexpr int32_t prefill_rows = 256;

double seconds(clockid_t clock) {
    timespec time{};
    clock_gettime(clock, &time);
    return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

// Best of several runs: the machine is shared. One thread: its own time, not that of its neighbours on the core.
template <class Work>
double best_time(int32_t threads, Work&& work) {
    const clockid_t clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    work();
    double best = 1e30;
    const double begin = seconds(clock);
    for (int i = 0; i < 5 || seconds(clock) - begin < 0.3; ++i) {
        const double start = seconds(clock);
        work();
        best = std::min(best, seconds(clock) - start);
    }
    return best;
}

void fail(const Status& status) {
    if (status.ok()) return;
    std::fprintf(stderr, "qp_bench_kernels: %s\n", status.message.c_str());
    std::exit(1);
}

uint64_t next_random(uint64_t& state) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

// bits 16: a dense FP16 matrix.
Matrix random_matrix(Device& device, int32_t k, int32_t n, int32_t bits, uint64_t* bytes) {
    Matrix matrix;
    static uint64_t state = 88172645463325252u;
    if (bits == 16) {
        DenseSource dense;
        dense.in_features = k;
        dense.out_features = n;
        dense.read_rows = [k](int32_t, int32_t rows, void* out) {
            auto* to = static_cast<uint16_t*>(out);
            for (int64_t i = 0; i < int64_t(rows) * k; ++i)
                to[i] = f32_to_f16(float(int32_t(next_random(state) % 2001) - 1000) * 3e-5f);
            return Status{};
        };
        *bytes += device.matrix_bytes(dense.shape());
        fail(device.pack(dense, &matrix));
        return matrix;
    }
    QuantSource source;
    source.in_features = k;
    source.out_features = n;
    for (int32_t row = 0; row < k; row += 128) source.groups.push_back({bits, std::min(128, k - row)});
    source.scales.assign(source.groups.size() * size_t(n), f32_to_f16(0.05f / float(1 << bits)));
    source.read_codes = [n, bits](int32_t, int32_t rows, uint8_t* codes) {
        for (int64_t i = 0; i < int64_t(rows) * n; ++i)
            codes[i] = uint8_t((next_random(state) >> 24) & ((1u << bits) - 1));
        return Status{};
    };
    *bytes += device.matrix_bytes(source.shape());
    fail(device.pack(source, &matrix));
    return matrix;
}

bool walk(const ModelSpec& spec, Ops& ops) {
    const Activations x = ops.embed(spec);
    for (int32_t l = 0; l < n_layers; ++l) {
        const LayerSpec& layer = spec.layers[size_t(l)];
        ops.project_add(spec, layer, ops.rope_append_attend(spec, layer, l, ops.norm_qkv(spec, layer, x)), x);
        ops.down_add(spec, layer, ops.gate_up_act(spec, layer, x), x);
    }
    return true;
}

void bench_width(const char* set, int32_t bits, int32_t threads, Compute compute) {
    std::unique_ptr<Device> device;
    fail(make_cpu_device(threads, &device));
    ModelSpec spec;
    spec.hidden_size = hidden;
    spec.intermediate_size = inner;
    spec.n_vocab = n_vocab;
    spec.n_heads = n_heads;
    spec.n_kv_heads = n_kv_heads;
    spec.head_dim = head_dim;
    spec.attention_scale = 0.125f;
    spec.max_positions = 1024;
    spec.compute = compute;
    spec.ropes.push_back({std::vector<float>(head_dim / 2, 0.5f), 1});
    std::vector<float> ones(hidden, 1.0f);
    NormSpec norm{NormSpec::rms, 1e-5f, {}};
    fail(device->upload(ones, &norm.weight));
    uint64_t bytes = 0, ignored = 0;
    for (int32_t l = 0; l < n_layers; ++l) {
        LayerSpec layer;
        layer.attention_norm = layer.mlp_norm = norm;
        layer.q = random_matrix(*device, hidden, n_heads * head_dim, bits, &bytes);
        layer.k = random_matrix(*device, hidden, n_kv_heads * head_dim, bits, &bytes);
        layer.v = random_matrix(*device, hidden, n_kv_heads * head_dim, bits, &bytes);
        layer.o = random_matrix(*device, n_heads * head_dim, hidden, bits, &bytes);
        layer.gate = random_matrix(*device, hidden, inner, bits, &bytes);
        layer.up = random_matrix(*device, hidden, inner, bits, &bytes);
        layer.down = random_matrix(*device, inner, hidden, bits, &bytes);
        spec.layers.push_back(layer);
    }
    spec.embedding = spec.head = random_matrix(*device, hidden, n_vocab, 16, &ignored);
    fail(device->prepare(spec, prefill_rows, 1));
    Kv kv;
    fail(device->make_kv(spec, {KvSpec::f16, 64, 1024}, &kv));
    std::vector<int32_t> table(1024);
    std::iota(table.begin(), table.end(), 0);

    const auto step_time = [&](int32_t rows, bool one_sequence) {
        std::vector<Row> step_rows;
        for (int32_t r = 0; r < rows; ++r)
            step_rows.push_back({one_sequence ? 0 : r, r % n_vocab, one_sequence ? r : 0});
        const Step step{step_rows, kv, table, one_sequence ? 16 : 1, {}, one_sequence};
        return best_time(threads, [&] {
            fail(device->wait(device->submit(spec, step, [&](Ops& ops) { return walk(spec, ops); }), nullptr));
        });
    };
    const double weights = double(n_layers) * (double(hidden) * (n_heads * head_dim * 2 + n_kv_heads * head_dim * 2) +
                                               3.0 * hidden * inner);
    const double one = step_time(1, false), four = step_time(4, false), eight = step_time(8, false),
                 prefill = step_time(prefill_rows, true);
    Limits limits;
    fail(measure_limits(threads, &limits));
    const double peak = bits == 16 || compute == Compute::exact ? limits.fp32_gflops : limits.int16_gops;
    const auto gb = [&](double time) { return double(bytes) / time * 1e-9; };
    const double gops = 2 * weights * prefill_rows / prefill * 1e-9;
    std::printf("%-12s  %2d  %7d  %6.2f  %5.0f %%  %6.2f  %6.2f  %7.1f  %5.0f %%\n", set, bits, threads, gb(one),
                100 * gb(one) / limits.read_gb_per_s, gb(four), gb(eight), gops, 100 * gops / peak);
    std::fflush(stdout);
}

// A call to it is the only way to know whether the machine has it.
bool has(const char* set) {
    setenv("QUANTPLUG_CPU", set, 1);
    std::unique_ptr<Device> device;
    return make_cpu_device(1, &device).ok();
}

}  // namespace

int main(int argc, char** argv) {
    int32_t only_threads = 0, only_bits = 0;
    std::string only_set;
    Compute compute = Compute::standard;
    for (int i = 1; i < argc; ++i) {
        const std::string option = argv[i];
        if (option == "--threads" && i + 1 < argc) {
            only_threads = std::atoi(argv[++i]);
        } else if (option == "--bits" && i + 1 < argc) {
            only_bits = std::atoi(argv[++i]);
        } else if (option == "--set" && i + 1 < argc) {
            only_set = argv[++i];
        } else if (option == "--exact") {
            compute = Compute::exact;
        } else {
            std::fprintf(stderr,
                         "usage: qp_bench_kernels [--threads N] [--bits 2|3|4|5|6|8|16] [--set "
                         "portable|avx2|avxvnni|avx512vnni] [--exact]\n");
            return 2;
        }
    }
    for (int32_t threads : {1, 2}) {
        if (only_threads && threads != only_threads) continue;
        for (const char* set : {"portable", "avx2", "avxvnni", "avxvnni-evex", "avx512vnni"}) {
            if (only_set.empty() ? !has(set) : only_set != set) continue;
            setenv("QUANTPLUG_CPU", set, 1);
            Limits limits;
            fail(measure_limits(threads, &limits));
            std::printf("%s: reads %.1f GB/s, int8 %.0f, int16 %.0f, fp32 %.0f Gop/s with %d thread%s; %s compute\n",
                        set, limits.read_gb_per_s, limits.int8_gops, limits.int16_gops, limits.fp32_gflops, threads,
                        threads == 1 ? "" : "s", compute == Compute::exact ? "exact" : "default");
            std::printf(
                "set         bits  threads  decode  of read  4 rows  8 rows  prefill  of peak   (GB/s, Gop/s)\n");
            for (int32_t bits : {2, 3, 4, 5, 6, 8, 16}) {
                if (!only_bits || bits == only_bits) bench_width(set, bits, threads, compute);
            }
        }
    }
    return 0;
}
