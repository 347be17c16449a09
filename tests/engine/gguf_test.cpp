#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>

#include "engine/checkpoint/config.h"
#include "engine/checkpoint/folder.h"
#include "engine/tools/import_gguf.h"
#include "engine/tools/import_gguf_file.h"
#include "engine/tools/import_gguf_model.h"
#include "engine/tools/import_gguf_tokenizer.h"
#include "gguf_files.h"
#include "kernels/half.h"
#include "tests/support/data.h"

using namespace quantplug::engine;
using namespace quantplug::test;
namespace fs = std::filesystem;

namespace {

constexpr int64_t hidden = 64, heads = 4, kv_heads = 2, head_dim = 16, intermediate = 96, layers = 2, vocab = 272;

std::vector<float> normal(std::mt19937& random, int64_t n) {
    std::normal_distribution<float> distribution;
    std::vector<float> values(static_cast<size_t>(n));
    for (float& value : values) value = distribution(random);
    return values;
}

/// llama.cpp's order of q and k: of each head, row t of the first half and row t of the second come one after the
/// other.
std::vector<float> permuted(const std::vector<float>& rows, int64_t n_heads) {
    const int64_t width = hidden, half = head_dim / 2;
    std::vector<float> out(rows.size());
    int64_t to = 0;
    for (int64_t h = 0; h < n_heads; ++h)
        for (int64_t t = 0; t < half; ++t)
            for (int64_t a = 0; a < 2; ++a, ++to)
                std::copy_n(rows.begin() + (h * head_dim + a * half + t) * width, width, out.begin() + to * width);
    return out;
}

/// A model with F32 weights; `plain` receives what the import must give, by Hugging Face's names.
GgufBuilder tiny_model(std::mt19937& random, std::map<std::string, std::vector<float>>& plain,
                       const std::string& architecture = "llama") {
    const TinyVocabulary vocabulary;
    const std::string p = architecture + ".";
    GgufBuilder file;
    file.text("general.architecture", architecture).number(p + "block_count", layers).number(p + "context_length", 128);
    file.number(p + "embedding_length", hidden).number(p + "feed_forward_length", intermediate);
    file.number(p + "attention.head_count", heads).number(p + "attention.head_count_kv", kv_heads);
    file.real(p + "attention.layer_norm_rms_epsilon", 1e-5f).real(p + "rope.freq_base", 500000.0f);
    file.text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts("tokenizer.ggml.tokens", vocabulary.tokens);
    file.texts("tokenizer.ggml.merges", vocabulary.merges)
        .list("tokenizer.ggml.token_type", GgufBuilder::i32, vocabulary.types);
    file.number("tokenizer.ggml.bos_token_id", 261).number("tokenizer.ggml.eos_token_id", 262);
    file.text("tokenizer.chat_template", "{{ messages }}");
    const bool rope_order = architecture == "llama";
    const auto add = [&](const std::string& from, const std::string& to, std::vector<int64_t> shape,
                         int64_t permute_heads = 0) {
        const int64_t count = shape.size() == 1 ? shape[0] : shape[0] * shape[1];
        const auto values = normal(random, count);
        plain[to] = values;
        file.tensor(from, 0, shape, bytes_of(permute_heads && rope_order ? permuted(values, permute_heads) : values));
    };
    add("token_embd.weight", "model.embed_tokens.weight", {vocab, hidden});
    for (int i = 0; i < layers; ++i) {
        const std::string from = "blk." + std::to_string(i) + ".", to = "model.layers." + std::to_string(i) + ".";
        add(from + "attn_norm.weight", to + "input_layernorm.weight", {hidden});
        add(from + "attn_q.weight", to + "self_attn.q_proj.weight", {heads * head_dim, hidden}, heads);
        add(from + "attn_k.weight", to + "self_attn.k_proj.weight", {kv_heads * head_dim, hidden}, kv_heads);
        add(from + "attn_v.weight", to + "self_attn.v_proj.weight", {kv_heads * head_dim, hidden});
        add(from + "attn_output.weight", to + "self_attn.o_proj.weight", {hidden, heads * head_dim});
        add(from + "ffn_norm.weight", to + "post_attention_layernorm.weight", {hidden});
        add(from + "ffn_gate.weight", to + "mlp.gate_proj.weight", {intermediate, hidden});
        add(from + "ffn_up.weight", to + "mlp.up_proj.weight", {intermediate, hidden});
        add(from + "ffn_down.weight", to + "mlp.down_proj.weight", {hidden, intermediate});
        if (architecture == "qwen3") {
            add(from + "attn_q_norm.weight", to + "self_attn.q_norm.weight", {head_dim});
            add(from + "attn_k_norm.weight", to + "self_attn.k_norm.weight", {head_dim});
        }
    }
    add("output_norm.weight", "model.norm.weight", {hidden});
    return file;
}

GgufBuilder tiny_model() {
    std::mt19937 random(1);
    std::map<std::string, std::vector<float>> plain;
    return tiny_model(random, plain);
}

struct Imported {
    TempDir dir;
    ImportGgufResult result;
    fs::path out() const { return dir.path() / "out"; }
    Json json(const char* name) const { return parse_json(read_file(out() / name), name); }
};

std::unique_ptr<Imported> import(const GgufBuilder& file, StoredType type = StoredType::f32) {
    auto imported = std::make_unique<Imported>();
    write_file(imported->dir.path() / "m.gguf", file.bytes());
    imported->result = import_gguf(imported->dir.path() / "m.gguf", imported->out(), {.type = type, .progress = {}});
    return imported;
}

/// Everything that is decided before a weight is read.
void read_head(const std::string& bytes) {
    const MemoryBytes source(as_span(bytes), "m.gguf");
    const GgufFile file(source);
    const ImportedModel model = map_gguf_model(file);
    make_gguf_tokenizer(file, model.n_vocab, model.max_positions);
}

void check_refused(const GgufBuilder& file, Code code, std::initializer_list<std::string_view> parts) {
    const Outcome outcome = outcome_of([&] { read_head(file.bytes()); });
    INFO(outcome.message);
    CHECK(outcome.code == code);
    CHECK(outcome.mentions({"m.gguf"}));
    CHECK(outcome.mentions(parts));
}

}  // namespace

TEST_CASE("gguf: a llama model comes out as Hugging Face has it, q and k in their own order") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    for (const char* architecture : {"llama", "qwen2", "qwen3"}) {
        CAPTURE(architecture);
        std::mt19937 random(seed);
        std::map<std::string, std::vector<float>> plain;
        const auto imported = import(tiny_model(random, plain, architecture));
        const ModelFolder folder = ModelFolder::open(imported->out());
        CHECK(imported->result.tensors == int64_t(plain.size()));
        CHECK(imported->result.bytes == fs::file_size(imported->out() / "model.safetensors"));
        REQUIRE(folder.tensors().size() == plain.size());
        for (const auto& tensor : plain) {
            INFO(tensor.first);
            CHECK(folder.read_f32(tensor.first) == tensor.second);
        }
        const ModelConfig config = read_model_config(folder);
        CHECK(config.architecture == imported->result.architecture);
        CHECK(config.n_layers == layers);
        CHECK(config.hidden_size == hidden);
        CHECK(config.intermediate_size == intermediate);
        CHECK(config.n_heads == heads);
        CHECK(config.n_kv_heads == kv_heads);
        CHECK(config.head_dim == head_dim);
        CHECK(config.n_vocab == vocab);
        CHECK(config.max_positions == 128);
        CHECK(config.norm_eps == 1e-5);
        CHECK(config.rope.theta == 500000.0);
        CHECK(config.tie_word_embeddings == true);
        CHECK(config.bos_id == 261);
        CHECK(config.eos_ids == std::vector<int64_t>{262});
        CHECK(config.dtype == "float32");
        CHECK(fs::directory_entry(imported->dir.path() / "out").is_directory());
        CHECK(std::distance(fs::directory_iterator(imported->dir.path()), fs::directory_iterator()) == 2);
    }
}

TEST_CASE("gguf: biases are permuted as their matrices, a head of its own unties") {
    std::mt19937 random(fresh_seed());
    std::map<std::string, std::vector<float>> plain;
    GgufBuilder file = tiny_model(random, plain);
    std::vector<float> bias(heads * head_dim);
    for (size_t i = 0; i < bias.size(); ++i) bias[i] = float(i);
    std::vector<float> stored;
    for (int64_t h = 0; h < heads; ++h)
        for (int64_t t = 0; t < head_dim / 2; ++t)
            for (int64_t a = 0; a < 2; ++a) stored.push_back(bias[size_t(h * head_dim + a * head_dim / 2 + t)]);
    file.tensor("blk.1.attn_q.bias", 0, {heads * head_dim}, bytes_of(stored));
    file.tensor("output.weight", 0, {vocab, hidden}, bytes_of(normal(random, vocab * hidden)));
    const auto imported = import(file);
    const ModelFolder folder = ModelFolder::open(imported->out());
    CHECK(folder.read_f32("model.layers.1.self_attn.q_proj.bias") == bias);
    CHECK(folder.has("lm_head.weight"));
    CHECK(read_model_config(folder).tie_word_embeddings == false);
    CHECK(read_model_config(folder).attention_bias == true);
}

TEST_CASE("gguf: every block type is decoded by its definition") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto code = [&](int bits) { return int(random() >> (32 - bits)); };
    const auto scale = [&] {
        return quantplug::kernels::f32_to_f16(std::uniform_real_distribution<float>(-2, 2)(random));
    };
    for (const uint32_t type : {2u, 3u, 6u, 7u, 8u}) {
        CAPTURE(type);
        std::string blocks;
        std::vector<float> expected;
        for (int b = 0; b < 40; ++b) {
            const uint16_t d = scale(), m = scale();
            const float df = quantplug::kernels::f16_to_f32(d), mf = quantplug::kernels::f16_to_f32(m);
            const int bits = type <= 3 ? 4 : type <= 7 ? 5 : 8;
            int codes[32];
            for (int& c : codes) c = code(bits);
            blocks += bytes_of(d);
            if (type == 3 || type == 7) blocks += bytes_of(m);
            if (bits == 5) {
                uint32_t fifth = 0;
                for (int i = 0; i < 32; ++i) fifth |= uint32_t(codes[i] >> 4) << i;
                blocks += bytes_of(fifth);
            }
            if (bits < 8)
                for (int i = 0; i < 16; ++i) blocks += char((codes[i] & 15) | ((codes[i + 16] & 15) << 4));
            else
                for (const int c : codes) blocks += char(c - 128);
            for (const int c : codes) {
                const float minimum = float(double(c) * double(df));
                expected.push_back(type == 2   ? float(double(c - 8) * double(df))
                                   : type == 6 ? float(double(c - 16) * double(df))
                                   : type == 8 ? float(double(c - 128) * double(df))
                                               : minimum + mf);
            }
        }
        std::vector<float> out(expected.size(), NAN);
        gguf_decode(*gguf_type(type), as_span(blocks), out);
        CHECK(out == expected);
        CHECK_REFUSED(gguf_decode(*gguf_type(type), as_span(blocks).first(5), out), Code::internal,
                      gguf_type(type)->name);
    }
    const std::vector<uint16_t> stored{0x3c00, 0x0001, 0xc000};
    std::vector<float> out(3, NAN);
    gguf_decode(*gguf_type(1), as_span(bytes_of(stored)), out);
    CHECK(out == std::vector<float>{1.0f, 0x1p-24f, -2.0f});
    gguf_decode(*gguf_type(30), as_span(bytes_of(stored)), out);
    CHECK(out[2] == quantplug::kernels::bf16_to_f32(0xc000));
}

TEST_CASE("gguf: quantised matrices are decoded, permuted and rounded to FP16") {
    std::mt19937 random(fresh_seed());
    std::map<std::string, std::vector<float>> plain;
    GgufBuilder file = tiny_model(random, plain);
    // Q8_0 with scale 1: values are the codes, so that rows are told apart after the permutation.
    std::string blocks;
    for (int64_t h = 0; h < heads; ++h)
        for (int64_t t = 0; t < head_dim / 2; ++t)
            for (int64_t a = 0; a < 2; ++a)
                for (int b = 0; b < hidden / 32; ++b)
                    blocks += bytes_of(uint16_t{0x3c00}) + std::string(32, char(h * head_dim + a * head_dim / 2 + t));
    file.tensor("blk.0.attn_q.weight", 8, {heads * head_dim, hidden}, blocks);
    const auto imported = import(file, StoredType::f16);
    const ModelFolder folder = ModelFolder::open(imported->out());
    const auto q = folder.read_f32("model.layers.0.self_attn.q_proj.weight");
    for (size_t i = 0; i < q.size(); ++i) REQUIRE(q[i] == float(i / hidden));
    const auto down = folder.read_values<uint16_t>("model.layers.1.mlp.down_proj.weight");
    for (size_t i = 0; i < down.size(); ++i)
        REQUIRE(down[i] == quantplug::kernels::f32_to_f16(plain["model.layers.1.mlp.down_proj.weight"][i]));
    CHECK(read_model_config(folder).dtype == "float16");
}

TEST_CASE("gguf: rope scaling") {
    const auto scaling = [](GgufBuilder file) { return import(file)->json("config.json")["rope_scaling"]; };
    CHECK(scaling(tiny_model()).is_null());
    CHECK(scaling(tiny_model().text("llama.rope.scaling.type", "none")).is_null());
    const Json linear =
        scaling(tiny_model().text("llama.rope.scaling.type", "linear").real("llama.rope.scaling.factor", 4));
    CHECK(linear["rope_type"] == "linear");
    CHECK(linear["factor"] == 4.0);
    const Json yarn = scaling(tiny_model()
                                  .text("llama.rope.scaling.type", "yarn")
                                  .real("llama.rope.scaling.factor", 4)
                                  .number("llama.rope.scaling.original_context_length", 32));
    CHECK(yarn["rope_type"] == "yarn");
    CHECK(yarn["original_max_position_embeddings"] == 32);
    check_refused(tiny_model().text("llama.rope.scaling.type", "longrope").real("llama.rope.scaling.factor", 4),
                  Code::unimplemented, {"longrope"});

    // Llama 3.1's divisors, by the rule of its reference code.
    std::vector<float> factors;
    for (int t = 0; t < head_dim / 2; ++t) {
        const double wavelength = 2 * M_PI * std::pow(500000.0, 2.0 * t / head_dim);
        const double smooth = (8192 / wavelength - 1) / 3;
        factors.push_back(float(wavelength < 2048 ? 1 : wavelength > 8192 ? 8 : 1 / ((1 - smooth) / 8 + smooth)));
    }
    const Json llama3 = scaling(tiny_model().tensor("rope_freqs.weight", 0, {head_dim / 2}, bytes_of(factors)));
    CHECK(llama3["rope_type"] == "llama3");
    CHECK(llama3["factor"] == 8.0);
    CHECK(llama3["original_max_position_embeddings"] == 8192);
    factors[3] = 2;
    check_refused(tiny_model().tensor("rope_freqs.weight", 0, {head_dim / 2}, bytes_of(factors)), Code::unimplemented,
                  {"rope_freqs.weight", "index 3"});
    CHECK(scaling(tiny_model().tensor("rope_freqs.weight", 0, {8}, bytes_of(std::vector<float>(8, 1.0f)))).is_null());
}

TEST_CASE("gguf: what is not supported is refused by name") {
    const std::string block(144, '\0');
    check_refused(tiny_model().tensor("blk.0.ffn_up.weight", 12, {1, 256}, block), Code::unimplemented,
                  {"blk.0.ffn_up.weight", "Q4_K", "Q8_0"});
    check_refused(tiny_model().tensor("x", 99, {1, 256}, block), Code::unimplemented, {"type 99"});
    check_refused(tiny_model().text("general.architecture", "gemma2"), Code::unimplemented, {"gemma2"});
    check_refused(tiny_model().number("llama.expert_count", 8), Code::unimplemented, {"mixture of experts"});
    check_refused(tiny_model().number("split.count", 3), Code::unimplemented, {"3 parts"});
    check_refused(tiny_model().text("general.type", "adapter"), Code::unimplemented, {"adapter"});
    check_refused(tiny_model().tensor("blk.0.extra", 0, {1}, std::string(4, '\0')), Code::unimplemented,
                  {"blk.0.extra"});
    check_refused(tiny_model().number("llama.rope.dimension_count", 8), Code::unimplemented, {"rope.dimension_count"});
    check_refused(tiny_model().drop_tensor("blk.1.ffn_up.weight"), Code::not_found, {"blk.1.ffn_up.weight"});
    check_refused(tiny_model().drop_tensor("token_embd.weight"), Code::not_found, {"token_embd.weight"});
    check_refused(tiny_model().tensor("blk.1.attn_k.weight", 0, {hidden, kv_heads * head_dim},
                                      std::string(kv_heads * head_dim * hidden * 4, '\0')),
                  Code::invalid_argument, {"blk.1.attn_k.weight", "[64, 32]", "[32, 64]"});
    for (const char* key :
         {"llama.block_count", "llama.embedding_length", "llama.feed_forward_length", "llama.attention.head_count",
          "llama.context_length", "general.architecture", "llama.attention.layer_norm_rms_epsilon"})
        check_refused(tiny_model().drop(key), Code::invalid_argument, {key});
    for (const char* key :
         {"llama.block_count", "llama.embedding_length", "llama.feed_forward_length", "llama.attention.head_count"}) {
        check_refused(tiny_model().number(key, 0), Code::invalid_argument, {key});
        check_refused(tiny_model().number(key, 0xffffffff), Code::invalid_argument, {key});
        check_refused(tiny_model().text(key, "x"), Code::invalid_argument, {key});
    }
    check_refused(tiny_model().number("llama.block_count", 3), Code::not_found, {"blk.2.attn_norm.weight"});
    check_refused(tiny_model().real("llama.rope.freq_base", -1), Code::invalid_argument, {"rope.freq_base"});
    check_refused(tiny_model().real("llama.attention.layer_norm_rms_epsilon", NAN), Code::invalid_argument,
                  {"epsilon"});
    check_refused(tiny_model().list("llama.attention.head_count_kv", GgufBuilder::i32, std::vector<int32_t>{2, 4}),
                  Code::unimplemented, {"head_count_kv", "differs"});
    check_refused(tiny_model().number("general.alignment", 3), Code::invalid_argument, {"general.alignment"});
    check_refused(tiny_model().number("general.alignment", 0), Code::invalid_argument, {"general.alignment"});
}

TEST_CASE("gguf: damaged values and an F16 overflow name the tensor") {
    auto values = std::vector<float>(hidden, 1.0f);
    values[7] = NAN;
    CHECK_REFUSED(import(tiny_model().tensor("output_norm.weight", 0, {hidden}, bytes_of(values))), Code::data_loss,
                  "output_norm.weight", "value 7");
    values[7] = 70000;
    const GgufBuilder large = tiny_model().tensor("output_norm.weight", 0, {hidden}, bytes_of(values));
    CHECK_REFUSED(import(large, StoredType::f16), Code::data_loss, "output_norm.weight", "--dtype f32");
    CHECK_NOTHROW(import(large, StoredType::f32));
    CHECK_REFUSED(import(large, StoredType::bf16), Code::invalid_argument, "BF16");
}

TEST_CASE("gguf: a bad container is refused before anything is allocated") {
    const auto refused = [](const std::string& bytes, Code code, std::initializer_list<std::string_view> parts) {
        const Outcome outcome = outcome_of([&] { read_head(bytes); });
        INFO(outcome.message);
        CHECK(outcome.code == code);
        CHECK(outcome.mentions(parts));
    };
    const auto head = [](uint64_t tensors, uint64_t pairs, const std::string& rest, uint32_t version = 3) {
        return "GGUF" + bytes_of(version) + bytes_of(tensors) + bytes_of(pairs) + rest;
    };
    const std::string filler(256, '\0');
    refused("", Code::data_loss, {"empty"});
    refused("version https://git-lfs.github.com/spec/v1\n", Code::data_loss, {"Git-LFS"});
    refused("PK\3\4", Code::invalid_argument, {"no GGUF file"});
    refused(head(0, 0, filler, 1), Code::unimplemented, {"version 1"});
    refused(head(0, 0, filler, 0x03000000), Code::unimplemented, {"big-endian"});
    refused(head(~uint64_t{0}, 0, filler), Code::data_loss, {"18446744073709551615 tensors"});
    refused(head(9, 0, filler), Code::data_loss, {"9 tensors"});
    refused(head(0, 1 << 20, filler), Code::data_loss, {"1048576 metadata entries"});
    refused(head(0, 1, bytes_of(~uint64_t{0}) + filler), Code::data_loss, {"18446744073709551615"});
    refused(head(0, 1, gguf_string("k") + bytes_of(uint32_t{13}) + filler), Code::invalid_argument,
            {"\"k\"", "type 13"});
    refused(head(0, 1, gguf_string("k") + bytes_of(uint32_t{8}) + bytes_of(uint64_t{1} << 60) + filler),
            Code::data_loss, {"string"});
    const auto array = [&](uint32_t type, uint64_t count) {
        return head(0, 1, gguf_string("k") + bytes_of(uint32_t{9}) + bytes_of(type) + bytes_of(count) + filler);
    };
    refused(array(4, uint64_t{1} << 62), Code::data_loss, {"\"k\"", "4611686018427387904 entries"});
    refused(array(8, 100), Code::data_loss, {"\"k\"", "100 entries"});
    refused(array(9, 1), Code::invalid_argument, {"\"k\"", "lists in lists"});
    refused(array(77, 1), Code::invalid_argument, {"\"k\"", "type 77"});
    refused(
        head(0, 2, gguf_string("k") + bytes_of(uint32_t{7}) + "\1" + gguf_string("k") + bytes_of(uint32_t{7}) + "\1"),
        Code::invalid_argument, {"\"k\"", "twice"});
    const auto tensor = [&](uint32_t n, std::vector<uint64_t> dims, uint32_t type, uint64_t offset) {
        std::string bytes = gguf_string("t") + bytes_of(n);
        for (const uint64_t d : dims) bytes += bytes_of(d);
        return bytes + bytes_of(type) + bytes_of(offset);
    };
    refused(head(1, 0, tensor(5, {1, 1, 1, 1, 1}, 0, 0) + filler), Code::invalid_argument, {"\"t\"", "5 dimensions"});
    refused(head(1, 0, tensor(0, {}, 0, 0) + filler), Code::invalid_argument, {"\"t\"", "0 dimensions"});
    refused(head(1, 0, tensor(2, {uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0) + filler), Code::invalid_argument,
            {"\"t\"", "dimension"});
    refused(head(1, 0, tensor(1, {0}, 0, 0) + filler), Code::invalid_argument, {"\"t\"", "dimension"});
    refused(head(1, 0, tensor(1, {33}, 2, 0) + filler), Code::invalid_argument, {"\"t\"", "32 values"});
    refused(head(1, 0, tensor(1, {4}, 0, 16) + filler), Code::invalid_argument, {"\"t\"", "aligned"});
    refused(head(1, 0, tensor(1, {4}, 0, 320) + filler), Code::data_loss, {"\"t\"", "incomplete"});
    refused(head(1, 0, tensor(1, {4}, 0, ~uint64_t{31}) + filler), Code::invalid_argument, {"\"t\""});
    refused(head(1, 0, tensor(1, {uint64_t{1} << 40}, 0, 0) + filler), Code::data_loss, {"\"t\"", "incomplete"});
    refused(head(2, 0, tensor(1, {4}, 0, 0) + tensor(1, {4}, 0, 32) + filler), Code::invalid_argument,
            {"\"t\"", "twice"});
    std::string second = tensor(1, {4}, 0, 0);
    second[8] = 'u';
    refused(head(2, 0, tensor(1, {16}, 0, 0) + second + filler), Code::invalid_argument, {"\"t\"", "\"u\"", "overlap"});
}

TEST_CASE("gguf: truncations are refused, bit flips never crash") {
    const GgufBuilder file = tiny_model();
    const std::string head = file.head(), all = file.bytes();
    CHECK_NOTHROW(read_head(all));
    for (size_t length = 0; length < all.size(); length += length < head.size() ? 1 : 997) {
        CAPTURE(length);
        const Outcome outcome = outcome_of([&] { read_head(all.substr(0, length)); });
        REQUIRE(outcome.code);
        REQUIRE(outcome.mentions({"m.gguf"}));
    }
    std::mt19937 random(fresh_seed());
    std::string bad = all;
    for (size_t i = 0; i < head.size(); ++i) {
        const char flip = char(1 << (random() % 8));
        bad[i] = char(bad[i] ^ flip);
        const Outcome outcome = outcome_of([&] { read_head(bad); });
        CHECK((!outcome.code || outcome.mentions({"m.gguf"})));
        bad[i] = all[i];
    }
}

TEST_CASE("gguf: a cancelled or failed import leaves nothing") {
    const TempDir dir;
    const GgufBuilder file = tiny_model();
    write_file(dir.path() / "m.gguf", file.bytes());
    int calls = 0;
    double last = -1;
    import_gguf(dir.path() / "m.gguf", dir.path() / "whole",
                {.type = StoredType::f16, .progress = [&](double fraction, const std::string& what) {
                     CHECK(fraction >= last);
                     CHECK_FALSE(what.empty());
                     last = fraction;
                     ++calls;
                     return true;
                 }});
    CHECK(last == 1);
    CHECK(calls > 20);
    for (int stop = 0; stop < calls; ++stop) {
        int call = 0;
        CHECK_REFUSED(import_gguf(dir.path() / "m.gguf", dir.path() / "out",
                                  {.type = StoredType::f16,
                                   .progress = [&](double, const std::string&) { return call++ < stop; }}),
                      Code::cancelled, "m.gguf");
        CHECK(std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()) == 2);
    }
    CHECK_REFUSED(import_gguf(dir.path() / "m.gguf", dir.path() / "whole"), Code::already_exists, "whole");
    CHECK_REFUSED(import_gguf(dir.path() / "none.gguf", dir.path() / "out"), Code::not_found, "none.gguf");
    CHECK_REFUSED(import_gguf(dir.path(), dir.path() / "out"), Code::invalid_argument, "folder");
}
