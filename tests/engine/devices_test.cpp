// The devices of a model: what the options name, how layers are divided, what is planned, allocated and refused.
#include "engine/model/devices.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "checkpoint_files.h"
#include "engine/model/divide.h"
#include "engine/model/model.h"
#include "engine/tools/bench_model.h"
#include "fake_cuda.h"
#include "tiny_folders.h"

namespace quantplug::test {

using engine::Code;
using engine::Model;

namespace {

constexpr uint64_t plenty = uint64_t(1) << 40;
using Names = std::vector<std::string>;
using Lines = std::vector<std::string>;

engine::LoadOptions options_on(FakeCards& cards, const std::string& device, int32_t gpu_layers = -1) {
    engine::LoadOptions options;
    options.threads = 1;
    options.ctx = 64;
    options.device = device;
    options.gpu_layers = gpu_layers;
    options.makers = cards.makers();
    return options;
}

/// smollm2-135m, 30 layers, planned and never allocated.
struct Planned {
    engine::ChosenDevices chosen;
    std::vector<int32_t> device_of;  // of each layer
};
Planned choose(const engine::LoadOptions& options, Lines* lines = nullptr, int32_t ctx = 256) {
    engine::Decoder decoder = engine::synthetic_decoder("smollm2-135m", 4, 128);
    decoder.spec.max_positions = ctx;
    Planned out;
    out.chosen = engine::choose_devices(
        decoder, options,
        [&](engine::Devices& devices, const engine::Log&) {
            engine::StepNeeds needs;
            needs.positions = ctx;
            needs.kv.n_blocks = ctx / 64;
            needs.max_wanted = 16;
            needs.compute = options.compute;
            engine::MemoryPlan plan = engine::plan_parts(devices, decoder, needs);
            plan.ctx = ctx;
            return plan;
        },
        [&](const std::string& line) {
            if (lines) lines->push_back(line);
        });
    for (const kernels::LayerSpec& layer : decoder.spec.layers) out.device_of.push_back(layer.device);
    return out;
}
int32_t layers_on(const Planned& planned, int32_t part) {
    return int32_t(std::count(planned.device_of.begin(), planned.device_of.end(), part));
}

std::unique_ptr<Model> load(const TinyFolder& tiny, const engine::LoadOptions& options, Lines* lines = nullptr) {
    return Model::load(tiny.open(), PlainFormat(), options, {}, [&](const std::string& line) {
        if (lines) lines->push_back(line);
    });
}

std::vector<float> logits(Model& model, const std::vector<int32_t>& ids) {
    engine::Sequence sequence(model, int32_t(ids.size()) + 1);
    const kernels::Wanted last{int32_t(ids.size()) - 1, kernels::Wanted::logits, 0};
    std::vector<float> out = model.step(sequence, ids, {&last, 1}, true, {}).values;
    const kernels::Wanted one{0, kernels::Wanted::logits, 0};
    const std::vector<float> next = model.step(sequence, std::vector<int32_t>{7}, {&one, 1}, false, {}).values;
    out.insert(out.end(), next.begin(), next.end());
    return out;
}

}  // namespace

TEST_CASE("divide: the fullest device is as little full as it can be, and each has a layer") {
    const auto divided = [](std::vector<engine::DeviceLoad> loads, size_t n, double expected) {
        std::vector<int32_t> out(n, -1);
        for (engine::DeviceLoad& load : loads)
            if (load.layers.empty()) load.layers.assign(n, 10);
        CHECK(engine::divide_layers(loads, 0, n, out) == doctest::Approx(expected));
        return out;
    };
    using Parts = std::vector<int32_t>;
    CHECK(divided({{{}, 0, 100}}, 3, 0.3) == Parts{0, 0, 0});
    CHECK(divided({{{}, 0, 100}, {{}, 0, 100}}, 4, 0.2) == Parts{0, 0, 1, 1});
    CHECK(divided({{{}, 0, 300}, {{}, 0, 100}}, 4, 0.1) == Parts{0, 0, 0, 1});
    CHECK(divided({{{}, 60, 100}, {{}, 0, 100}}, 6, 0.7).back() == 1);  // what is fixed counts
    CHECK(divided({{{}, 0, 100}, {{}, 0, 0}}, 3, 10) == Parts{0, 0, 1});
    CHECK(divided({{{50, 1, 1, 1}, 0, 100}, {{50, 1, 1, 1}, 0, 100}, {{50, 1, 1, 1}, 0, 100}}, 4, 0.5).front() == 0);
}

TEST_CASE("devices: what the option names, and whose layers gpu_layers moves") {
    FakeCards cards{{plenty, plenty}, {}, {}, true};
    const struct {
        const char* device;
        int32_t gpu_layers;
        Names names;
        int32_t first;  // layers of the first part; 0: by memory
    } table[] = {
        {"cpu", -1, {"cpu"}, 30},
        {"cpu", 0, {"cpu"}, 30},
        {"cuda", -1, {"cuda:0"}, 30},
        {"cuda:1", -1, {"cuda:1"}, 30},
        {"cuda:01", -1, {"cuda:1"}, 30},
        {"cuda", 0, {"cpu"}, 30},
        {"cuda", 1, {"cpu", "cuda:0"}, 29},
        {"cuda:1", 29, {"cpu", "cuda:1"}, 1},
        {"cuda", 30, {"cuda:0"}, 30},
        {"cuda", 1000, {"cuda:0"}, 30},
        {"cpu,cuda", -1, {"cpu", "cuda:0"}, 1},
        {"cpu,cuda", 7, {"cpu", "cuda:0"}, 23},
        {"cpu,cuda", 40, {"cuda:0"}, 30},
        {"cuda:0,cuda:1", -1, {"cuda:0", "cuda:1"}, 0},
        {"cuda:0,cuda:0", -1, {"cuda:0", "cuda:0"}, 0},
        {"cuda:0,cuda:1", 10, {"cpu", "cuda:0", "cuda:1"}, 20},
        {"cpu,cpu", -1, {"cpu", "cpu"}, 0},
        {"auto", -1, {"cuda:0"}, 30},
        {"auto", 0, {"cpu"}, 30},
        {"auto", 5, {"cpu", "cuda:0"}, 25},
    };
    for (const auto& row : table) {
        CAPTURE(row.device);
        CAPTURE(row.gpu_layers);
        Lines lines;
        const Planned planned = choose(options_on(cards, row.device, row.gpu_layers), &lines);
        CHECK(planned.chosen.devices.names == row.names);
        if (row.first > 0) {
            CHECK(layers_on(planned, 0) == row.first);
        } else {  // like devices: like shares, but for a layer
            const double a = double(planned.chosen.plan.parts[0].total());
            const double b = double(planned.chosen.plan.parts[1].total());
            CHECK(std::abs(a - b) < (a + b) / 30);
        }
        CHECK(std::is_sorted(planned.device_of.begin(), planned.device_of.end()));
        CHECK(planned.chosen.plan.fits());
        CHECK(lines.empty());
        int32_t n = 0;
        for (size_t i = 0; i < row.names.size(); ++i) {
            CHECK(planned.chosen.plan.parts[i].device == row.names[i]);
            CHECK(planned.chosen.plan.parts[i].n_layers == layers_on(planned, int32_t(i)));
            n += planned.chosen.plan.parts[i].n_layers;
        }
        CHECK(n == 30);
    }
    const auto refused = [&](const char* device, int32_t gpu_layers, Code code, const char* a, const char* b) {
        CAPTURE(device);
        CHECK_REFUSED(choose(options_on(cards, device, gpu_layers)), code, a, b);
    };
    refused("tpu", -1, Code::invalid_argument, "tpu", "cuda[:N]");
    refused("", -1, Code::invalid_argument, "device", "cuda[:N]");
    refused("cuda:", -1, Code::invalid_argument, "cuda:", "cuda[:N]");
    refused("cuda:0,", -1, Code::invalid_argument, "cuda:0,", "cuda[:N]");
    refused("auto,cuda", -1, Code::invalid_argument, "auto", "cuda[:N]");
    refused("cuda,cpu", -1, Code::invalid_argument, "cuda,cpu", "first");
    refused("cpu,cpu,cuda", -1, Code::invalid_argument, "cpu", "first");
    refused("cpu", 3, Code::invalid_argument, "gpu_layers", "3");
    refused("cuda:0,cuda:1", 1, Code::invalid_argument, "gpu_layers", "2 CUDA devices");
    refused("cuda:7", -1, Code::unavailable, "cuda:7", "no card 7");
    engine::LoadOptions exact = options_on(cards, "cuda:1");
    exact.compute = kernels::Compute::exact;
    CHECK_REFUSED(choose(exact), Code::unimplemented, "exact", "cuda:1");
    exact.device = "auto";
    CHECK(choose(exact).chosen.devices.names == Names{"cpu"});
}

TEST_CASE("devices: auto takes the card where the model fits, and says once why not") {
    FakeCards cards{{plenty}, {}, {}, true};
    const uint64_t need = choose(options_on(cards, "cuda")).chosen.plan.parts[0].total();
    const auto with_free = [&](std::vector<uint64_t> free, Lines& lines) {
        cards.free = std::move(free);
        lines.clear();
        return choose(options_on(cards, "auto"), &lines);
    };
    Lines lines;
    CHECK(with_free({need}, lines).chosen.devices.names == Names{"cuda:0"});
    CHECK(lines.empty());
    CHECK(with_free({need - 1, plenty}, lines).chosen.devices.names == Names{"cuda:0", "cuda:1"});
    CHECK(lines.empty());

    CHECK(with_free({need * 2 / 3}, lines).chosen.devices.names == Names{"cpu"});
    REQUIRE(lines.size() == 1);
    CAPTURE(lines[0]);
    CHECK(lines[0].find("cuda:0") != std::string::npos);
    CHECK(lines[0].find("computing on the CPU") != std::string::npos);
    const size_t at = lines[0].find("gpu_layers=");
    REQUIRE(at != std::string::npos);
    const int32_t fits = std::stoi(lines[0].substr(at + 11));
    CHECK(fits > 0);
    CHECK(choose(options_on(cards, "cuda", fits)).chosen.plan.fits());
    CHECK_FALSE(choose(options_on(cards, "cuda", fits + 1)).chosen.plan.fits());
    CHECK(layers_on(choose(options_on(cards, "cpu,cuda")), 1) == fits);
    CHECK_FALSE(choose(options_on(cards, "cuda")).chosen.plan.fits());

    for (const uint64_t none : {1, 0}) {
        with_free({none}, lines);
        CHECK(lines.size() == 1);
    }
    REQUIRE(lines.size() == 1);
    CHECK(lines[0].find("not one of its layers") != std::string::npos);

    // A card that cannot be used; no card at all.
    cards.refusal = kernels::Status::error(kernels::unavailable, "the driver is too old");
    CHECK(with_free({plenty}, lines).chosen.devices.names == Names{"cpu"});
    REQUIRE(lines.size() == 1);
    CHECK(lines[0].find("the driver is too old") != std::string::npos);
    cards.there = false;
    CHECK(with_free({}, lines).chosen.devices.names == Names{"cpu"});
    CHECK(lines.empty());
    choose(options_on(cards, "auto", 3), &lines);
    REQUIRE(lines.size() == 1);
    CHECK(lines[0].find("gpu_layers") != std::string::npos);
    CHECK_REFUSED(choose(options_on(cards, "cuda")), Code::unavailable, "cuda:0", "the driver is too old");
}

TEST_CASE("devices: two parts of one card share its memory") {
    FakeCards cards{{plenty}, {}, {}, true};
    const auto total = [](const engine::MemoryPlan& plan) { return plan.parts[0].total() + plan.parts[1].total(); };
    const uint64_t need = total(choose(options_on(cards, "cuda:0,cuda:0")).chosen.plan);
    cards.free = {need};
    CHECK(choose(options_on(cards, "cuda:0,cuda:0")).chosen.plan.fits());
    cards.free = {need - 1};
    const engine::MemoryPlan plan = choose(options_on(cards, "cuda:0,cuda:0")).chosen.plan;
    CHECK_FALSE(plan.fits());
    CHECK(plan.pools().size() == 2);  // the host's, the card's
    CHECK(plan.pools()[1].total() == total(plan));
}

TEST_CASE("devices: a loaded model holds what was planned, part by part, and computes the same bits") {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 40; ++i) ids.push_back((i * 37 + 5) % 96);
    for (const char* name : {"llama", "qwen3", "mixtral"}) {
        if (!std::filesystem::exists(data_dir() / "tiny" / name)) continue;
        const TinyFolder tiny(name);
        FakeCards cards{{plenty, plenty}, {}, {}, true};
        const std::vector<float> expected = logits(*load(tiny, options_on(cards, "cpu")), ids);
        for (const char* device : {"cuda", "cpu,cuda", "cuda:0,cuda:1", "cuda:0,cuda:0", "cpu,cpu"}) {
            CAPTURE(name);
            CAPTURE(device);
            const engine::LoadOptions options = options_on(cards, device);
            const engine::MemoryPlan plan = Model::plan(tiny.open(), PlainFormat(), options, {});
            cards.reserved.clear();
            const auto model = load(tiny, options);
            REQUIRE(size_t(model->n_parts()) == plan.parts.size());
            engine::MemoryPlan sum;
            std::vector<uint64_t> reserved;
            for (size_t i = 0; i < plan.parts.size(); ++i) {
                const kernels::MemoryUse use = model->memory(int32_t(i));
                CHECK(use.weights == plan.parts[i].weights);
                CHECK(use.kv == plan.parts[i].kv_cache);
                CHECK(use.scratch == plan.parts[i].scratch);
                sum.weights += use.weights;
                sum.kv_cache += use.kv;
                sum.scratch += use.scratch;
                if (plan.parts[i].device != "cpu") reserved.push_back(use.weights);
            }
            CHECK(sum.weights == plan.weights);
            CHECK(sum.kv_cache == plan.kv_cache);
            CHECK(sum.scratch == plan.scratch);
            CHECK(cards.reserved == reserved);
            const bool gpus_alone = std::string(device).find("cpu") == std::string::npos;
            CHECK(model->max_step_rows() == (gpus_alone ? FakeCards::max_rows : 128));
            CHECK(model->prefill_rows() == (gpus_alone ? FakeCards::max_rows : 16));
            CHECK(model->device().starts_with(std::string(device).substr(0, 3)));
            const std::vector<float> got = logits(*model, ids);
            REQUIRE(got.size() == expected.size());
            CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0);
        }
    }
}

TEST_CASE("devices: CUDA itself holds what was planned, and agrees with the CPU") {
    if (kernels::cuda_devices().empty()) return;
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 40; ++i) ids.push_back((i * 37 + 5) % 96);
    for (const char* name : {"llama", "qwen3"}) {
        const TinyFolder tiny(name);
        engine::LoadOptions options;
        options.threads = 1;
        options.ctx = 64;
        options.device = "cpu";
        const std::vector<float> expected = logits(*load(tiny, options), ids);
        for (const char* device : {"cuda", "cpu,cuda", "cuda:0,cuda:0"}) {
            CAPTURE(name);
            CAPTURE(device);
            options.device = device;
            const engine::MemoryPlan plan = Model::plan(tiny.open(), PlainFormat(), options, {});
            const auto model = load(tiny, options);
            REQUIRE(size_t(model->n_parts()) == plan.parts.size());
            for (size_t i = 0; i < plan.parts.size(); ++i) {
                const kernels::MemoryUse use = model->memory(int32_t(i));
                CHECK(use.weights == plan.parts[i].weights);
                CHECK(use.kv == plan.parts[i].kv_cache);
                CHECK(use.scratch == plan.parts[i].scratch);
            }
            const std::vector<float> got = logits(*model, ids);
            REQUIRE(got.size() == expected.size());
            double error = 0, norm = 0;
            for (size_t i = 0; i < got.size(); ++i) {
                error += (double(got[i]) - expected[i]) * (double(got[i]) - expected[i]);
                norm += double(expected[i]) * expected[i];
            }
            CHECK(std::sqrt(error / norm) < 5e-3);  // FP16 activations beside 16-bit integers
        }
    }
}

TEST_CASE("devices: too little memory on a card is refused before anything is read, with what would fit") {
    const TinyFolder tiny("llama");
    FakeCards cards{{plenty}, {}, {}, true};
    engine::LoadOptions options = options_on(cards, "cuda");
    options.ctx = 4096;
    const engine::PartPlan part = Model::plan(tiny.open(), PlainFormat(), options, {}).parts[0];
    cards.free = {part.total() - 1};
    CHECK_REFUSED(load(tiny, options), Code::resource_exhausted, "cuda:0", "MiB", "4096", "--ctx ");
    CHECK(cards.reserved.empty());
    std::string message;
    try {
        load(tiny, options);
    } catch (const engine::Error& error) {
        message = error.what();
    }
    const size_t at = message.find("--ctx ");
    REQUIRE(at != std::string::npos);
    options.ctx = std::stoi(message.substr(at + 6));
    CHECK(options.ctx >= 4096 - 128);
    CHECK(load(tiny, options)->ctx() == options.ctx);
    // The model's own context comes down to what fits, a card without room for the weights is refused.
    TinyFolder longer("llama");
    longer.with({{"max_position_embeddings", 65536}});
    options.ctx = 0;
    Lines lines;
    const auto model = load(longer, options, &lines);
    CHECK(model->ctx() < 4096);
    CHECK(model->ctx() >= 512);
    REQUIRE(lines.size() == 1);
    CHECK(lines[0].find("65536") != std::string::npos);
    CHECK(lines[0].find("cuda:0") != std::string::npos);
    cards.free = {part.weights};
    CHECK_REFUSED(load(tiny, options), Code::resource_exhausted, "cuda:0", "gpu_layers");
}

TEST_CASE("devices: a deterministic load keeps prefixes of different paths apart") {
    FakeCards cards{{plenty}, {}, {}, true};
    engine::LoadOptions options = options_on(cards, "cuda");
    const TinyFolder tiny("llama");
    const auto free = load(tiny, options);
    CHECK(free->rope_key(3, 9) == free->rope_key(8, 9));
    options.deterministic = true;
    const auto model = load(tiny, options);
    CHECK(cards.deterministic);
    CHECK(model->rope_key(3, 9) != model->rope_key(8, 9));
    CHECK(model->rope_key(3, 9) == model->rope_key(4, 20));
    options.device = "cpu";
    const auto cpu = load(tiny, options);
    CHECK(cpu->rope_key(3, 9) == cpu->rope_key(8, 9));
}

}  // namespace quantplug::test
