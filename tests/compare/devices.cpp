// One model on the CPU and on a CUDA device, token by token and as prompts: how far apart their distributions are.
//
//   qp_compare_devices FOLDER exl2|gptq IDS [--rows N] [--ctx N] [--split]
//
// IDS: a file of token ids. Rows of ctx ids each, at most N of them, are computed twice on each device: as one prompt,
// and id by id. One JSON object a way on standard output. `clear`: predictions whose best two logits of the CPU are
// more than 0.05 apart; `clear_equal` of them have the same best id on both. --split: half of the layers on each
// device. Exits with 1 where a clear choice differs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/model/decoder.h"
#include "engine/model/graph.h"
#include "engine/model/weights.h"
#include "exl2_backend/exl2_format.h"
#include "gptq_backend/gptq_format.h"
#include "kernels/device.h"

namespace {

using namespace quantplug;

constexpr int32_t block_tokens = 64;

void check(const kernels::Status& status) {
    if (!status.ok()) engine::fail(engine::Code(status.code), status.message);
}

std::unique_ptr<kernels::Device> make(const char* name) {
    std::unique_ptr<kernels::Device> device;
    check(std::strcmp(name, "cpu") == 0 ? kernels::make_cpu_device(0, &device) : kernels::make_cuda_device(0, &device));
    return device;
}

class Computer {
 public:
    Computer(const engine::ModelFolder& folder, const engine::Format& format, std::unique_ptr<kernels::Device> device,
             int32_t ctx)
        : decoder_(engine::read_decoder(folder, format)), device_(std::move(device)) {
        kernels::ModelSpec& spec = decoder_.spec;
        spec.max_positions = ctx;
        if (device_->n_parts() > 1)
            for (size_t l = 0; l < spec.layers.size(); ++l) spec.layers[l].device = l >= spec.layers.size() / 2;
        engine::load_weights(folder, format, decoder_, *device_, {});
        const int32_t n_blocks = (ctx + block_tokens - 1) / block_tokens;
        check(device_->make_kv(spec, {kernels::KvSpec::f16, block_tokens, n_blocks}, &kv_));
        check(device_->prepare(spec, ctx, ctx));
        for (int32_t b = n_blocks; b-- > 0;) blocks_.push_back(b);
    }

    /// Logits of every id, (ids, n_vocab).
    std::vector<float> logits(const std::vector<int32_t>& ids, bool as_prompt) {
        std::vector<float> all;
        const size_t piece = as_prompt ? ids.size() : 1;
        for (size_t first = 0; first < ids.size(); first += piece) {
            std::vector<kernels::Row> rows;
            std::vector<kernels::Wanted> wanted;
            for (size_t i = first; i < first + piece; ++i) {
                wanted.push_back({int32_t(rows.size()), kernels::Wanted::logits, 0});
                rows.push_back({0, ids[i], int32_t(i), as_prompt ? int32_t(ids.size()) : 0});
            }
            kernels::Step step;
            step.rows = rows;
            step.kv = kv_;
            step.block_table = blocks_;
            step.max_blocks = int32_t(blocks_.size());
            step.wanted = wanted;
            step.prefill = as_prompt;
            kernels::StepResult result;
            check(
                device_->wait(device_->submit(decoder_.spec, step, engine::decoder_walk(decoder_.spec, {})), &result));
            all.insert(all.end(), result.values.begin(), result.values.end());
        }
        return all;
    }
    int32_t n_vocab() const { return decoder_.spec.n_vocab; }
    std::string name() const { return device_->describe(); }

 private:
    engine::Decoder decoder_;
    std::unique_ptr<kernels::Device> device_;
    kernels::Kv kv_;
    std::vector<int32_t> blocks_;
};

struct Distance {
    int64_t n = 0, clear = 0, clear_equal = 0, top1 = 0;
    double kl = 0, worst_kl = 0;

    void add(const float* base, const float* other, int32_t n_vocab) {
        const auto log_sum = [&](const float* z) {
            const double largest = double(*std::max_element(z, z + n_vocab));
            double sum = 0;
            for (int32_t v = 0; v < n_vocab; ++v) sum += std::exp(double(z[v]) - largest);
            return largest + std::log(sum);
        };
        const double zb = log_sum(base), zo = log_sum(other);
        double one = 0;
        for (int32_t v = 0; v < n_vocab; ++v)
            one += std::exp(double(base[v]) - zb) * ((double(base[v]) - zb) - (double(other[v]) - zo));
        const auto best = std::max_element(base, base + n_vocab);
        float second = -INFINITY;
        for (const float* v = base; v < base + n_vocab; ++v)
            if (v != best) second = std::max(second, *v);
        const bool equal = best - base == std::max_element(other, other + n_vocab) - other;
        ++n;
        top1 += equal;
        clear += *best - second > 0.05f;
        clear_equal += *best - second > 0.05f && equal;
        kl += one;
        worst_kl = std::max(worst_kl, one);
    }
};

int run(int argc, char** argv) {
    int32_t n_rows = 1 << 20, ctx = 256;
    bool split = false;
    for (int i = 4; i < argc; ++i) {
        if (std::strcmp(argv[i], "--rows") == 0 && i + 1 < argc)
            n_rows = std::atoi(argv[++i]);
        else if (std::strcmp(argv[i], "--ctx") == 0 && i + 1 < argc)
            ctx = std::atoi(argv[++i]);
        else if (std::strcmp(argv[i], "--split") == 0)
            split = true;
        else
            engine::fail(engine::Code::invalid_argument, argv[i], " is no option");
    }
    if (ctx < 2) engine::fail(engine::Code::invalid_argument, "--ctx is below 2");
    const engine::ModelFolder folder = engine::ModelFolder::open(argv[1]);
    const auto format = std::strcmp(argv[2], "exl2") == 0 ? exl2::make_format() : gptq::make_format();
    std::vector<int32_t> ids;
    std::ifstream in(argv[3]);
    for (int32_t id; in >> id;) ids.push_back(id);
    if (ids.size() < size_t(ctx))
        engine::fail(engine::Code::invalid_argument, argv[3], ": fewer ids than one row of ", ctx);

    Computer cpu(folder, *format, make("cpu"), ctx);
    std::unique_ptr<kernels::Device> device;
    if (split) {
        std::vector<std::unique_ptr<kernels::Device>> stages;
        stages.push_back(make("cuda"));
        stages.push_back(make("cuda"));
        check(kernels::make_split_device(std::move(stages), &device));
    } else {
        device = make("cuda");
    }
    Computer gpu(folder, *format, std::move(device), ctx);
    bool same = true;
    for (bool as_prompt : {true, false}) {
        Distance distance;
        for (size_t row = 0; row < std::min(size_t(n_rows), ids.size() / size_t(ctx)); ++row) {
            const std::vector<int32_t> part(ids.begin() + ptrdiff_t(row * size_t(ctx)),
                                            ids.begin() + ptrdiff_t((row + 1) * size_t(ctx)));
            const auto a = cpu.logits(part, as_prompt), b = gpu.logits(part, as_prompt);
            for (size_t i = 0; i < part.size(); ++i)
                distance.add(a.data() + i * size_t(cpu.n_vocab()), b.data() + i * size_t(cpu.n_vocab()), cpu.n_vocab());
        }
        std::printf(
            "{\"model\": \"%s\", \"device\": \"%s\", \"as\": \"%s\", \"predictions\": %lld, \"kl\": %.3e, "
            "\"worst_kl\": %.3e, \"top1\": %.6f, "
            "\"clear\": %lld, \"clear_equal\": %lld}\n",
            folder.name().c_str(), gpu.name().c_str(), as_prompt ? "prompt" : "decode", (long long)distance.n,
            distance.kl / double(distance.n), distance.worst_kl, double(distance.top1) / double(distance.n),
            (long long)distance.clear, (long long)distance.clear_equal);
        same = same && distance.clear == distance.clear_equal;
    }
    return same ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 4) {
        std::fprintf(stderr, "usage: qp_compare_devices FOLDER exl2|gptq IDS [--rows N] [--ctx N] [--split]\n");
        return 2;
    }
    try {
        return run(argc, argv);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 1;
    }
}
