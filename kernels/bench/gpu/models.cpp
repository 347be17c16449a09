// Whole models of random weights: how fast a card decodes and prefills, and that it computes what the CPU does.
#include <chrono>
#include <cmath>

#include "kernels/bench/gpu/steps.h"
#include "kernels/cuda/device.h"

namespace quantplug::bench {

using namespace quantplug::kernels;

namespace {

using Clock = std::chrono::steady_clock;

std::unique_ptr<Device> cuda_device() {
    std::unique_ptr<Device> device;
    check(make_cuda_device(0, &device));
    return device;
}

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Tokens of every sequence with `context` tokens before it, greedy, one step submitted ahead of the other.
double decode_seconds(SyntheticModel& model, int32_t batch, int32_t context, int32_t n_tokens) {
    std::vector<Wanted> wanted;
    for (int32_t s = 0; s < batch; ++s) wanted.push_back({s, Wanted::argmax, 0});
    const auto step = [&](int32_t i) {
        std::vector<Row> rows;
        for (int32_t s = 0; s < batch; ++s)
            rows.push_back({s, i == 0 ? s + 1 : chosen_before(s), context + i, context + i + 1});
        return model.submit(rows, wanted);
    };
    constexpr int32_t warm_up = 4;
    Ticket before = step(0);
    Clock::time_point start = Clock::now();
    for (int32_t i = 1; i < n_tokens + warm_up; ++i) {
        const Ticket ticket = step(i);
        model.wait(before);
        before = ticket;
        if (i == warm_up) start = Clock::now();
    }
    model.wait(before);
    return seconds_since(start) / n_tokens;
}

double prefill_seconds(SyntheticModel& model, int32_t n_tokens, int32_t rows_per_step) {
    const auto run = [&] {
        const Clock::time_point start = Clock::now();
        for (int32_t first = 0; first < n_tokens; first += rows_per_step) {
            std::vector<Row> rows;
            for (int32_t p = first; p < std::min(first + rows_per_step, n_tokens); ++p)
                rows.push_back({0, p % model.shape().n_vocab, p, n_tokens});
            const bool last = first + rows_per_step >= n_tokens;
            model.run(rows, last ? std::vector<Wanted>{{int32_t(rows.size()) - 1, Wanted::argmax, 0}}
                                 : std::vector<Wanted>{});
        }
        return seconds_since(start);
    };
    run();
    std::vector<double> all;
    for (int32_t i = 0; i < 3; ++i) all.push_back(run());
    return median(std::move(all));
}

}  // namespace

Json run_models(const Scale& scale) {
    Json out = Json::array();
    const int32_t rows_per_step = scale.shim ? 80 : 1024;
    for (const SyntheticShape& shape :
         scale.shim ? std::vector<SyntheticShape>{tiny} : std::vector<SyntheticShape>{tinyllama, llama2_7b}) {
        for (int32_t bits : scale.shim ? std::vector<int32_t>{4} : std::vector<int32_t>{4, 2, 3, 6}) {
            const Clock::time_point start = Clock::now();
            SyntheticModel model(cuda_device(), shape, bits, 128, scale.shim ? 256 : 4096, 32, rows_per_step);
            const double load = seconds_since(start);
            auto& device = static_cast<cuda::CudaDevice&>(model.device());
            const int32_t n_tokens = scale.shim ? 2 : 128;
            const auto decode = [&](const char* how, int32_t batch, int32_t context) {
                const double seconds = decode_seconds(model, batch, context, n_tokens);
                const double bytes = double(model.bytes_per_step()) +
                                     double(batch) * double(model.kv_bytes_per_token()) * double(context);
                const double gb_per_s = 1e-9 * bytes / seconds;
                out.push_back({{"model", shape.name},
                               {"bits", bits},
                               {"test", "decode"},
                               {"how", how},
                               {"batch", batch},
                               {"context", context},
                               {"tokens_per_s", batch / seconds},
                               {"bytes_per_step", bytes},
                               {"gb_per_s", gb_per_s},
                               {"share_of_copy", gb_per_s / scale.copy_gb_per_s}});
            };
            const int32_t far = scale.shim ? 200 : 2048;
            if (bits == 4) {
                device.use_graphs(false);
                device.use_dependent_launch(false);
                decode("stream", 1, 128);
                device.use_dependent_launch(true);
                decode("stream, dependent", 1, 128);
                device.use_graphs(true);
                device.use_folded_norms(false);
                decode("graph, dependent, norms apart", 1, 128);
                device.use_folded_norms(true);
            }
            decode("graph, dependent", 1, 128);
            if (bits == 4) {
                decode("graph, dependent", 1, far);
                for (int32_t batch : {2, 4, 8, 16, 32}) decode("graph, dependent", batch, 128);
                for (int32_t n : {scale.shim ? 100 : 512, scale.shim ? 160 : 2048}) {
                    const double seconds = prefill_seconds(model, n, rows_per_step);
                    out.push_back({{"model", shape.name},
                                   {"bits", bits},
                                   {"test", "prefill"},
                                   {"tokens", n},
                                   {"tokens_per_s", n / seconds},
                                   {"load_s", load}});
                }
            }
            uint32_t saturated = 0;
            check(device.saturated(&saturated));
            out.push_back({{"model", shape.name},
                           {"bits", bits},
                           {"test", "memory"},
                           {"weights", device.memory().weights},
                           {"kv", device.memory().kv},
                           {"scratch", device.memory().scratch},
                           {"saturated", saturated}});
        }
    }
    return out;
}

// The CPU's greedy tokens, forced on both: where the CPU's margin is above 0.05 the GPU must choose the same.
Json compare_with_cpu(const Scale& scale) {
    Json out = Json::array();
    for (int32_t bits : {2, 3, 4, 5, 6, 8}) {
        if (scale.shim && bits != 3) continue;
        std::unique_ptr<Device> cpu_device;
        check(make_cpu_device(0, &cpu_device));
        SyntheticModel cpu(std::move(cpu_device), tiny, bits, 32, 256, 1, 96),
            gpu(cuda_device(), tiny, bits, 32, 256, 1, 96);
        const int32_t n = scale.shim ? 8 : 160;
        int32_t token = 1, n_clear = 0, n_equal = 0;
        double kl = 0;
        for (int32_t p = 0; p < n; ++p) {
            const std::vector<Row> rows = {{0, token, p, p + 1}};
            const std::vector<Wanted> wanted = {{0, Wanted::logits, 0}};
            const std::vector<float> a = cpu.run(rows, wanted).values, b = gpu.run(rows, wanted).values;
            const auto log_sum = [](const std::vector<float>& z) {
                double sum = 0;
                for (float v : z) sum += std::exp(double(v));
                return std::log(sum);
            };
            const double za = log_sum(a), zb = log_sum(b);
            for (size_t i = 0; i < a.size(); ++i)
                kl += std::exp(double(a[i]) - za) * ((double(a[i]) - za) - (double(b[i]) - zb)) / n;
            std::vector<float> sorted = a;
            std::nth_element(sorted.begin(), sorted.begin() + 1, sorted.end(), std::greater<>());
            token = int32_t(std::max_element(a.begin(), a.end()) - a.begin());
            if (sorted[0] - sorted[1] <= 0.05f) continue;
            ++n_clear;
            n_equal += token == int32_t(std::max_element(b.begin(), b.end()) - b.begin());
        }
        out.push_back({{"bits", bits},
                       {"tokens", n},
                       {"clear", n_clear},
                       {"equal", n_equal},
                       {"kl", kl},
                       {"passed", n_equal == n_clear && kl < 1e-5}});
    }
    return out;
}

}  // namespace quantplug::bench
