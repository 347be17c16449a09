// What GPTQ folders vary in beside the golden files: types of scales, g_idx absent or negative, groups without rows,
// odd sizes, `dynamic`.
#include <doctest/doctest.h>

#include <random>

#include "engine/tools/code_bits.h"
#include "gptq_backend/gptq_format.h"
#include "kernels/half.h"
#include "tests/gptq_backend/support.h"

namespace quantplug::test {
namespace {

using engine::StoredType;

kernels::QuantSource open_tensors(const Tensors& tensors, int32_t k, int32_t n, const std::string& config) {
    const TempDir dir;
    write_tensor_file(dir.path() / "model.safetensors", tensors);
    write_file(dir.path() / "config.json", R"({"quantization_config": )" + config + "}");
    const auto format = gptq::make_format();
    const auto folder = engine::ModelFolder::open(dir.path());
    auto source = format->open(folder, "m", k, n);
    CHECK(kernels::validate(source).message == "");
    CHECK(same_shape(source.shape(), format->describe(folder, "m", k, n).shape));
    const auto modules = format->modules(folder);
    REQUIRE(modules.size() == 1);
    CHECK(modules[0].out_features == n);
    return source;
}

/// A random matrix and its tensors, packed by the description's formula.
struct Random {
    int32_t k, n, bits, n_groups;
    std::vector<uint8_t> codes, zeros;  // (K, N), (G, N)
    std::vector<uint16_t> scales;       // (G, N)
    std::vector<int32_t> g_idx;
    Tensors tensors;

    Random(std::mt19937& random, int32_t k_, int32_t n_, int32_t bits_, int32_t group_size)
        : k(k_), n(n_), bits(bits_), n_groups((k_ + group_size - 1) / group_size) {
        for (int32_t i = 0; i < k * n; ++i) codes.push_back(uint8_t(random() % (1u << bits)));
        for (int32_t i = 0; i < n_groups * n; ++i) {
            zeros.push_back(uint8_t(random() % (1u << bits)));
            scales.push_back(kernels::f32_to_f16(0.001f + float(random() % 1000) * 1e-5f));
        }
        for (int32_t i = 0; i < k; ++i) g_idx.push_back(i / group_size);
        const int64_t rows = (int64_t(k) * bits + 31) / 32, words = (int64_t(n) * bits + 31) / 32;
        std::vector<uint32_t> qweight(size_t(rows * n)), qzeros(size_t(n_groups * words));
        const auto put = [&](std::vector<uint32_t>& to, int64_t stride, int64_t column, int64_t index, uint32_t code) {
            for (int32_t b = 0; b < bits; ++b) {
                const int64_t bit = index * bits + b;
                to[size_t(bit / 32 * stride + column)] |= ((code >> b) & 1u) << (bit % 32);
            }
        };
        for (int32_t row = 0; row < k; ++row)
            for (int32_t column = 0; column < n; ++column)
                put(qweight, n, column, row, codes[size_t(row * n + column)]);
        std::vector<uint32_t> line;
        for (int32_t g = 0; g < n_groups; ++g) {
            line.assign(size_t(words), 0);
            for (int32_t column = 0; column < n; ++column) put(line, 1, 0, column, zeros[size_t(g * n + column)]);
            std::copy(line.begin(), line.end(), qzeros.begin() + g * words);
        }
        tensors["m.qweight"] = make_tensor(StoredType::i32, {rows, n}, qweight);
        tensors["m.qzeros"] = make_tensor(StoredType::i32, {n_groups, words}, qzeros);
        tensors["m.scales"] = make_tensor(StoredType::f16, {n_groups, n}, scales);
        set_g_idx();
    }
    void set_g_idx() { tensors["m.g_idx"] = make_tensor(StoredType::i32, {k}, g_idx); }

    std::vector<uint16_t> expected() const {
        std::vector<uint16_t> out;
        for (int32_t row = 0; row < k; ++row)
            for (int32_t column = 0; column < n; ++column) {
                const size_t at = size_t((g_idx[size_t(row)] + n_groups) % n_groups * n + column);
                out.push_back(
                    kernels::f32_to_f16(kernels::f16_to_f32(scales[at]) *
                                        float(int32_t(codes[size_t(row * n + column)]) - int32_t(zeros[at]))));
            }
        return out;
    }
};

TEST_CASE("random matrices of odd sizes, every normal width") {
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    for (const int32_t bits : {2, 3, 4, 8})
        for (const std::array<int32_t, 3>& size :
             {std::array{32, 32, 32}, {50, 17, 16}, {100, 40, 64}, {33, 5, 128}, {576, 32, 128}}) {
            const int32_t k = size[0], n = size[1], group = size[2];
            CAPTURE(bits);
            CAPTURE(k);
            const Random matrix(random, k, n, bits, group);
            const std::string config = R"({"bits": )" + std::to_string(bits) + R"(, "group_size": )" +
                                       std::to_string(group) + R"(, "checkpoint_format": "gptq_v2"})";
            CHECK(first_difference(decode_original(open_tensors(matrix.tensors, k, n, config)), matrix.expected()) ==
                  -1);
            Tensors without = matrix.tensors;
            without.erase("m.g_idx");
            if (k % 32 == 0)
                CHECK(first_difference(decode_original(open_tensors(without, k, n, config)), matrix.expected()) == -1);
        }
}

TEST_CASE("g_idx: any groups, negative values, groups without rows, all zero") {
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    const char* config = R"({"bits": 4, "group_size": 32, "format": "gptq_v2"})";
    Random matrix(random, 128, 32, 4, 32);
    for (int32_t& group : matrix.g_idx) group = int32_t(random() % 4);
    matrix.set_g_idx();
    auto source = open_tensors(matrix.tensors, 128, 32, config);
    CHECK(!source.perm.empty());
    CHECK(first_difference(decode_original(source), matrix.expected()) == -1);

    for (int32_t& group : matrix.g_idx) group = group == 2 ? -2 : group;  // the same groups
    matrix.set_g_idx();
    CHECK(first_difference(decode_original(open_tensors(matrix.tensors, 128, 32, config)), matrix.expected()) == -1);

    for (int32_t& group : matrix.g_idx) group = 1 + int32_t(random() % 2);  // groups 0 and 3 have no rows
    matrix.set_g_idx();
    source = open_tensors(matrix.tensors, 128, 32, config);
    CHECK(source.groups.size() == 2);
    CHECK(source.scales.size() == 64);
    CHECK(first_difference(decode_original(source), matrix.expected()) == -1);

    for (int32_t i = 0; i < 128; ++i) matrix.g_idx[size_t(i)] = i / 32;
    const auto in_order = matrix.expected();
    matrix.g_idx.assign(128, 0);
    matrix.set_g_idx();
    source = open_tensors(matrix.tensors, 128, 32, config);
    CHECK(source.perm.empty());
    CHECK(first_difference(decode_original(source), in_order) == -1);
}

TEST_CASE("scales and biases of FP32 and BF16 are rounded to FP16; an all-zero bias is none") {
    std::mt19937 random(7);
    const char* config = R"({"bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"})";
    Random matrix(random, 64, 32, 4, 32);
    std::vector<float> wide(64);
    for (float& scale : wide) scale = 1e-3f + 1e-6f * float(random() % 1000);
    std::vector<uint16_t> narrow(64);
    for (size_t i = 0; i < 64; ++i) matrix.scales[i] = kernels::f32_to_f16(wide[i]);
    matrix.tensors["m.scales"] = make_tensor(StoredType::f32, {2, 32}, wide);
    matrix.tensors["m.bias"] = make_tensor(StoredType::f32, {32}, std::vector<float>(32, 0.0f));
    auto source = open_tensors(matrix.tensors, 64, 32, config);
    CHECK(source.bias.empty());
    CHECK(first_difference(decode_original(source), matrix.expected()) == -1);

    for (size_t i = 0; i < 64; ++i) {
        narrow[i] = kernels::f32_to_bf16(wide[i]);
        matrix.scales[i] = kernels::f32_to_f16(kernels::bf16_to_f32(narrow[i]));
    }
    matrix.tensors["m.scales"] = make_tensor(StoredType::bf16, {2, 32}, narrow);
    std::vector<uint16_t> bias(32, 0x3f80);  // BF16 1.0
    matrix.tensors["m.bias"] = make_tensor(StoredType::bf16, {32}, bias);
    source = open_tensors(matrix.tensors, 64, 32, config);
    CHECK(source.bias == std::vector<float>(32, 1.0f));
    CHECK(first_difference(decode_original(source), matrix.expected()) == -1);
}

TEST_CASE("shapes beat the configuration; without g_idx the group size comes from `dynamic` or the shapes") {
    std::mt19937 random(11);
    Random matrix(random, 192, 32, 8, 64);
    const char* dynamic =
        R"({"bits": 4, "group_size": 128, "checkpoint_format": "gptq_v2", "dynamic": {"-:.*down.*": {}, "+:.*gate.*": {"bits": 8, "group_size": 64}}})";
    CHECK(first_difference(decode_original(open_tensors(matrix.tensors, 192, 32, dynamic)), matrix.expected()) == -1);
    CHECK(first_difference(
              decode_original(open_tensors(matrix.tensors, 192, 32, R"({"bits": 4, "checkpoint_format": "gptq_v2"})")),
              matrix.expected()) == -1);
    matrix.tensors.erase("m.g_idx");
    CHECK(first_difference(decode_original(open_tensors(matrix.tensors, 192, 32, dynamic)), matrix.expected()) == -1);
}

TEST_CASE("symmetric zero points are not stored again, whatever the encoding") {
    std::mt19937 random(13);
    for (const int32_t bits : {2, 3, 4, 8})
        for (const bool v2 : {false, true}) {
            CAPTURE(bits);
            Random matrix(random, 64, 32, bits, 32);
            std::fill(matrix.zeros.begin(), matrix.zeros.end(), uint8_t(1 << (bits - 1)));
            std::vector<uint32_t> words(size_t(2 * bits));
            for (int64_t g = 0; g < 2; ++g)
                for (int64_t column = 0; column < 32; ++column)
                    engine::put_code(engine::stream_bits(bits, column), uint32_t((1 << (bits - 1)) - (v2 ? 0 : 1)),
                                     words.data() + g * bits);
            matrix.tensors["m.qzeros"] = make_tensor(StoredType::i32, {2, bits}, words);
            for (const char* producer : {"", R"(, "meta": {"quantizer": ["gptqmodel:7.3.4"]})"}) {
                const std::string config = R"({"bits": )" + std::to_string(bits) +
                                           R"(, "group_size": 32, "checkpoint_format": ")" + (v2 ? "gptq_v2" : "gptq") +
                                           "\"" + producer + "}";
                const auto source = open_tensors(matrix.tensors, 64, 32, config);
                CHECK(source.zeros.empty());
                CHECK(first_difference(decode_original(source), matrix.expected()) == -1);
            }
        }
}

}  // namespace
}  // namespace quantplug::test
