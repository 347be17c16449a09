// A loaded model: its memory, its sequences and steps, what ends a generation, and the options of a load.
#include "engine/model/model.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>

#include "checkpoint_files.h"
#include "engine/model/memory.h"
#include "engine/plugin/load_options.h"
#include "engine/plugin/plugin_model.h"
#include "tests/support/refusal.h"
#include "tiny_folders.h"

namespace quantplug::test {

using engine::Code;
using engine::Model;
using engine::Sequence;
using kernels::Wanted;

namespace {

using Ids = std::vector<int32_t>;

engine::LoadOptions options_with(int32_t ctx, kernels::Compute compute = kernels::Compute::standard) {
    engine::LoadOptions options;
    options.device = "cpu";
    options.threads = 2;
    options.ctx = ctx;
    options.compute = compute;
    return options;
}
engine::LoadOptions vocab_only() {
    engine::LoadOptions options;
    options.vocab_only = true;
    return options;
}

std::unique_ptr<Model> load(const TinyFolder& tiny, const engine::LoadOptions& options,
                            std::vector<std::string>* log = nullptr) {
    return Model::load(tiny.open(), PlainFormat(), options, {}, [&](const std::string& line) {
        if (log) log->push_back(line);
    });
}
engine::MemoryPlan plan_of(const TinyFolder& tiny, const engine::LoadOptions& options,
                           std::vector<std::string>* log = nullptr) {
    return Model::plan(tiny.open(), PlainFormat(), options, [&](const std::string& line) {
        if (log) log->push_back(line);
    });
}

/// Logits after the last of `ids`, appended in one step.
std::vector<float> step(Model& model, Sequence& sequence, const Ids& ids, const std::function<bool()>& cancelled = {}) {
    const Wanted last{int32_t(ids.size()) - 1, Wanted::logits, 0};
    return model.step(sequence, ids, {&last, 1}, ids.size() > 1, cancelled).values;
}
std::vector<float> logits_after(Model& model, const Ids& ids) {
    Sequence sequence(model, int32_t(ids.size()));
    return step(model, sequence, ids);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return !a.empty() && a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

Ids random_ids(std::mt19937& random, int n) {
    Ids ids;
    for (int i = 0; i < n; ++i) ids.push_back(int32_t(random() % 96));
    return ids;
}

/// What a device counts once everything of the plan is on it.
kernels::MemoryUse allocated(const TinyFolder& tiny, const engine::LoadOptions& options) {
    engine::Decoder d = engine::read_decoder(tiny.open(), PlainFormat());
    d.spec.max_positions = options.ctx;
    d.spec.compute = options.compute;
    std::unique_ptr<kernels::Device> device;
    REQUIRE(kernels::make_cpu_device(options.threads, &device).ok());
    for (const engine::LinearPart& l : d.linears) {
        kernels::DenseSource source;
        source.in_features = l.shape.in_features;
        source.out_features = l.shape.out_features;
        source.dtype = l.shape.dtype;
        source.read_rows = [&](int32_t, int32_t rows, void* out) {
            std::memset(out, 0, size_t(rows) * size_t(l.shape.in_features) * sizeof(float));
            return kernels::Status{};
        };
        if (l.shape.has_bias) source.bias.assign(size_t(l.shape.out_features), 1.0f);
        kernels::Matrix matrix;
        REQUIRE(device->pack(source, &matrix).ok());
    }
    for (const engine::NormPart& n : d.norms) {
        kernels::Vector vector;
        REQUIRE(device->upload(std::vector<float>(size_t(n.size), 1.0f), &vector).ok());
    }
    kernels::KvSpec kv;
    kv.type = options.compute == kernels::Compute::exact ? kernels::KvSpec::f32 : kernels::KvSpec::f16;
    kv.block_tokens = engine::kv_block_tokens;
    kv.n_blocks = (options.ctx + engine::kv_block_tokens - 1) / engine::kv_block_tokens;
    kernels::Kv cache;
    REQUIRE(device->make_kv(d.spec, kv, &cache).ok());
    REQUIRE(device->prepare(d.spec, device->max_rows(), engine::max_step_wanted).ok());
    return device->memory();
}

}  // namespace

TEST_CASE("model: the memory plan is what a device then holds") {
    for (const char* name : {"llama", "qwen3"})
        for (const auto compute : {kernels::Compute::standard, kernels::Compute::exact})
            for (const int32_t ctx : {1, 64, 65, 4096}) {
                CAPTURE(name);
                CAPTURE(ctx);
                CAPTURE(engine::name_of(compute));
                const TinyFolder tiny(name);
                const engine::LoadOptions options = options_with(ctx, compute);
                const engine::MemoryPlan plan = plan_of(tiny, options);
                const kernels::MemoryUse use = allocated(tiny, options);
                CHECK(plan.ctx == ctx);
                CHECK(plan.weights == use.weights);
                CHECK(plan.kv_cache == use.kv);
                CHECK(plan.scratch == use.scratch);
                CHECK(plan.total() == plan.weights + plan.kv_cache + plan.scratch + plan.other);
                CHECK(plan.available > plan.total());
            }
    // 2 layers x (key + value) x 2 heads x 16 x 2 bytes, in whole blocks of 64.
    CHECK(plan_of(TinyFolder("llama"), options_with(65)).kv_cache == 128 * 2 * 2 * 2 * 16 * 2);
}

TEST_CASE("model: the context is the model's own, less where memory says so, and more only with a warning") {
    TinyFolder tiny("llama");
    std::vector<std::string> log;
    CHECK(plan_of(tiny, options_with(0), &log).ctx == 256);
    CHECK(plan_of(tiny, options_with(256), &log).ctx == 256);
    CHECK(log.empty());
    CHECK(plan_of(tiny, options_with(512), &log).ctx == 512);
    REQUIRE(log.size() == 1);
    CHECK(log[0].find("512") != std::string::npos);
    CHECK(log[0].find("256") != std::string::npos);

    // One layer with 16 key/value heads of 1024: 2^24 tokens of 128 KiB are more than a machine for tests has.
    const int32_t huge = 1 << 24;
    const auto exact = kernels::Compute::exact;
    log.clear();
    tiny.with({{"max_position_embeddings", huge},
               {"num_hidden_layers", 1},
               {"num_attention_heads", 16},
               {"num_key_value_heads", 16},
               {"head_dim", 1024}});
    for (const char* name : {"q_proj", "k_proj", "v_proj"})
        for (const char* part : {".weight", ".bias"}) {
            Tensor& tensor = tiny.tensors[std::string("model.layers.0.self_attn.") + name + part];
            tensor = with_rows(tensor, 16 * 1024);
        }
    Tensor& o = tiny.tensors["model.layers.0.self_attn.o_proj.weight"];
    o = reshaped(o, {32, 16 * 1024});
    const engine::MemoryPlan reduced = plan_of(tiny, options_with(0, exact), &log);
    CHECK(reduced.ctx < huge);
    CHECK(reduced.ctx >= 512);
    CHECK(reduced.ctx % engine::kv_block_tokens == 0);
    CHECK(reduced.total() <= reduced.available);
    REQUIRE(log.size() == 1);
    CHECK(log[0].find(std::to_string(huge)) != std::string::npos);
    CHECK(log[0].find(std::to_string(reduced.ctx)) != std::string::npos);
    // Asked for, it is refused before anything is read, with what would fit.
    CHECK_REFUSED(load(tiny, options_with(huge, exact)), Code::resource_exhausted, "MiB", std::to_string(huge),
                  "--ctx ");
    CHECK(engine::available_memory() > 0);
    CHECK(engine::resident_memory() > 0);
}

TEST_CASE("model: a context above the model's own computes") {
    std::mt19937 random(fresh_seed());
    const auto larger = load(TinyFolder("mistral"), options_with(512));
    const auto own = load(TinyFolder("mistral"), options_with(0));
    CHECK(larger->ctx() == 512);
    CHECK(own->ctx() == 256);
    const Ids ids = random_ids(random, 100);
    CHECK(same_bits(logits_after(*larger, ids), logits_after(*own, ids)));
    Sequence sequence(*larger, 512);
    for (int i = 0; i < 4; ++i)
        for (const float logit : step(*larger, sequence, random_ids(random, 128))) REQUIRE(std::isfinite(logit));
    CHECK(sequence.size() == 512);
}

TEST_CASE("model: a context above learned positions is refused") {
    CHECK_REFUSED(load(TinyFolder("gpt2"), options_with(65)), Code::invalid_argument, "65", "64");
    CHECK(load(TinyFolder("gpt2"), options_with(64))->ctx() == 64);
}

TEST_CASE("model: a cache that others hold is RESOURCE_EXHAUSTED, and blocks come back") {
    const auto model = load(TinyFolder("llama"), options_with(192));
    for (int round = 0; round < 3; ++round) {
        const Sequence one(*model, 65);  // two blocks of three
        CHECK_REFUSED(Sequence(*model, 65), Code::resource_exhausted, "64", "65");
        const Sequence two(*model, 64);
        CHECK_REFUSED(Sequence(*model, 1), Code::resource_exhausted, "room for 0 ", "1");
    }
    const Sequence all(*model, 192);
    CHECK(all.size() == 0);
}

TEST_CASE("model: a sequence in blocks that do not follow each other computes the same") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937 random(seed);
    const Ids a = random_ids(random, 100), b = random_ids(random, 70);
    for (const auto compute : {kernels::Compute::standard, kernels::Compute::exact}) {
        const auto model = load(TinyFolder("qwen2"), options_with(256, compute));
        const auto run = [&](Sequence& s) {
            step(*model, s, a);
            return step(*model, s, b);
        };
        std::vector<float> alone;
        {
            Sequence s(*model, 170);
            alone = run(s);
        }
        auto first = std::make_unique<Sequence>(*model, 64);
        const Sequence second(*model, 64);
        auto third = std::make_unique<Sequence>(*model, 128);
        third.reset();
        first.reset();
        Sequence scattered(*model, 170);
        CHECK(same_bits(run(scattered), alone));
    }
}

TEST_CASE("model: two sequences step by turns and get the bits that each gets alone") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937 random(seed);
    for (const char* name : {"llama", "mistral", "qwen3"}) {
        CAPTURE(name);
        const auto model = load(TinyFolder(name), options_with(256));
        const Ids prompts[] = {random_ids(random, 20), random_ids(random, 33)};
        const Ids more = random_ids(random, 10);
        std::vector<std::vector<float>> alone[2], together[2];
        for (int which : {0, 1}) {
            Sequence s(*model, 100);
            alone[which].push_back(step(*model, s, prompts[which]));
            for (const int32_t id : more) alone[which].push_back(step(*model, s, {id}));
        }
        Sequence s0(*model, 100), s1(*model, 100);
        Sequence* sequences[] = {&s0, &s1};
        for (int which : {0, 1}) together[which].push_back(step(*model, *sequences[which], prompts[which]));
        for (const int32_t id : more)
            for (int which : {1, 0}) together[which].push_back(step(*model, *sequences[which], {id}));
        for (int which : {0, 1})
            for (size_t i = 0; i < alone[which].size(); ++i) CHECK(same_bits(alone[which][i], together[which][i]));
        CHECK_FALSE(same_bits(alone[0][0], alone[1][0]));
        CHECK(s0.size() == 30);
        CHECK(s1.size() == 43);
    }
}

TEST_CASE("model: a step that cannot be leaves the sequence as it was") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto model = load(TinyFolder("llama"), options_with(256));
    const Ids prompt = random_ids(random, 50), next = random_ids(random, 5);
    Ids whole = prompt;
    whole.insert(whole.end(), next.begin(), next.end());

    Sequence sequence(*model, 192);
    step(*model, sequence, prompt);
    CHECK_REFUSED(step(*model, sequence, Ids(129, 5)), Code::out_of_range, "129");
    step(*model, sequence, next);
    CHECK(sequence.size() == 55);
    {
        Sequence other(*model, 0);
        CHECK_REFUSED(step(*model, other, {1}), Code::out_of_range, "1");
    }
    CHECK(sequence.size() == 55);

    const auto refused = load(TinyFolder("llama"), options_with(100));
    Sequence s(*refused, 100);
    step(*refused, s, prompt);
    CHECK_REFUSED(step(*refused, s, Ids(51, 5)), Code::out_of_range, "51", "50", "100");
    CHECK_REFUSED(refused->step(s, {}, {}, false, {}), Code::out_of_range, "0");
    CHECK_REFUSED(step(*refused, s, {3, 96}), Code::invalid_argument, "96");
    CHECK_REFUSED(step(*refused, s, {-1}), Code::invalid_argument, "-1");
    const Ids one = {3};
    const auto with_wanted = [&](const std::vector<Wanted>& wanted) { refused->step(s, one, wanted, false, {}); };
    CHECK_REFUSED(with_wanted({{1, Wanted::logits, 0}}), Code::invalid_argument, "1");
    CHECK_REFUSED(with_wanted({{0, Wanted::logprob_of, 96}}), Code::invalid_argument, "96");
    CHECK_REFUSED(with_wanted(std::vector<Wanted>(33, {0, Wanted::argmax, 0})), Code::invalid_argument, "33");
    CHECK(s.size() == 50);
    const std::vector<float> after = step(*refused, s, next);
    CHECK(s.size() == 55);
    Sequence undisturbed(*model, 64);
    step(*model, undisturbed, prompt);
    CHECK(same_bits(after, step(*model, undisturbed, next)));
}

TEST_CASE("model: a step cancelled between two layers counts as never made") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937 random(seed);
    for (const auto compute : {kernels::Compute::standard, kernels::Compute::exact}) {
        const auto model = load(TinyFolder("qwen2"), options_with(256, compute));
        const Ids prompt = random_ids(random, 40), next = random_ids(random, 12), wrong = random_ids(random, 30);
        std::vector<float> undisturbed;
        {
            Sequence s(*model, 128);
            step(*model, s, prompt);
            undisturbed = step(*model, s, next);
        }
        Sequence s(*model, 128);
        step(*model, s, prompt);
        for (const int layer : {1, 2}) {
            int asked = 0;
            CHECK_REFUSED(step(*model, s, wrong, [&] { return ++asked == layer; }), Code::cancelled);
            CHECK(asked == layer);
            CHECK(s.size() == 40);
        }
        int asked = 0;
        CHECK(same_bits(step(*model, s, next,
                             [&] {
                                 ++asked;
                                 return false;
                             }),
                        undisturbed));
        CHECK(asked == 2);  // once a layer
        CHECK(s.size() == 52);
    }
}

TEST_CASE("model: prefill steps stay within their bounds") {
    const auto model = load(TinyFolder("llama"), options_with(256));
    CHECK(model->prefill_rows() == 16);
    Sequence sequence(*model, 256);
    for (int i = 0; i < 6; ++i) step(*model, sequence, Ids(size_t(16 + i), 5));
    CHECK(model->prefill_rows() >= 8);
    CHECK(model->prefill_rows() <= model->max_step_rows());
}

TEST_CASE("model: vocab_only has the tokenizer and the facts, and no steps") {
    TinyFolder tiny("llama");
    tiny.tensors["model.norm.weight"] =
        make_tensor(engine::StoredType::f32, {32}, std::vector<float>(32, std::nanf("")));
    const auto model = load(tiny, vocab_only());  // no weight is read
    CHECK_FALSE(model->has_weights());
    CHECK(model->device() == "none");
    CHECK(model->ctx() == 256);
    CHECK(model->n_vocab() == 96);
    CHECK(model->tokenizer().size() == 96);
    CHECK_REFUSED(Sequence(*model, 1), Code::failed_precondition, "vocab_only");
}

TEST_CASE("model: values that are no numbers are refused with the tensor's name") {
    for (const char* name : {"model.norm.weight", "model.layers.1.input_layernorm.weight",
                             "model.layers.0.post_attention_layernorm.weight", "model.layers.1.self_attn.k_proj.bias"})
        for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
            TinyFolder tiny("llama");
            std::vector<float> values = tiny.tensors[name].values<float>();
            values[7] = bad;
            tiny.tensors[name] = make_tensor(engine::StoredType::f32, {int64_t(values.size())}, values);
            CHECK_REFUSED(load(tiny, options_with(64)), Code::data_loss, name, "7");
        }
}

TEST_CASE("model: a norm stored for each head computes what the one of all heads does, and heads may differ") {
    TinyFolder tiny("qwen3");
    const Ids ids = {3, 4, 5, 60};
    const std::vector<float> expected = logits_after(*load(tiny, options_with(64)), ids);
    const std::string name = "model.layers.0.self_attn.q_norm.weight";
    std::vector<float> values;
    for (int head = 0; head < 4; ++head)
        for (const float v : tiny.tensors[name].values<float>()) values.push_back(v);
    tiny.tensors[name] = make_tensor(engine::StoredType::f32, {4, 16}, values);
    CHECK(same_bits(logits_after(*load(tiny, options_with(64)), ids), expected));
    values[20] += 1.0f;
    tiny.tensors[name] = make_tensor(engine::StoredType::f32, {4, 16}, values);
    CHECK_FALSE(same_bits(logits_after(*load(tiny, options_with(64)), ids), expected));
}

TEST_CASE("model: padding rows and either of two tied matrices give the same logits") {
    TinyFolder tiny("qwen3");
    const Ids ids = {3, 4, 5, 60, 95};
    const std::vector<float> expected = logits_after(*load(tiny, options_with(64)), ids);
    const Tensor embedding = tiny.tensors["model.embed_tokens.weight"];

    tiny.tensors["model.embed_tokens.weight"] = with_rows(embedding, 128);
    const auto padded = load(tiny, options_with(64));
    CHECK(padded->n_vocab() == 96);
    CHECK(same_bits(logits_after(*padded, ids), expected));

    tiny.tensors["lm_head.weight"] = embedding;
    CHECK(same_bits(logits_after(*load(tiny, options_with(64)), ids), expected));
    tiny.tensors.erase("model.embed_tokens.weight");
    CHECK(same_bits(logits_after(*load(tiny, options_with(64)), ids), expected));
}

TEST_CASE("model: a tokenizer with more ids than the model is refused, with fewer its ids alone are drawn") {
    TinyFolder tiny("llama");
    tiny.with({{"vocab_size", 90}});  // the six rows above are padding to the decoder
    CHECK_REFUSED(load(tiny, options_with(64)), Code::invalid_argument, "96", "90");
    CHECK_REFUSED(load(tiny, vocab_only()), Code::invalid_argument, "96", "90");
    tiny.with({{"vocab_size", 100}});
    CHECK_REFUSED(load(tiny, options_with(64)), Code::invalid_argument, "model.embed_tokens.weight", "96", "100");
    for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"})
        tiny.tensors[name] = with_rows(tiny.tensors[name], 100);
    const auto model = load(tiny, options_with(64));
    CHECK(model->n_vocab() == 100);
    CHECK(model->n_sampled() == 96);
    CHECK(logits_after(*model, {99}).size() == 100);
}

TEST_CASE("model: stop ids come from both configurations and from the tokenizer's names") {
    const auto stop_ids = [](const TinyFolder& tiny) { return load(tiny, vocab_only())->stop_ids(); };
    TinyFolder tiny("llama");
    CHECK(stop_ids(tiny) == Ids{2});
    tiny.with({{"eos_token_id", {9, 2, 9}}});
    CHECK(stop_ids(tiny) == Ids{2, 9});
    tiny.generation = {{"eos_token_id", {7, -1, 300}}};  // none, and one that no row has
    CHECK(stop_ids(tiny) == Ids{2, 7, 9});
    tiny.with({{"eos_token_id", nullptr}});
    CHECK(stop_ids(tiny) == Ids{7});
    tiny.tokenizer_config = {{"eos_token", "</s>"}};
    CHECK(stop_ids(tiny) == Ids{2, 7});

    // Names count where the token is special; a word of the vocabulary is only a word.
    const auto rename = [&](int id, const char* name, bool special) {
        json& vocab = tiny.tokenizer["model"]["vocab"];
        std::string old;
        for (const auto& [token, number] : vocab.items())
            if (number == id) old = token;
        REQUIRE(!old.empty());
        vocab.erase(old);
        vocab[name] = id;
        tiny.tokenizer["added_tokens"].push_back({{"id", id},
                                                  {"content", name},
                                                  {"single_word", false},
                                                  {"lstrip", false},
                                                  {"rstrip", false},
                                                  {"normalized", false},
                                                  {"special", special}});
    };
    rename(20, "<|im_end|>", true);
    rename(21, "<|eot_id|>", true);
    rename(22, "<|endoftext|>", false);
    rename(23, "<|im_start|>", true);
    CHECK(stop_ids(tiny) == Ids{2, 7, 20, 21});
}

TEST_CASE("model: loading tells its progress and can be cancelled") {
    const TinyFolder tiny("llama");
    std::vector<double> fractions;
    const auto run = [&](size_t most) {
        fractions.clear();
        return Model::load(tiny.open(), PlainFormat(), options_with(64),
                           [&](double fraction, const char* what) {
                               CHECK(std::string(what) != "");
                               fractions.push_back(fraction);
                               return fractions.size() < most;
                           },
                           {});
    };
    CHECK(run(1000)->has_weights());
    REQUIRE(fractions.size() == 16);
    CHECK(fractions.front() == 0);
    CHECK(fractions.back() < 1);
    CHECK(std::is_sorted(fractions.begin(), fractions.end()));
    CHECK_REFUSED(run(3), Code::cancelled);
    CHECK(fractions.size() == 3);
}

TEST_CASE("model: a device that is not there is refused by its name") {
    engine::LoadOptions options = options_with(64);
    options.makers.make_cuda = [](int32_t, std::unique_ptr<kernels::Device>*) {
        return kernels::Status::error(kernels::unavailable, "there is no driver, use --device cpu");
    };
    for (const char* device : {"cuda:0", "cuda:1"}) {
        options.device = device;
        CHECK_REFUSED(load(TinyFolder("llama"), options), Code::unavailable, device, "no driver");
    }
    options.device = "tpu";
    CHECK_REFUSED(load(TinyFolder("llama"), options), Code::invalid_argument, "tpu", "cpu");
    options.device = "cpu";
    CHECK(load(TinyFolder("llama"), options)->device().starts_with("cpu ("));
}

namespace {

engine::LoadOptions parsed(const std::vector<qp_option>& given) {
    std::vector<qp_option_info> known;
    for (uint32_t i = 0;; ++i) {
        auto info = make<qp_option_info>();
        if (!engine::load_option(i, info)) break;
        known.push_back(info);
    }
    return engine::parse_load_options(backend::LoadOptions(known, given.data(), given.size()));
}

}  // namespace

TEST_CASE("load options: defaults, and every key reaches the engine") {
    const engine::LoadOptions defaults = parsed({});
    CHECK(defaults.device == "auto");
    CHECK(defaults.compute == kernels::Compute::standard);
    CHECK(defaults.threads == 0);
    CHECK(defaults.ctx == 0);
    CHECK_FALSE(defaults.vocab_only);
    CHECK(defaults.gpu_layers == -1);
    CHECK_FALSE(defaults.deterministic);
    const engine::LoadOptions given = parsed({{"device", "cpu,cuda:1"},
                                              {"gpu_layers", "12"},
                                              {"deterministic", "1"},
                                              {"compute", "exact"},
                                              {"threads", "3"},
                                              {"ctx", "16777216"},
                                              {"vocab_only", "1"}});
    CHECK(given.device == "cpu,cuda:1");
    CHECK(given.gpu_layers == 12);
    CHECK(given.deterministic);
    CHECK(given.compute == kernels::Compute::exact);
    CHECK(given.threads == 3);
    CHECK(given.ctx == 1 << 24);
    CHECK(given.vocab_only);
    CHECK(std::string(engine::name_of(kernels::Compute::exact)) == "exact");
    CHECK(std::string(engine::name_of(kernels::Compute::standard)) == "default");
}

TEST_CASE("load options: a value outside is refused with the key") {
    const struct {
        const char *key, *value;
    } bad[] = {{"compute", "fast"}, {"threads", "-1"},    {"threads", "1025"},   {"threads", "two"},
               {"ctx", "16777217"}, {"ctx", "-5"},        {"ctx", "1.5"},        {"vocab_only", "yes"},
               {"colour", "red"},   {"gpu_layers", "-2"}, {"gpu_layers", "all"}, {"deterministic", "yes"}};
    for (const auto& option : bad) {
        CAPTURE(option.key);
        CAPTURE(option.value);
        std::string message = "accepted";
        try {
            parsed({{option.key, option.value}});
        } catch (const std::exception& error) {
            message = error.what();
        }
        CHECK(message.find(option.key) != std::string::npos);
    }
}

TEST_CASE("recommended sampling: what generation_config.json says, within bounds") {
    const auto sampling = [](const json& generation) {
        TinyFolder tiny("llama");
        tiny.generation = generation;
        return engine::recommended_sampling(tiny.open());
    };
    CHECK(sampling(nullptr).set == 0);
    CHECK(sampling(json::object()).set == 0);

    qp_sampling s =
        sampling({{"do_sample", true}, {"temperature", 0.6}, {"top_p", 0.9}, {"top_k", 20}, {"min_p", 0.05}});
    CHECK(s.set == (QP_SET_TEMPERATURE | QP_SET_TOP_P | QP_SET_TOP_K | QP_SET_MIN_P));
    CHECK(s.temperature == 0.6);
    CHECK(s.top_p == 0.9);
    CHECK(s.top_k == 20);
    CHECK(s.min_p == 0.05);

    s = sampling({{"do_sample", false}, {"temperature", 0.6}, {"top_p", 0.9}});
    CHECK((s.set & QP_SET_TEMPERATURE) != 0);
    CHECK(s.temperature == 0);
    CHECK(sampling({{"do_sample", false}}).set == QP_SET_TEMPERATURE);
    CHECK(sampling({{"temperature", nullptr}, {"top_k", 0}}).set == 0);
    CHECK(sampling({{"temperature", -1}, {"top_p", 1.5}, {"min_p", -0.1}, {"top_k", -3}}).set == 0);
    CHECK_REFUSED(sampling({{"temperature", "hot"}}), Code::invalid_argument, "generation_config.json", "temperature");
}

}  // namespace quantplug::test
