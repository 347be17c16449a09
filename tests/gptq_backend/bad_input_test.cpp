// Whatever is wrong with a GPTQ matrix is refused with a sentence that names the tensor or the key.
#include <doctest/doctest.h>

#include <random>

#include "engine/base/error.h"
#include "gptq_backend/gptq_format.h"
#include "kernels/half.h"
#include "tests/gptq_backend/support.h"
#include "tests/support/refusal.h"

namespace quantplug::test {
namespace {

using engine::StoredType;

constexpr const char* plain_config = R"({"bits": 4, "group_size": 128, "quant_method": "gptq"})";

// K 256, N 64, 4 bits, groups of 128, rows reordered.
Tensors good() { return as_module(read_tensor_file(data_dir() / "goldens" / "gptq_w4_g128_sym_act.safetensors"), "m"); }

std::string with(const std::function<void(Tensors&)>& change, int32_t k = 256, int32_t n = 64,
                 const std::string& config = plain_config) {
    Tensors tensors = good();
    change(tensors);
    return refusal(*gptq::make_format(), tensors, k, n, config);
}

void check_names(const std::string& message, const std::string& part) {
    CAPTURE(message);
    CHECK(message.find(part) != std::string::npos);
    CHECK(message.find("not an engine::Error") == std::string::npos);
}

void set(Tensors& tensors, const char* name, size_t at, auto value) {
    std::memcpy(tensors[name].bytes.data() + at * sizeof(value), &value, sizeof(value));
}

TEST_CASE("the unchanged matrix is accepted") {
    CHECK(with([](Tensors&) {}) == "");
}

TEST_CASE("every tensor missing, of another type, of another shape") {
    for (const char* name : {"m.qweight", "m.qzeros", "m.scales", "m.g_idx"}) {
        CAPTURE(name);
        if (std::string(name) != "m.g_idx") check_names(with([&](Tensors& t) { t.erase(name); }), name);
        for (const StoredType type : {StoredType::u8, StoredType::i64, StoredType::u32, StoredType::f64})
            check_names(with([&](Tensors& t) { t[name] = retyped(t[name], type); }), name);
        check_names(with([&](Tensors& t) { t[name] = reshaped(t[name], {}); }), name);
        check_names(with([&](Tensors& t) { t[name] = reshaped(t[name], {0}); }), name);
        check_names(with([&](Tensors& t) { t[name] = reshaped(t[name], {1, 1, 1}); }), name);
    }
    check_names(with([](Tensors& t) { t["m.qweight"] = reshaped(t["m.qweight"], {31, 64}); }), "m.qweight");
    check_names(with([](Tensors& t) { t["m.qweight"] = reshaped(t["m.qweight"], {0, 64}); }), "m.qweight");
    check_names(with([](Tensors& t) { t["m.qweight"] = reshaped(t["m.qweight"], {72, 64}); }), "m.qweight");
    check_names(with([](Tensors& t) { t["m.qweight"] = reshaped(t["m.qweight"], {32, 32}); }), "m.qweight");
    check_names(with([](Tensors& t) {
                    t["m.qweight"] = reshaped(t["m.qweight"], {40, 64});
                }),
                "m.qzeros");  // 5 bits, zero points of 4
    check_names(with([](Tensors& t) { t["m.qzeros"] = reshaped(t["m.qzeros"], {3, 8}); }), "m.qzeros");
    check_names(with([](Tensors& t) { t["m.qzeros"] = reshaped(t["m.qzeros"], {2, 7}); }), "m.qzeros");
    check_names(with([](Tensors& t) { t["m.scales"] = reshaped(t["m.scales"], {0, 64}); }), "m.scales");
    check_names(with([](Tensors& t) { t["m.scales"] = reshaped(t["m.scales"], {257, 64}); }), "m.scales");
    check_names(with([](Tensors& t) { t["m.scales"] = reshaped(t["m.scales"], {2, 63}); }), "m.scales");
    check_names(with([](Tensors& t) { t["m.g_idx"] = reshaped(t["m.g_idx"], {255}); }), "m.g_idx");
    check_names(with([](Tensors& t) { t["m.bias"] = make_tensor(StoredType::f16, {63}, std::vector<uint16_t>(63)); }),
                "m.bias");
}

TEST_CASE("other sizes than the architecture's") {
    check_names(with([](Tensors&) {}, 512, 64), "m.");
    check_names(with([](Tensors&) {}, 255, 64), "m.");
    check_names(with([](Tensors&) {}, 256, 96), "m.qweight");
    check_names(with([](Tensors&) {}, 0, 64), "m");
    check_names(with([](Tensors&) {}, 256, 0), "m");
    check_names(with([](Tensors&) {}, INT32_MAX, INT32_MAX), "m.qweight");
    // Without g_idx a wrong number of inputs would look like another width.
    const auto without = [](Tensors& t) { t.erase("m.g_idx"); };
    CHECK(with(without) == "");
    check_names(with(without, 512, 64), "m.qweight");
}

TEST_CASE("values: groups out of range, scales that are no numbers") {
    for (const int32_t value : {2, -3, INT32_MAX, INT32_MIN})
        check_names(with([&](Tensors& t) { set(t, "m.g_idx", 9, value); }), "m.g_idx");
    for (const uint16_t value : {0x7e00, 0x7c00, 0xfc00})
        check_names(with([&](Tensors& t) { set(t, "m.scales", 70, value); }), "m.scales");
    check_names(with([](Tensors& t) {
                    t["m.scales"] = retyped(t["m.scales"], StoredType::f32);
                    std::fill(t["m.scales"].bytes.begin(), t["m.scales"].bytes.end(), std::byte{});
                    set(t, "m.scales", 3, 70000.0f);
                }),
                "m.scales");
    check_names(with([](Tensors& t) {
                    t["m.bias"] = make_tensor(StoredType::f16, {64}, std::vector<uint16_t>(64));
                    set(t, "m.bias", 3, uint16_t(0x7e00));
                }),
                "m.bias");
}

TEST_CASE("random g_idx and shapes are refused or decode within bounds") {
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto format = gptq::make_format();
    for (int round = 0; round < 200; ++round) {
        Tensors tensors = good();
        auto groups = tensors["m.g_idx"].values<int32_t>();
        for (int changes = int(random() % 4); changes >= 0; --changes)
            groups[random() % groups.size()] = int32_t(random() % 6) - 3;
        tensors["m.g_idx"] = make_tensor(StoredType::i32, {256}, groups);
        const int64_t rows[] = {16, 24, 32, 40, 48, 56, 64, 33};
        tensors["m.qweight"] = reshaped(tensors["m.qweight"], {rows[random() % 8], 64});
        tensors["m.qzeros"] = reshaped(tensors["m.qzeros"], {int64_t(random() % 3) + 1, rows[random() % 8] / 4});
        const TempDir dir;
        write_tensor_file(dir.path() / "model.safetensors", tensors);
        write_file(dir.path() / "quantize_config.json", plain_config);
        const auto folder = engine::ModelFolder::open(dir.path());
        try {
            const auto source = format->open(folder, "m", 256, 64);
            CHECK(kernels::validate(source).message == "");
            CHECK(decode_original(source).size() == 256 * 64);
        } catch (const engine::Error& error) {
            check_names(error.what(), "tensor");
        }
    }
}

TEST_CASE("configurations of other packings are declined by key and value") {
    const auto format = gptq::make_format();
    const auto reason = [&](const std::string& config) {
        const TempDir dir;
        write_tensor_file(dir.path() / "model.safetensors", good());
        write_file(dir.path() / "quantize_config.json", config);
        const auto probe = format->probe(engine::ModelFolder::open(dir.path()));
        CHECK(probe.score == (probe.reason.empty() ? 90 : 0));
        return probe.reason;
    };
    check_names(reason(R"({"quant_method": "awq"})"), "awq");
    check_names(reason(R"({"quant_method": "marlin"})"), "marlin");
    check_names(reason(R"({"checkpoint_format": "marlin"})"), "marlin");
    check_names(reason(R"({"checkpoint_format": "bitblas"})"), "bitblas");
    check_names(reason(R"({"checkpoint_format": "qqq"})"), "qqq");
    check_names(reason(R"({"is_marlin_format": true})"), "arlin");
    check_names(reason(R"({"pack_dtype": "int64"})"), "int64");
    check_names(reason(R"({"bits": 16})"), "16");
    check_names(reason(R"({"bits": "four"})"), "bits");
    check_names(reason(R"({"group_size": -7})"), "-7");
    check_names(reason(R"({"quant_method": "auto-round", "packing_format": "auto_round:awq"})"), "awq");
    check_names(reason(R"({"quant_method": "auto-round", "packing_format": "auto_round:gptq"})"), "gptq");
    CHECK(reason(R"({"quant_method": "intel/auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4})") == "");
    CHECK(reason(R"({"bits": 4, "checkpoint_format": null, "sym": null, "dynamic": false, "unknown": [1]})") == "");
    CHECK(reason("{}") == "");
}

TEST_CASE("probe: what is not GPTQ") {
    const auto format = gptq::make_format();
    const auto reason = [&](const Tensors& tensors) {
        const TempDir dir;
        write_tensor_file(dir.path() / "model.safetensors", tensors);
        const auto probe = format->probe(engine::ModelFolder::open(dir.path()));
        CHECK(probe.score == 0);
        return probe.reason;
    };
    const Tensor half = make_tensor(StoredType::f16, {2, 2}, std::vector<uint16_t>(4));
    const Tensor words = make_tensor(StoredType::i32, {2, 2}, std::vector<int32_t>(4));
    check_names(reason({{"a.weight", half}}), "the exl2 backend loads plain folders");
    check_names(reason({{"a.q_weight", words}}), "exl2");
    Tensors awq = good();
    awq["m.qweight"] = reshaped(awq["m.qweight"], {256, 8});
    check_names(reason(awq), "AWQ");
    awq.erase("m.g_idx");
    check_names(reason(awq), "AWQ");
}

}  // namespace
}  // namespace quantplug::test
