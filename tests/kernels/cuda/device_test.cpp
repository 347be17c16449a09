// The CUDA device, on a GPU or in the shim: every switch of a model against the reference, and the same bits whatever
// the batch, the cut of a prompt, graphs or single launches.
#include "kernels/cuda/device.h"

#include "device_array.h"
#include "tests/kernels/switches.h"
#if defined(QP_CUDA_SHIM)
#include "kernels/cuda/shim/launch.h"
#endif

using namespace quantplug::test;

namespace {

constexpr KvSpec blocks_of_32{KvSpec::f16, 32, 24};

std::unique_ptr<Device> cuda_device() {
    std::unique_ptr<Device> device;
    require_ok(make_cuda_device(0, &device));
    return device;
}

cuda::CudaDevice& as_cuda(Loaded& loaded) { return static_cast<cuda::CudaDevice&>(*loaded.device); }

std::vector<int32_t> table_of(Random& random, int32_t sequences, int32_t max_blocks) {
    std::vector<int32_t> blocks(size_t(blocks_of_32.n_blocks));
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), random);
    blocks.resize(size_t(sequences * max_blocks));
    return blocks;
}

/// The model as a CUDA device takes it.
TinyOptions standard(TinyOptions options) {
    options.compute = Compute::standard;
    options.max_positions = 192;
    return options;
}

/// One prompt of n tokens.
std::vector<Row> prompt(Random& random, int32_t n, int32_t n_vocab, int32_t sequence = 0) {
    std::vector<Row> rows;
    for (int32_t p = 0; p < n; ++p) rows.push_back({sequence, below(random, n_vocab - 1), p, n});
    return rows;
}

/// How far the logits are off. A router's choice may flip where two experts are within FP16 rounding of each other: of
/// a model with experts the worst sixth of the rows is left out.
double error_of(const std::vector<float>& got, const std::vector<float>& expected, const TinyOptions& options) {
    if (options.n_experts == 0 || options.top_k == options.n_experts) return distance(got, expected);
    const size_t n = size_t(options.n_vocab), n_rows = expected.size() / n;
    std::vector<std::pair<double, size_t>> rows;
    const auto row = [n](const std::vector<float>& all, size_t r) {
        return std::vector<float>(all.begin() + ptrdiff_t(r * n), all.begin() + ptrdiff_t((r + 1) * n));
    };
    for (size_t r = 0; r < n_rows; ++r) rows.emplace_back(distance(row(got, r), row(expected, r)), r);
    std::sort(rows.begin(), rows.end());
    std::vector<float> near, reference;
    for (size_t i = 0; i < n_rows - n_rows / 6; ++i) {
        const auto a = row(got, rows[i].second), b = row(expected, rows[i].second);
        near.insert(near.end(), a.begin(), a.end());
        reference.insert(reference.end(), b.begin(), b.end());
    }
    return distance(near, reference);
}

bool equal_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("a CUDA step agrees with the reference, with every switch") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    for (const Switch& s : whole_table()) {
        const TinyOptions options = standard(s.options);
        if (options.head_dim > 256) continue;
        INFO("seed " << seed << ", " << std::string(s.name));
        Random random(seed);
        const TinyModel model(options, seed);
        const auto rows = two_sequences(random, 20, options.n_vocab);
        const auto table = table_of(random, 2, 6);
        Loaded reference(make_reference_device(), model, 64, 64, {KvSpec::f32, 32, 24});
        const auto expected = run_all(reference, rows, table, 6, {40});
        Loaded gpu(cuda_device(), model, 64, 64, blocks_of_32);
        gpu.poison(64, table, 6);
        const double error = error_of(run_all(gpu, rows, table, 6, {40}), expected, options);
        INFO("relative error " << error);
        // FP16 activations, keys and values (2^-11 each), amplified by two layers of random weights.
        CHECK(error < 8e-3);
    }
}

TEST_CASE("prompts are computed as the reference does, and alike however they are cut") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    std::vector<Switch> some;
    for (const Switch& s : whole_table()) {
        for (const char* name :
             {"plain", "window, QK norm, act order", "2 of 5 experts, renormalised, act order", "ALiBi",
              "parallel, two norms, residual scale", "QK norm after rope", "dense, one KV head"}) {
            if (std::string(s.name) == name) some.push_back(s);
        }
    }
    REQUIRE(some.size() == 7);
    int32_t type = 0;
    for (const Switch& s : some) {
        TinyOptions options = standard(s.options);
        KvSpec kv = blocks_of_32;
        kv.type = KvSpec::Type(1 + type++ % 3);
        if (kv.type == KvSpec::q4) options.head_dim = 32;
        INFO(std::string(s.name) << ", cache " << int(kv.type));
        Random random(seed);
        const TinyModel model(options, seed);
        const auto rows = prompt(random, 150, options.n_vocab);
        const auto table = table_of(random, 1, 6), other_table = table_of(random, 1, 6);
        KvSpec plain = kv;
        if (kv.type == KvSpec::f16) plain.type = KvSpec::f32;
        Loaded reference(make_reference_device(), model, 150, 150, plain);
        const auto expected = run_all(reference, rows, table, 6, {150});
        auto device = cuda_device();
        device->set_deterministic(true);
        Loaded gpu(std::move(device), model, 150, 150, kv);
        gpu.poison(64, table, 6);
        const auto whole = run_all(gpu, rows, table, 6, {150});
        const double error = error_of(whole, expected, options);
        INFO("relative error " << error);
        CHECK(error < (kv.type == KvSpec::f16 ? 8e-3 : kv.type == KvSpec::q8 ? 2e-2 : 2e-1));
        const auto cut = run_all(gpu, rows, other_table, 6, {1, 3, 67, 68, 131, 150});
        CHECK(equal_bits(cut, whole));
    }
}

TEST_CASE("decode: the same bits alone and in a batch, as graphs and as single launches") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    TinyOptions options = standard({});
    options.n_experts = 5;
    options.qk_norm = QkNorm::shared;
    const TinyModel model(options, seed);
    constexpr int32_t n_sequences = 11, length = 5;
    const auto table = table_of(random, n_sequences, 2);
    const auto run = [&](int32_t batch, bool graphs) {
        Loaded gpu(cuda_device(), model, 16, 16, blocks_of_32);
        as_cuda(gpu).use_graphs(graphs);
        gpu.poison(16, {0}, 1);
        Random tokens(seed + 1);
        std::vector<std::vector<int32_t>> ids(n_sequences);
        for (auto& sequence : ids) {
            for (int32_t p = 0; p < length; ++p) sequence.push_back(below(tokens, options.n_vocab - 1));
        }
        std::vector<float> all(size_t(n_sequences * length) * size_t(options.n_vocab));
        for (int32_t p = 0; p < length; ++p) {
            for (int32_t first = 0; first < n_sequences; first += batch) {
                std::vector<Row> rows;
                std::vector<Wanted> wanted;
                for (int32_t s = first; s < std::min(first + batch, n_sequences); ++s) {
                    wanted.push_back({int32_t(rows.size()), Wanted::logits, 0});
                    rows.push_back({s, ids[size_t(s)][size_t(p)], p, p + 1});
                }
                StepResult result;
                require_ok(gpu.run(rows, table, 2, wanted, &result));
                for (size_t i = 0; i < rows.size(); ++i) {
                    std::copy_n(result.values.begin() + ptrdiff_t(i * size_t(options.n_vocab)), options.n_vocab,
                                all.begin() + ptrdiff_t((size_t(rows[i].sequence) * length + size_t(p)) *
                                                        size_t(options.n_vocab)));
                }
            }
        }
        CHECK((as_cuda(gpu).n_graphs() > 0) == graphs);
        return all;
    };
    const auto alone = run(1, true);
    CHECK(equal_bits(run(1, false), alone));
    CHECK(equal_bits(run(3, true), alone));
    CHECK(equal_bits(run(n_sequences, true), alone));
    CHECK(equal_bits(run(n_sequences, false), alone));
}

TEST_CASE("folded norms: the reference's logits whatever the stream's magnitude, two launches a layer less") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    TinyOptions options = standard({});
    options.n_layers = 3;
    options.perm = options.bias = true;  // other orders of gate and up in layers above the first
    for (const bool plain_mlp : {false, true}) {
        options.plain_mlp = plain_mlp;  // one order in every layer
        for (const float scale : {1.0f, 1e5f, 1e-4f, 0.0f}) {
            INFO("plain MLP " << plain_mlp << ", embedding times " << scale);
            options.embedding_scale = scale;
            const TinyModel model(options, seed);
            Random random(seed);
            const auto rows = two_sequences(random, 12, options.n_vocab);
            const auto table = table_of(random, 2, 2);
            Loaded reference(make_reference_device(), model, 64, 64, {KvSpec::f32, 32, 24});
            const auto expected = run_all(reference, rows, table, 2, {24});
            for (const bool folded : {true, false}) {
                Loaded gpu(cuda_device(), model, 64, 64, blocks_of_32);
                as_cuda(gpu).use_folded_norms(folded);
                gpu.poison(64, table, 2);
                const double error = distance(run_all(gpu, rows, table, 2, {1, 24}), expected);
                INFO("folded " << folded << ", relative error " << error);
                CHECK(error < 8e-3);
                uint32_t saturated = 0;
                require_ok(as_cuda(gpu).saturated(&saturated));
                CHECK(saturated == 0);
            }
        }
#if defined(QP_CUDA_SHIM)
        Loaded gpu(cuda_device(), {options, seed}, 64, 64, blocks_of_32);
        const auto launches = [&](bool folded) {
            as_cuda(gpu).use_folded_norms(folded);
            const uint64_t before = cuda::shim_launches();
            StepResult result;
            require_ok(gpu.run({{0, 1, 0}}, {0}, 1, {{0, Wanted::argmax, 0}}, &result));
            return int64_t(cuda::shim_launches() - before);
        };
        const int64_t apart = launches(false), within = launches(true);
        MESSAGE("launches of a decode step of 3 layers: " << apart << ", folded " << within);
        // All but the first layer's first norm; where gate and up have orders of their own, their norm is computed.
        CHECK(apart - within == (plain_mlp ? 5 : 3));
        CHECK(launches(false) == apart);
#endif
    }
}

TEST_CASE("a row of decode has the same bits alone and beside the prompt of another sequence") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    for (const bool experts : {false, true}) {
        TinyOptions options = standard({});
        options.n_layers = 3;
        options.perm = true;
        if (experts) options.n_experts = 4;
        INFO("experts " << experts);
        Random random(seed);
        const TinyModel model(options, seed);
        const auto first = prompt(random, 6, options.n_vocab), second = prompt(random, 150, options.n_vocab, 1);
        const auto table = table_of(random, 2, 6);
        const auto run = [&](bool beside) {
            Loaded gpu(cuda_device(), model, 150, 150, blocks_of_32);
            gpu.poison(16, table, 6);
            std::vector<float> logits;
            size_t taken = 0;
            for (Row row : first) {
                row.length = 0;
                std::vector<Row> rows{row};
                for (size_t i = 0; beside && i < 25; ++i) rows.insert(rows.begin(), second[taken++]);
                StepResult result;
                std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
                    return a.sequence != b.sequence ? a.sequence > b.sequence : a.position < b.position;
                });
                require_ok(gpu.run(rows, table, 6, {{int32_t(rows.size()) - 1, Wanted::logits, 0}}, &result));
                logits.insert(logits.end(), result.values.begin(), result.values.end());
            }
            return logits;
        };
        const auto alone = run(false);
        CHECK(equal_bits(run(true), alone));
    }
}

TEST_CASE("a short prompt is computed as decode is, and so is the last token of a long one") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    const TinyOptions options = standard({});
    const TinyModel model(options, seed);
    const auto rows = prompt(random, 40, options.n_vocab);
    const auto table = table_of(random, 1, 6);
    Loaded gpu(cuda_device(), model, 64, 64, blocks_of_32);
    const auto together = run_all(gpu, rows, table, 6, {40});
    auto single = rows;
    for (Row& row : single) row.length = 0;
    std::vector<size_t> cuts(40);
    std::iota(cuts.begin(), cuts.end(), size_t(1));
    CHECK(equal_bits(run_all(gpu, single, table, 6, cuts), together));
    CHECK(gpu.device->path(3, 40) == gpu.device->path(3, 0));
    CHECK(gpu.device->path(99, 100) == 0);
    CHECK(gpu.device->path(98, 100) == 1);
}

TEST_CASE("what a step is asked for: logits, argmax, log-probability, candidates") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    TinyOptions options = standard({});
    options.n_vocab = 3001;
    const TinyModel model(options, seed);
    Loaded gpu(cuda_device(), model, 16, 16, blocks_of_32);
    const auto table = table_of(random, 4, 1);
    std::vector<Row> rows;
    for (int32_t s = 0; s < 4; ++s) rows.push_back({s, below(random, 3000), 0, 1});
    StepResult plain;
    require_ok(gpu.run(rows, table, 1, {{2, Wanted::logits, 0}}, &plain));
    const std::vector<float> z = plain.values;
    double sum = 0;
    for (float v : z) sum += std::exp(double(v));
    const auto best = int32_t(std::max_element(z.begin(), z.end()) - z.begin());
    const std::vector<Adjust> adjusts = {
        {best, 1, -std::numeric_limits<float>::infinity()}, {7, 1.3f, 50}, {3000, 1, 90}};
    const std::vector<Wanted> wanted = {{2, Wanted::argmax, 0},
                                        {2, Wanted::logprob_of, 17},
                                        {2, Wanted::candidates, 0, 5, 0, 3},
                                        {2, Wanted::logits, 0},
                                        {2, Wanted::candidates, 0, 256, 0, 0}};
    Step step{rows, gpu.kv, table, 1, wanted, false};
    step.adjusts = adjusts;
    step.n_sampled = 3000;
    StepResult result;
    for (int32_t repeat = 0; repeat < 2; ++repeat) {
        require_ok(gpu.device->wait(
            gpu.device->submit(gpu.spec, step, [&](Ops& ops) { return walk_all(gpu.spec, ops); }), &result));
    }
    CHECK(result.tokens == std::vector<int32_t>{best});
    REQUIRE(result.values.size() == 1 + 1 + 2 + 3001 + 2);
    CHECK(double(result.values[0]) == doctest::Approx(double(z[size_t(best)]) - std::log(sum)).epsilon(1e-5));
    CHECK(double(result.values[1]) == doctest::Approx(double(z[17]) - std::log(sum)).epsilon(1e-5));
    CHECK(double(result.values[2]) == doctest::Approx(std::log(sum)).epsilon(1e-5));
    CHECK(equal_bits({result.values.begin() + 4, result.values.begin() + 4 + 3001}, z));
    REQUIRE(result.candidates.size() == 5 + 256);
    CHECK(result.candidates[0].token == 7);  // 3000 is above n_sampled, the best is banned
    CHECK(result.candidates[0].logit == z[7]);
    for (size_t i = 0; i < 5; ++i) CHECK(result.candidates[i].token != best);
    std::vector<int32_t> order(3000);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return z[size_t(a)] > z[size_t(b)]; });
    for (size_t i = 0; i < 256; ++i) CHECK(result.candidates[5 + i].token == order[i]);
}

TEST_CASE("two steps under way: the second takes the token that the first chose") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    const TinyOptions options = standard({});
    const TinyModel model(options, seed);
    const auto table = table_of(random, 3, 2);
    const std::vector<Wanted> wanted = {{0, Wanted::argmax, 0}, {1, Wanted::argmax, 0}, {2, Wanted::argmax, 0}};
    const int32_t first[] = {5, 50, 99};
    const auto generate = [&](bool ahead) {
        Loaded gpu(cuda_device(), model, 16, 16, blocks_of_32);
        const Walk walk = [&](Ops& ops) { return walk_all(gpu.spec, ops); };
        std::vector<int32_t> tokens(first, first + 3), all;
        Ticket before{};
        for (int32_t p = 0; p < 12; ++p) {
            std::vector<Row> rows;
            for (int32_t s = 0; s < 3; ++s)
                rows.push_back({s, p > 0 && ahead ? chosen_before(s) : tokens[size_t(s)], p, p + 1});
            const Ticket ticket = gpu.device->submit(gpu.spec, {rows, gpu.kv, table, 2, wanted, false}, walk);
            StepResult result;
            if (ahead && p > 0) require_ok(gpu.device->wait(before, &result));
            if (!ahead) require_ok(gpu.device->wait(ticket, &result));
            if (!result.tokens.empty()) tokens = result.tokens;
            all.insert(all.end(), result.tokens.begin(), result.tokens.end());
            before = ticket;
        }
        if (ahead) {
            StepResult result;
            require_ok(gpu.device->wait(before, &result));
            CHECK(gpu.device->finished(before));
            all.insert(all.end(), result.tokens.begin(), result.tokens.end());
        }
        return all;
    };
    const auto expected = generate(false);
    CHECK(expected.size() == 36);
    CHECK(generate(true) == expected);
}

TEST_CASE("memory: plans equal what is allocated, and all of it goes back") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    const auto device = cuda_device();
    for (const Shape& shape : shapes()) {
        const auto quant = random_quant(shape, random);
        const uint64_t before = device->memory().weights;
        Matrix matrix;
        require_ok(device->pack(quant->source, &matrix));
        CHECK(device->memory().weights - before == device->matrix_bytes(quant->source.shape()));
    }
    for (const Switch& s : switch_table()) {
        INFO(std::string(s.name));
        Loaded loaded(cuda_device(), {standard(s.options), seed}, 37, 5, blocks_of_32);
        CHECK(loaded.device->memory().kv == loaded.device->kv_bytes(loaded.spec, blocks_of_32));
        CHECK(loaded.device->memory().scratch == loaded.device->scratch_bytes(loaded.spec, 37, 5));
        loaded.device->free_kv(loaded.kv);
        CHECK(loaded.device->memory().kv == 0);
    }
}

TEST_CASE("what a CUDA device refuses") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    TinyOptions options = standard({});
    Loaded loaded(cuda_device(), {options, seed}, 8, 4, blocks_of_32);
    const auto refused = [](const Status& status, const char* part) {
        INFO(status.message);
        CHECK_FALSE(status.ok());
        CHECK(status.message.find(part) != std::string::npos);
    };
    Kv kv;
    refused(loaded.device->make_kv(loaded.spec, {KvSpec::f32, 32, 4}, &kv), "f32");
    refused(loaded.device->make_kv(loaded.spec, {KvSpec::f16, 8, 4}, &kv), "block_tokens is 8");
    ModelSpec spec = loaded.spec;
    spec.compute = Compute::exact;
    refused(cuda_device()->prepare(spec, 8, 4), "default");
    spec.compute = Compute::standard;
    spec.head_dim = 512;
    refused(cuda_device()->prepare(spec, 8, 4), "head_dim is 512");
    std::unique_ptr<Device> none;
    refused(make_cuda_device(99, &none), "cuda:99");
    refused(make_cuda_device(-1, &none), "cuda:-1");
    StepResult result;
    const std::vector<int32_t> table = {0};
    refused(loaded.run({{0, 101, 0}}, table, 1, {}, &result), "token 101");
    refused(loaded.run({{0, chosen_before(0), 0}}, table, 1, {}, &result), "before");
    require_ok(loaded.run({{0, 1, 0}}, table, 1, {{0, Wanted::argmax, 0}}, &result));

    // A cancelled walk, captured or not, leaves the device usable.
    for (bool graphs : {true, false}) {
        as_cuda(loaded).use_graphs(graphs);
        const std::vector<Row> rows = {{0, 1, 0}, {1, 2, 0}};
        const std::vector<int32_t> two = {0, 1};
        const Ticket ticket = loaded.device->submit(loaded.spec, {rows, loaded.kv, two, 1, {}, false}, [&](Ops& ops) {
            ops.norm_qkv(loaded.spec, loaded.spec.layers[0], ops.embed(loaded.spec));
            return false;
        });
        CHECK(loaded.device->wait(ticket, &result).code == cancelled);
    }
    require_ok(loaded.run({{0, 1, 0}}, table, 1, {{0, Wanted::argmax, 0}}, &result));
}
