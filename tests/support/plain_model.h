// A plain model folder with random weights: two layers, names of Llama.
#pragma once

#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "kernels/half.h"
#include "tests/support/data.h"
#include "tests/support/tensor_files.h"

namespace quantplug::test {

/// (N, K) values after rounding to the stored type.
struct Matrix32 {
    int32_t k = 0, n = 0;
    std::vector<float> values;
    float at(int32_t row, int32_t column) const { return values[size_t(column) * size_t(k) + size_t(row)]; }
};

inline std::string read_text(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

/// Root mean square of the error over that of the weights; decoded (K, N) FP16 bits.
inline double relative_error(const Matrix32& weight, const std::vector<uint16_t>& decoded) {
    double error = 0, size = 0;
    for (int32_t row = 0; row < weight.k; ++row)
        for (int32_t column = 0; column < weight.n; ++column) {
            const double w = double(weight.at(row, column));
            const double d = double(kernels::f16_to_f32(decoded[size_t(row) * size_t(weight.n) + size_t(column)]));
            error += (w - d) * (w - d);
            size += w * w;
        }
    return std::sqrt(error / size);
}

class PlainModel {
 public:
    static constexpr int32_t hidden = 160, intermediate = 224, kv = 32, vocabulary = 70;

    PlainModel(uint32_t seed, engine::StoredType type, bool tied) : random_(seed), type_(type) {
        add("model.embed_tokens", hidden, vocabulary, 0.02f);
        if (!tied) add("lm_head", hidden, vocabulary, 0.02f);
        for (int layer = 0; layer < 2; ++layer) {
            const std::string at = "model.layers." + std::to_string(layer) + ".";
            add_projection(at + "self_attn.q_proj", hidden, hidden);
            add_projection(at + "self_attn.k_proj", hidden, kv);
            add_projection(at + "self_attn.v_proj", hidden, kv);
            add_projection(at + "self_attn.o_proj", hidden, hidden);
            add_projection(at + "mlp.gate_proj", hidden, intermediate);
            add_projection(at + "mlp.up_proj", hidden, intermediate);
            add_projection(at + "mlp.down_proj", intermediate, hidden);
            add("model.layers." + std::to_string(layer) + ".mlp.gate", hidden, 4, 0.02f);  // a router: stays plain
            add_norm(at + "input_layernorm");
            add_norm(at + "post_attention_layernorm");
        }
        std::vector<uint16_t> bias;
        for (int i = 0; i < hidden; ++i) bias.push_back(kernels::f32_to_f16(float(i + 1)));
        tensors_["model.layers.0.self_attn.q_proj.bias"] = make_tensor(engine::StoredType::f16, {hidden}, bias);
        add_norm("model.norm");
        write_tensor_file(dir_.path() / "model.safetensors", tensors_);
        write_file(
            dir_.path() / "config.json",
            R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 160, "vocab_size": 70, "num_hidden_layers": 2, "num_attention_heads": 5, "num_key_value_heads": 1, "intermediate_size": 224, "tie_word_embeddings": )" +
                std::string(tied ? "true" : "false") + R"(, "torch_dtype": "float32"})");
        write_file(dir_.path() / "tokenizer.json", "{}");
    }

    const std::filesystem::path& path() const { return dir_.path(); }
    const std::vector<std::string>& matrices() const { return projections_; }  // of the decoder
    const Matrix32& matrix(const std::string& name) const { return weights_.at(name); }

 private:
    void add_projection(const std::string& name, int32_t k, int32_t n) {
        projections_.push_back(name);
        add(name, k, n, 0.05f);
    }
    void add(const std::string& name, int32_t k, int32_t n, float spread) {
        std::normal_distribution<float> normal(0.0f, spread);
        Matrix32 matrix{k, n, std::vector<float>(size_t(k) * size_t(n))};
        std::vector<uint16_t> bits;
        const bool half = type_ == engine::StoredType::f16;
        for (float& value : matrix.values) {
            value = normal(random_);
            if (random_() % 500 == 0) value *= 8.0f;
            if (type_ == engine::StoredType::f32) continue;
            bits.push_back(half ? kernels::f32_to_f16(value) : kernels::f32_to_bf16(value));
            value = half ? kernels::f16_to_f32(bits.back()) : kernels::bf16_to_f32(bits.back());
        }
        tensors_[name + ".weight"] = type_ == engine::StoredType::f32 ? make_tensor(type_, {n, k}, matrix.values)
                                                                      : make_tensor(type_, {n, k}, bits);
        weights_[name] = std::move(matrix);
    }
    void add_norm(const std::string& name) {
        std::vector<float> values(hidden);
        for (float& value : values) value = 1.0f + float(random_() % 100) * 0.001f;
        tensors_[name + ".weight"] = make_tensor(engine::StoredType::f32, {hidden}, values);
    }

    std::mt19937 random_;
    engine::StoredType type_;
    TempDir dir_;
    Tensors tensors_;
    std::map<std::string, Matrix32> weights_;
    std::vector<std::string> projections_;
};

}  // namespace quantplug::test
