// Whole steps of a tiny random model: the CPU against the reference, and the same bits however a step is cut.
#include "model.h"

using namespace quantplug::test;

namespace {

struct Switch {
    const char* name;
    TinyOptions options;
    bool changes_logits = true;  // against the same model without the switch
};

Switch with(const char* name, void (*set)(TinyOptions&), bool changes_logits = true) {
    Switch s{name, {}, changes_logits};
    set(s.options);
    return s;
}

// Shapes and weights of the plain Llama block.
std::vector<Switch> shape_table() {
    return {
        with(
            "plain", [](TinyOptions&) {}, false),
        with("exact, act order, biases", [](TinyOptions& o) { o.compute = Compute::exact, o.perm = o.bias = true; }),
        with("window, QK norm, act order",
             [](TinyOptions& o) { o.window = 5, o.qk_norm = QkNorm::shared, o.perm = true; }),
        with("tied quantised head, exact", [](TinyOptions& o) { o.tied_quantised = true, o.compute = Compute::exact; }),
        with("tied quantised head, heads of 6",
             [](TinyOptions& o) { o.tied_quantised = o.bias = true, o.n_kv_heads = 4, o.head_dim = 6; }),
        with("dense, one KV head", [](TinyOptions& o) { o.dense = o.bias = true, o.n_kv_heads = 1; }),
        with("heads of 34", [](TinyOptions& o) { o.head_dim = 34, o.hidden = 50, o.inner = 75; }),
        with("heads of 128, dense, exact",
             [](TinyOptions& o) { o.head_dim = 128, o.n_heads = 6, o.dense = true, o.compute = Compute::exact; }),
        with("heads of 1024", [](TinyOptions& o) { o.head_dim = 1024, o.n_heads = o.n_kv_heads = 1; })};
}

// The switches of model.h, one at a time or as architectures combine them.
std::vector<Switch> switch_table() {
    std::vector<Switch> all = {
        with("layer norm", [](TinyOptions& o) { o.norm = NormSpec::layer; }),
        with("layer norm with biases", [](TinyOptions& o) { o.norm = NormSpec::layer, o.norm_bias = true; }),
        with("layer norm without parameters", [](TinyOptions& o) { o.norm = NormSpec::layer, o.norm_weight = false; }),
        with("norms before and after", [](TinyOptions& o) { o.post_norms = true; }),
        with("norms after alone", [](TinyOptions& o) { o.pre_norms = false, o.post_norms = true; }),
        with("parallel, one norm", [](TinyOptions& o) { o.block = Block::parallel, o.mlp_norm = false; }),
        with("parallel, two norms, residual scale",
             [](TinyOptions& o) { o.block = Block::parallel, o.residual_scale = 0.4f; }),
        with("post",
             [](TinyOptions& o) {
                 o.block = Block::post, o.pre_norms = o.final_norm = false, o.post_norms = true;
                 o.norm = NormSpec::layer, o.norm_bias = true;
             }),
        with("residual scale", [](TinyOptions& o) { o.residual_scale = 0.3f; }),
        with("gelu", [](TinyOptions& o) { o.activation = Activation::gelu; }),
        with("gelu tanh, plain MLP", [](TinyOptions& o) { o.activation = Activation::gelu_tanh, o.plain_mlp = true; }),
        with("quick gelu", [](TinyOptions& o) { o.activation = Activation::quick_gelu; }),
        with("relu, plain MLP, biases",
             [](TinyOptions& o) { o.activation = Activation::relu, o.plain_mlp = o.bias = true; }),
        with("relu2", [](TinyOptions& o) { o.activation = Activation::relu2; }),
        with("QK norm of each head", [](TinyOptions& o) { o.qk_norm = QkNorm::per_head; }),
        with("QK norm over all heads", [](TinyOptions& o) { o.qk_norm = QkNorm::full; }),
        with("QK layer norm with biases",
             [](TinyOptions& o) { o.qk_norm = QkNorm::per_head, o.norm = NormSpec::layer, o.norm_bias = true; }),
        with("QK norm after rope", [](TinyOptions& o) { o.qk_norm = QkNorm::shared, o.qk_norm_after_rope = true; }),
        with("attention scale of a layer", [](TinyOptions& o) { o.attention_scale = 0.9f; }),
        with("attention softcap", [](TinyOptions& o) { o.softcap = 0.7f; }),
        with("clip qkv", [](TinyOptions& o) { o.clip_qkv = 0.5f; }),
        with("ALiBi", [](TinyOptions& o) { o.alibi = true, o.rope = false; }),
        with("no rope", [](TinyOptions& o) { o.rope = false; }),
        with("partial rope", [](TinyOptions& o) { o.rotary_dim = 6; }),
        with("interleaved rope", [](TinyOptions& o) { o.interleaved = true; }),
        with("longrope", [](TinyOptions& o) { o.longrope = true, o.length_limit = 9; }),
        with("dynamic rope", [](TinyOptions& o) { o.length_limit = 9; }),
        with("all of 4 experts", [](TinyOptions& o) { o.n_experts = o.top_k = 4, o.shared_inner = 40; }),
        with("2 of 5 experts, renormalised, act order",
             [](TinyOptions& o) { o.n_experts = 5, o.renormalise = o.perm = true, o.compute = Compute::exact; }),
        with("3 of 7 plain experts, gated shared expert, biases",
             [](TinyOptions& o) {
                 o.n_experts = 7, o.top_k = 3, o.shared_inner = 100, o.shared_gate = o.plain_mlp = o.bias = true;
                 o.compute = Compute::exact, o.post_norms = true, o.residual_scale = 0.5f;
             }),
        with("dense experts in a parallel block",
             [](TinyOptions& o) {
                 o.n_experts = 3, o.top_k = 1, o.dense = true, o.block = Block::parallel, o.mlp_norm = false;
                 o.compute = Compute::exact;
             }),
        with("embedding scale and norm", [](TinyOptions& o) { o.embedding_scale = 7.5f, o.embedding_norm = true; }),
        with("learned positions", [](TinyOptions& o) { o.position_offset = 2, o.rope = false; }),
        with("narrow embedding", [](TinyOptions& o) { o.embedding_size = 24, o.post_norms = true; }),
        with("logit scale", [](TinyOptions& o) { o.logit_scale = 0.06f; }),
        with("logit softcap, head bias", [](TinyOptions& o) { o.logit_softcap = 1.5f, o.head_bias = true; }),
    };
    return all;
}

std::vector<Switch> whole_table() {
    auto all = shape_table();
    for (const Switch& s : switch_table()) all.push_back(s);
    return all;
}

}  // namespace

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
