// Whole steps of a tiny random model: the CPU against the reference, and the same bits however a step is cut.
#include "model.h"

using namespace quantplug::test;

namespace {

// One block per 8 tokens, scattered; two sequences.
const KvSpec small_blocks{KvSpec::f32, 8, 40};

std::vector<int32_t> scrambled_table(Random& random, int32_t sequences, int32_t max_blocks) {
    std::vector<int32_t> blocks(static_cast<size_t>(small_blocks.n_blocks));
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), random);
    blocks.resize(size_t(sequences * max_blocks));
    return blocks;
}

std::vector<TinyOptions> option_table() {
    std::vector<TinyOptions> all(8);
    all[1].compute = Compute::exact;
    all[1].perm = all[1].bias = true;
    all[2].window = 5;
    all[2].qk_norm = true;
    all[2].perm = true;
    all[3].tied_quantised = true;
    all[3].compute = Compute::exact;
    all[4].tied_quantised = true;
    all[4].n_kv_heads = 4;
    all[4].head_dim = 6;
    all[4].bias = true;
    all[5].dense = true;
    all[5].bias = true;
    all[5].n_kv_heads = 1;
    all[6].head_dim = 34;
    all[6].hidden = 50;
    all[6].inner = 75;
    all[7].head_dim = 128;
    all[7].n_heads = 6;
    all[7].n_kv_heads = 2;
    all[7].compute = Compute::exact;
    all[7].dense = true;
    return all;
}

// Logits of every row of two interleaved sequences of `length` tokens.
std::vector<float> run_all(Loaded& loaded, const std::vector<Row>& rows, const std::vector<int32_t>& table,
                           int32_t max_blocks, const std::vector<size_t>& cuts) {
    std::vector<float> logits;
    size_t begin = 0;
    for (size_t end : cuts) {
        const std::vector<Row> piece(rows.begin() + int64_t(begin), rows.begin() + int64_t(end));
        std::vector<Wanted> wanted;
        for (size_t r = 0; r < piece.size(); ++r) wanted.push_back({int32_t(r), Wanted::logits, 0});
        StepResult result;
        const Status status = loaded.run(piece, table, max_blocks, wanted, &result);
        REQUIRE_MESSAGE(status.ok(), status.message);
        REQUIRE(result.values.size() == piece.size() * size_t(loaded.spec.n_vocab));
        logits.insert(logits.end(), result.values.begin(), result.values.end());
        begin = end;
    }
    return logits;
}

std::vector<Row> two_sequences(Random& random, int32_t length, int32_t n_vocab) {
    std::vector<Row> rows;
    for (int32_t p = 0; p < length; ++p) {
        rows.push_back({0, below(random, n_vocab), p});
        rows.push_back({1, below(random, n_vocab), p});
    }
    return rows;
}

}  // namespace

TEST_CASE("the CPU's step agrees with the reference") {
    const uint64_t seed = fresh_seed();
    size_t index = 0;
    for (const TinyOptions& options : option_table()) {
        INFO("seed " << seed << ", options " << index++);
        Random random(seed);
        const TinyModel model(options, seed);
        const auto rows = two_sequences(random, 20, options.n_vocab);
        const auto table = scrambled_table(random, 2, 8);
        Loaded reference(make_reference_device(), model, 64, 64, small_blocks);
        const auto expected = run_all(reference, rows, table, 8, {40});
        double norm = 0;
        for (float value : expected) norm += double(value) * double(value);
        norm = std::sqrt(norm / double(expected.size()));
        REQUIRE(norm > 0.1);
        // exact: FP32 against doubles, a few hundred roundings of 6e-8. standard: 16-bit activations (2e-5) and weights
        // that are not rounded to FP16 as the reference's are (1.4e-4), amplified by two layers of random weights.
        // 8-bit activations would miss it.
        const double tolerance = options.compute == Compute::exact || options.dense ? 5e-6 : 4e-3;
        for (const char* name : instruction_sets()) {
            Loaded cpu(cpu_device(name, 2), model, 64, 64, small_blocks);
            const auto got = run_all(cpu, rows, table, 8, {40});
            double error = 0;
            for (size_t i = 0; i < got.size(); ++i)
                error += (double(got[i]) - double(expected[i])) * (double(got[i]) - double(expected[i]));
            error = std::sqrt(error / double(got.size())) / norm;
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
    double error = 0, norm = 0;
    for (size_t i = 0; i < got.size(); ++i) {
        error += (double(got[i]) - double(expected[i])) * (double(got[i]) - double(expected[i]));
        norm += double(expected[i]) * double(expected[i]);
    }
    CHECK(std::sqrt(error / norm) < 5e-3);  // 2^-11 per stored value, amplified by two layers
    CHECK(std::sqrt(error / norm) > 1e-6);  // and the cache does hold FP16
}

TEST_CASE("the same bits with any instruction set, thread count, cut of the steps and row order") {
    const uint64_t seed = fresh_seed();
    size_t index = 0;
    for (TinyOptions options : option_table()) {
        INFO("seed " << seed << ", options " << index++);
        Random random(seed);
        const TinyModel model(options, seed);
        const auto rows = two_sequences(random, 16, options.n_vocab);
        const auto table = scrambled_table(random, 2, 8), other_table = scrambled_table(random, 2, 8);
        const KvSpec kv{index % 2 ? KvSpec::f16 : KvSpec::f32, 8, 40};
        Loaded first(cpu_device("portable", 1), model, 64, 64, kv);
        const auto expected = run_all(first, rows, table, 8, {32});
        for (const char* name : instruction_sets()) {
            for (int32_t threads : {1, 2, 3, 7}) {
                INFO(std::string(name) << ", " << threads << " threads");
                Loaded cpu(cpu_device(name, threads), model, 64, 64, kv);
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
