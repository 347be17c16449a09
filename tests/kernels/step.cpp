// Whole steps of a tiny random model: the CPU against the reference, and the same bits however a step is cut.
#include "switches.h"

using namespace quantplug::test;

TEST_CASE("the CPU's step agrees with the reference, and every switch counts") {
    const uint64_t seed = fresh_seed();
    for (const Switch& s : whole_table()) {
        const TinyOptions& options = s.options;
        INFO("seed " << seed << ", " << std::string(s.name));
        Random random(seed);
        const TinyModel model(options, seed);
        const auto rows = two_sequences(random, 20, options.n_vocab);
        const auto table = scrambled_table(random, 2, 8);
        Loaded reference(make_reference_device(), model, 64, 64, small_blocks);
        const auto expected = run_all(reference, rows, table, 8, {40});
        REQUIRE(distance(std::vector<float>(expected.size()), expected) == doctest::Approx(1));  // finite, not zero
        if (s.changes_logits) {
            TinyOptions plain;
            plain.hidden = options.hidden;
            Loaded without(make_reference_device(), {plain, seed}, 64, 64, small_blocks);
            CHECK(distance(run_all(without, rows, table, 8, {40}), expected) > 0.01);
        }
        // exact: FP32 against doubles, a few hundred roundings of 6e-8. standard: 16-bit activations (2e-5) and weights
        // that are not rounded to FP16 as the reference's are (1.4e-4), amplified by two layers of random weights.
        // 8-bit activations would miss it.
        const double tolerance = options.compute == Compute::exact || options.dense ? 5e-6 : 4e-3;
        for (const char* name : instruction_sets()) {
            Loaded cpu(cpu_device(name, 2), model, 64, 64, small_blocks);
            cpu.poison(64, table, 8);
            const double error = distance(run_all(cpu, rows, table, 8, {40}), expected);
            INFO(std::string(name) << ": relative error " << error);
            CHECK(error < tolerance);
        }
    }
}

TEST_CASE("FP16 keys and values stay near the reference") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    const TinyModel model({}, seed);
    const auto rows = two_sequences(random, 20, model.options.n_vocab);
    const auto table = scrambled_table(random, 2, 8);
    Loaded reference(make_reference_device(), model, 64, 64, small_blocks);
    Loaded cpu(cpu_device(nullptr, 2), model, 64, 64, {KvSpec::f16, 8, 40});
    const auto expected = run_all(reference, rows, table, 8, {40}), got = run_all(cpu, rows, table, 8, {40});
    CHECK(distance(got, expected) < 5e-3);  // 2^-11 per stored value, amplified by two layers
    CHECK(distance(got, expected) > 1e-6);  // and the cache does hold FP16
}

TEST_CASE("the same bits with any instruction set, thread count, cut of the steps and row order") {
    const uint64_t seed = fresh_seed();
    int32_t index = 0;
    for (const Switch& s : whole_table()) {
        const TinyOptions& options = s.options;
        INFO("seed " << seed << ", " << std::string(s.name));
        Random random(seed);
        const TinyModel model(options, seed);
        const auto rows = two_sequences(random, 16, options.n_vocab);
        const auto table = scrambled_table(random, 2, 8), other_table = scrambled_table(random, 2, 8);
        const bool is_shape = size_t(index) < shape_table().size();
        const auto type = KvSpec::Type(index++ % 4);
        const KvSpec kv{type == KvSpec::q4 && options.head_dim % 32 ? KvSpec::q8 : type, 8, 40};
        Loaded first(cpu_device("portable", 1), model, 64, 64, kv);
        const auto expected = run_all(first, rows, table, 8, {32});
        for (const char* name : instruction_sets()) {
            // Switches do not meet the threads: one count is enough for them.
            for (int32_t threads : is_shape ? std::vector<int32_t>{1, 2, 7} : std::vector<int32_t>{2}) {
                INFO(std::string(name) << ", " << threads << " threads");
                Loaded cpu(cpu_device(name, threads), model, 64, 64, kv);
                cpu.poison(64, table, 8);
                const auto whole = run_all(cpu, rows, table, 8, {32});
                CHECK(std::memcmp(whole.data(), expected.data(), expected.size() * sizeof(float)) == 0);
                const auto cut = run_all(cpu, rows, other_table, 8, {2, 4, 5, 6, 16, 25, 32});
                CHECK(std::memcmp(cut.data(), expected.data(), expected.size() * sizeof(float)) == 0);
                // Rows of one step in another order.
                std::vector<size_t> order(rows.size());
                std::iota(order.begin(), order.end(), size_t(0));
                std::shuffle(order.begin(), order.end(), random);
                std::vector<Row> shuffled;
                for (size_t i : order) shuffled.push_back(rows[i]);
                const auto mixed = run_all(cpu, shuffled, table, 8, {32});
                bool same = true;
                const size_t n = size_t(options.n_vocab);
                for (size_t i = 0; i < order.size(); ++i) {
                    same &= std::memcmp(mixed.data() + i * n, expected.data() + order[i] * n, n * sizeof(float)) == 0;
                }
                CHECK(same);
            }
        }
    }
}

TEST_CASE("argmax, log-probabilities and logits of one step agree") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    TinyOptions options;
    options.n_vocab = 5003;
    const TinyModel model(options, seed);
    const auto rows = two_sequences(random, 20, options.n_vocab);
    const auto table = scrambled_table(random, 2, 8);
    for (const char* name : instruction_sets()) {
        Loaded cpu(cpu_device(name, 2), model, 64, 120, small_blocks);
        std::vector<Wanted> wanted;
        std::vector<int32_t> token;
        for (int32_t r = 0; r < 40; ++r) {  // more than one piece of the scratch's rows of logits
            token.push_back(below(random, options.n_vocab));
            wanted.push_back({r, Wanted::logits, 0});
            wanted.push_back({r, Wanted::argmax, 0});
            wanted.push_back({r, Wanted::logprob_of, token.back()});
        }
        StepResult result;
        REQUIRE(cpu.run(rows, table, 8, wanted, &result).ok());
        REQUIRE(result.tokens.size() == 40);
        REQUIRE(result.values.size() == 40 * (size_t(options.n_vocab) + 2));
        const float* at = result.values.data();
        for (size_t r = 0; r < 40; ++r, at += options.n_vocab + 2) {
            const float* best = std::max_element(at, at + options.n_vocab);
            CHECK(result.tokens[r] == best - at);
            double sum = 0;
            for (int32_t v = 0; v < options.n_vocab; ++v) sum += std::exp(double(at[v]) - double(*best));
            const double log_sum = double(*best) + std::log(sum);
            CHECK(std::fabs(double(at[options.n_vocab]) - (double(*best) - log_sum)) < 1e-6);
            CHECK(std::fabs(double(at[options.n_vocab + 1]) - (double(at[token[r]]) - log_sum)) <
                  1e-6 * std::max(1.0, log_sum - double(at[token[r]])));
        }
    }
}

TEST_CASE("the weights of an expert that no row chose are never multiplied") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    TinyOptions options;
    options.n_experts = 4;
    options.dense = true;
    const TinyModel model(options, seed);
    const auto rows = two_sequences(random, 20, options.n_vocab);
    const auto table = scrambled_table(random, 2, 8);
    for (const char* name : instruction_sets()) {
        Loaded cpu(cpu_device(name, 3), model, 64, 64, small_blocks);
        // A router whose bias leaves experts 0 and 2 to all rows.
        const auto router = random_dense(options.hidden, 4, DType::f32, false, random, 0.1f);
        router->source.bias = {50, -50, 50, -50};
        MoeSpec& moe = cpu.spec.layers[1].moe;
        REQUIRE(cpu.device->pack(router->source, &moe.router).ok());
        const auto expected = run_all(cpu, rows, table, 8, {5, 40});
        // NaN in the others changes nothing; in one of the chosen it does.
        const auto nan = random_dense(options.expert_inner, options.hidden, DType::f32, false, random, 0);
        auto* values = reinterpret_cast<float*>(nan->bytes.data());
        std::fill_n(values, size_t(options.expert_inner * options.hidden), std::nanf(""));
        Matrix matrix;
        REQUIRE(cpu.device->pack(nan->source, &matrix).ok());
        moe.experts[1].down = moe.experts[3].down = matrix;
        CHECK(run_all(cpu, rows, table, 8, {5, 40}) == expected);
        moe.experts[2].down = matrix;
        CHECK(std::isnan(run_all(cpu, rows, table, 8, {40})[0]));
    }
}
