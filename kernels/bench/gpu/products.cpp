// Single kernels over shapes: products of few rows, of many, and attention.
#include <cstring>
#include <random>

#include "kernels/bench/gpu/steps.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/product.h"
#include "kernels/half.h"

namespace quantplug::bench {

using namespace quantplug::kernels;

namespace {

struct MatrixSize {
    const char* name;
    int32_t k, n;
};
constexpr MatrixSize sizes[] = {{"1.1B o", 2048, 2048},   {"1.1B up", 2048, 5632}, {"1.1B down", 5632, 2048},
                                {"7B o", 4096, 4096},     {"7B up", 4096, 11008},  {"7B down", 11008, 4096},
                                {"7B head", 4096, 32000}, {"70B o", 8192, 8192},   {"70B up", 8192, 28672},
                                {"70B down", 28672, 8192}};

/// Copies of one matrix with random codes, as many as pass through more than twice the L2.
class Matrices {
 public:
    Matrices(Stopwatch& watch, const MatrixSize& size, int32_t bits, const Scale& scale) {
        cuda::DeviceFacts facts;
        check(cuda::device_facts(0, &facts));
        MatrixShape shape{size.k, size.n, {}, DType::f16, false, false, false};
        for (int32_t row = 0; bits < 16 && row < size.k; row += 128)
            shape.groups.push_back({bits, std::min(128, size.k - row)});
        const cuda::PackPlan plan = cuda::plan_pack(shape, facts.n_multiprocessors);
        bytes = plan.total;
        std::vector<uint64_t> image(plan.total / 8 + 1);
        std::mt19937_64 random(3);
        for (uint64_t& word : image) word = random();
        auto* base = reinterpret_cast<uint8_t*>(image.data());
        // FP16 weights and scales must be finite and small.
        if (bits == 16)
            for (uint64_t i = 0; i < plan.scales / 2; ++i) reinterpret_cast<uint16_t*>(base)[i] &= 0xa3ffu;
        for (uint64_t at = plan.scales; at + 2 <= plan.gather; at += 2) {
            const uint16_t scale_bits = f32_to_f16(0.01f);
            std::memcpy(base + at, &scale_bits, 2);
        }
        const uint64_t n = scale.shim ? 1 : std::max<uint64_t>(2, 3 * facts.l2_bytes / plan.total);
        memory_ = device_block(n * plan.total);
        for (uint64_t i = 0; i < n; ++i) {
            check(cuda::copy_to_device(watch.stream(), memory_.data() + i * plan.total, base, plan.total));
            check(cuda::synchronize(watch.stream()));
            views.push_back(cuda::placed(plan, memory_.data() + i * plan.total));
        }
    }
    uint64_t bytes = 0;  // of one
    std::vector<cuda::MatrixView> views;

 private:
    cuda::Block memory_;
};

}  // namespace

Json sweep_products(const Scale& scale) {
    Json out = Json::array();
    Stopwatch watch;
    for (const MatrixSize& whole : sizes) {
        const MatrixSize size = scale.shim ? MatrixSize{whole.name, 256, 64} : whole;
        for (int32_t bits : {2, 3, 4, 5, 6, 8, 16}) {
            if (whole.n == 28672 && bits > 4) continue;
            const Matrices matrices(watch, size, bits, scale);
            const cuda::MatrixView& first = matrices.views[0];
            const cuda::Block x = device_block(uint64_t(64) * uint64_t(first.k_padded) * 2),
                              y = device_block(uint64_t(64) * uint64_t(size.n) * 4);
            check(cuda::fill(watch.stream(), x.data(), 0x11, x.size()));
            for (int32_t rows : {1, 8, 32}) {
                if (rows > 1 && bits != 4) continue;
                const double seconds = watch.seconds(
                                           [&](cuda::Queue& queue) {
                                               for (const cuda::MatrixView& view : matrices.views) {
                                                   cuda::ProductLaunch launch;
                                                   launch.matrices[0] = view;
                                                   launch.x = {reinterpret_cast<uint16_t*>(x.data()), view.k_padded, 0};
                                                   launch.rows = rows;
                                                   launch.out = reinterpret_cast<float*>(y.data());
                                                   launch.ld = size.n;
                                                   cuda::product(queue, launch);
                                               }
                                           },
                                           true, scale.shim ? 1 : 7) /
                                       double(matrices.views.size());
                const double gb_per_s = 1e-9 * double(matrices.bytes) / seconds;
                out.push_back({{"matrix", whole.name},
                               {"k", size.k},
                               {"n", size.n},
                               {"bits", bits},
                               {"rows", rows},
                               {"us", 1e6 * seconds},
                               {"gb_per_s", gb_per_s},
                               {"share_of_copy", gb_per_s / scale.copy_gb_per_s}});
            }
        }
        if (scale.shim) break;
    }
    return out;
}

Json sweep_prefill(const Scale& scale) {
    Json out = Json::array();
    Stopwatch watch;
    const std::unique_ptr<cuda::Blas> blas = cuda::Blas::open();
    for (const MatrixSize& whole : {sizes[4], sizes[5]}) {
        const MatrixSize size = scale.shim ? MatrixSize{whole.name, 256, 64} : whole;
        const Matrices matrices(watch, size, 4, scale);
        const cuda::MatrixView& view = matrices.views[0];
        const int32_t most = scale.shim ? 70 : 2048;
        const cuda::Block x = device_block(uint64_t(most) * uint64_t(view.k_padded) * 2),
                          y = device_block(uint64_t(most) * uint64_t(size.n) * 4),
                          scratch = device_block(cuda::gemm_scratch_halves(view.k_padded) * 2);
        check(cuda::fill(watch.stream(), x.data(), 0x11, x.size()));
        for (int32_t rows : {most / 4, most / 2, most}) {
            for (cuda::Blas* with : {static_cast<cuda::Blas*>(nullptr), blas.get()}) {
                const double seconds = watch.seconds(
                    [&](cuda::Queue& queue) {
                        cuda::ProductLaunch launch;
                        launch.matrices[0] = view;
                        launch.x = {reinterpret_cast<uint16_t*>(x.data()), view.k_padded, 0};
                        launch.rows = rows;
                        launch.out = reinterpret_cast<float*>(y.data());
                        launch.ld = size.n;
                        cuda::gemm_product(queue, with, launch, reinterpret_cast<uint16_t*>(scratch.data()));
                    },
                    false, scale.shim ? 1 : 7);
                out.push_back({{"matrix", whole.name},
                               {"rows", rows},
                               {"gemm", with ? with->version() : "own"},
                               {"ms", 1e3 * seconds},
                               {"tflops", 2e-12 * double(rows) * double(size.k) * double(size.n) / seconds}});
                if (!blas) break;
            }
        }
        if (scale.shim) break;
    }
    return out;
}

Json sweep_attention(const Scale& scale) {
    Json out = Json::array();
    Stopwatch watch;
    cuda::DeviceFacts facts;
    check(cuda::device_facts(0, &facts));
    struct Heads {
        const char* name;
        int32_t n_heads, n_kv_heads, head_dim;
    };
    for (const Heads& heads : {Heads{"7B", 32, 32, 128}, Heads{"8B", 32, 8, 128}, Heads{"1.1B", 32, 4, 64}}) {
        for (int32_t context : {128, 2048, 16384}) {
            if (scale.shim && context > 128) continue;
            const int32_t n_blocks = context / 64;
            ModelSpec spec;
            spec.n_heads = heads.n_heads;
            spec.n_kv_heads = heads.n_kv_heads;
            spec.head_dim = heads.head_dim;
            const uint64_t kv_bytes = uint64_t(context) * uint64_t(heads.n_kv_heads) * uint64_t(heads.head_dim) * 2;
            const cuda::Block kv = device_block(2 * kv_bytes),
                              qkv = device_block(uint64_t(heads.n_heads + 2 * heads.n_kv_heads) *
                                                 uint64_t(heads.head_dim) * 4),
                              result = device_block(uint64_t(heads.n_heads) * uint64_t(heads.head_dim) * 4),
                              partials = device_block(
                                  cuda::decode_workspace_floats(1, heads.n_heads, heads.head_dim, context) * 4 + 4),
                              counters = device_block(cuda::decode_workspace_counters(1, heads.n_heads) * 4 + 4),
                              step = device_block(4096);
            for (const cuda::Block* block : {&kv, &qkv, &counters})
                check(cuda::fill(watch.stream(), block->data(), 0, block->size()));
            std::vector<int32_t> words(64 + size_t(n_blocks));
            const cuda::StepHeader header{1, n_blocks, 0, 0};
            const cuda::StepRow row{0, context - 1, 0, context, context - 1};
            std::memcpy(words.data(), &header, sizeof header);
            std::memcpy(words.data() + 16, &row, sizeof row);
            for (int32_t b = 0; b < n_blocks; ++b) words[size_t(64 + b)] = b;
            check(cuda::copy_to_device(watch.stream(), step.data(), words.data(), words.size() * 4));
            check(cuda::synchronize(watch.stream()));
            cuda::AttentionLaunch launch;
            const auto* at = reinterpret_cast<const int32_t*>(step.data());
            launch.step = {reinterpret_cast<const cuda::StepHeader*>(at),
                           reinterpret_cast<const cuda::StepRow*>(at + 16), at + 64, nullptr};
            launch.n_rows = 1;
            launch.kv.keys = kv.data();
            launch.kv.values = kv.data() + kv_bytes;
            launch.kv.n_kv_heads = heads.n_kv_heads;
            launch.kv.head_dim = launch.kv.width = heads.head_dim;
            launch.n_heads = heads.n_heads;
            launch.qkv = reinterpret_cast<float*>(qkv.data());
            launch.qkv_ld = (heads.n_heads + 2 * heads.n_kv_heads) * heads.head_dim;
            launch.scale = 0.1f;
            launch.out = reinterpret_cast<float*>(result.data());
            launch.ld = heads.n_heads * heads.head_dim;
            const int32_t n = scale.shim ? 1 : 32;
            const double seconds = watch.seconds(
                                       [&](cuda::Queue& queue) {
                                           for (int32_t i = 0; i < n; ++i)
                                               cuda::decode_attention(queue, launch, true,
                                                                      {reinterpret_cast<float*>(partials.data()),
                                                                       reinterpret_cast<uint32_t*>(counters.data())},
                                                                      context, facts.n_multiprocessors);
                                       },
                                       true, scale.shim ? 1 : 7) /
                                   n;
            out.push_back({{"heads", heads.name},
                           {"context", context},
                           {"us", 1e6 * seconds},
                           {"gb_per_s", 2e-9 * double(kv_bytes) / seconds}});
        }
        if (scale.shim) break;
    }
    return out;
}

}  // namespace quantplug::bench
