// Whatever is wrong with an EXL2 matrix is refused with a sentence that names the tensor.
#include <doctest/doctest.h>

#include <random>

#include "engine/base/error.h"
#include "exl2_backend/exl2_format.h"
#include "tests/exl2_backend/support.h"
#include "tests/support/refusal.h"

namespace quantplug::test {
namespace {

using engine::StoredType;

// K 128, N 128 stored of 100; groups 4: 32, 3: 3 x 32; starts 0, 4, 7, 10; 13 word rows.
Tensors good() { return as_module(read_tensor_file(data_dir() / "goldens" / "exl2_w43_pad.safetensors"), "m"); }

std::string with(const std::function<void(Tensors&)>& change, int32_t k = 128, int32_t n = 100) {
    Tensors tensors = good();
    change(tensors);
    return refusal(*exl2::make_format(), tensors, k, n);
}

std::string with_groups(const std::vector<uint16_t>& table) {
    return with([&](Tensors& tensors) {
        tensors["m.q_groups"] = make_tensor(StoredType::i16, {int64_t(table.size())}, table);
    });
}

void check_names(const std::string& message, const std::string& part) {
    CAPTURE(message);
    CHECK(message.find(part) != std::string::npos);
    CHECK(message.find("not an engine::Error") == std::string::npos);
}

TEST_CASE("the unchanged matrix is accepted") {
    CHECK(with([](Tensors&) {}) == "");
}

TEST_CASE("group tables that make no sense") {
    for (const std::vector<uint16_t>& table : std::vector<std::vector<uint16_t>>{
             {},
             {4},
             {4, 0, 3, 4, 3},
             {7, 0, 3, 4, 3, 7, 3, 10},  // no 7 bits
             {1, 0, 3, 4, 3, 7, 3, 10},
             {9, 0, 3, 4, 3, 7, 3, 10},
             {0, 0, 3, 4, 3, 7, 3, 10},
             {65535, 0, 3, 4, 3, 7, 3, 10},
             {3, 0, 4, 3, 3, 7, 3, 10},  // rising width
             {4, 1, 3, 4, 3, 7, 3, 10},  // does not start at 0
             {4, 0, 3, 4, 3, 4, 3, 10},  // start does not rise
             {4, 0, 3, 7, 3, 4, 3, 10},
             {4, 0, 3, 4, 3, 7, 3, 13},     // starts at the end
             {4, 0, 3, 4, 3, 7, 3, 65535},  // starts beyond the end
             {4, 0, 3, 4, 3, 8, 3, 10},     // words that no number of rows fills
             {4, 0, 3, 5, 3, 8, 3, 11},
             {4, 0, 4, 4, 3, 8},  // does not add up
             {8, 0, 8, 12},
             {2, 0, 2, 1},
         })
        check_names(with_groups(table), "m.q_groups");
}

TEST_CASE("a group too many or too few beside good scales") {
    check_names(with_groups({4, 0, 3, 4}), "m.q_scale");  // one long last group: the table is good, the scales are not
    check_names(with([](Tensors& t) { t["m.q_scale_max"] = reshaped(t["m.q_scale_max"], {5}); }), "m.q_scale_max");
}

TEST_CASE("every tensor missing, of another type, of another shape") {
    for (const char* name : {"m.q_weight", "m.q_groups", "m.q_scale", "m.q_scale_max", "m.q_invperm"}) {
        CAPTURE(name);
        check_names(with([&](Tensors& t) { t.erase(name); }), name);
        for (const StoredType type : {StoredType::f32, StoredType::u8, StoredType::i64, StoredType::bf16})
            check_names(with([&](Tensors& t) { t[name] = retyped(t[name], type); }), name);
        check_names(with([&](Tensors& t) { t[name] = reshaped(t[name], {}); }), name);
        check_names(with([&](Tensors& t) { t[name] = reshaped(t[name], {0}); }), name);
        check_names(with([&](Tensors& t) { t[name] = reshaped(t[name], {1, 1, 1}); }), name);
    }
    check_names(with([](Tensors& t) { t["m.q_weight"] = reshaped(t["m.q_weight"], {13, 127}); }), "m.q_weight");
    check_names(with([](Tensors& t) { t["m.q_weight"] = reshaped(t["m.q_weight"], {13, 96}); }), "m.q_weight");
    check_names(with([](Tensors& t) { t["m.q_weight"] = reshaped(t["m.q_weight"], {12, 128}); }), "m.q_groups");
    check_names(with([](Tensors& t) { t["m.q_weight"] = reshaped(t["m.q_weight"], {14, 128}); }), "m.q_groups");
    check_names(with([](Tensors& t) { t["m.q_weight"] = reshaped(t["m.q_weight"], {13, 0}); }), "m.q_weight");
    check_names(with([](Tensors& t) { t["m.q_scale"] = reshaped(t["m.q_scale"], {4, 15}); }), "m.q_scale");
    check_names(with([](Tensors& t) { t["m.q_invperm"] = reshaped(t["m.q_invperm"], {127}); }), "m.q_invperm");
    check_names(with([](Tensors& t) { t["m.bias"] = make_tensor(StoredType::f16, {100}, std::vector<uint16_t>(100)); }),
                "m.bias");
    check_names(with([](Tensors& t) { t["m.bias"] = make_tensor(StoredType::i32, {128}, std::vector<int32_t>(128)); }),
                "m.bias");
}

TEST_CASE("other sizes than the architecture's") {
    check_names(with([](Tensors&) {}, 160, 100), "m.q_");
    check_names(with([](Tensors&) {}, 96, 100), "m.q_");
    check_names(with([](Tensors&) {}, 128, 129), "m.q_weight");
    check_names(with([](Tensors&) {}, 0, 100), "m");
    check_names(with([](Tensors&) {}, 128, -1), "m");
    check_names(with([](Tensors&) {}, INT32_MAX, 100), "m.q_");
}

TEST_CASE("values: a row order that is none, scales and biases that are no numbers") {
    const auto set = [](Tensors& tensors, const char* name, size_t at, auto value) {
        std::memcpy(tensors[name].bytes.data() + at * sizeof(value), &value, sizeof(value));
    };
    for (const int32_t value : {-1, 128, INT32_MIN, INT32_MAX})
        check_names(with([&](Tensors& t) { set(t, "m.q_invperm", 5, value); }), "m.q_invperm");
    check_names(with([&](Tensors& t) { set(t, "m.q_invperm", 5, t["m.q_invperm"].values<int32_t>()[6]); }),
                "m.q_invperm");
    for (const uint16_t value : {0x7e00, 0x7c00, 0xfc00, 0x7c01})
        check_names(with([&](Tensors& t) { set(t, "m.q_scale_max", 2, value); }), "m.q_scale_max");
    check_names(with([&](Tensors& t) {
                    t["m.bias"] = make_tensor(StoredType::f16, {128}, std::vector<uint16_t>(128));
                    set(t, "m.bias", 7, uint16_t(0x7e00));
                }),
                "m.bias");
}

TEST_CASE("random group tables are refused or decode within bounds") {
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto format = exl2::make_format();
    int accepted = 0;
    for (int round = 0; round < 300; ++round) {
        std::vector<uint16_t> table{4, 0, 3, 4, 3, 7, 3, 10};
        for (int changes = int(random() % 3) + 1; changes > 0; --changes) {
            const size_t at = random() % table.size();
            table[at] = at % 2 == 0 ? uint16_t(random() % 10) : uint16_t(random() % 16);
        }
        Tensors tensors = good();
        tensors["m.q_groups"] = make_tensor(StoredType::i16, {8}, table);
        const TempDir dir;
        write_tensor_file(dir.path() / "output.safetensors", tensors);
        const auto folder = engine::ModelFolder::open(dir.path());
        try {
            const auto source = format->open(folder, "m", 128, 100);
            CHECK(kernels::validate(source).message == "");
            CHECK(decode_original(source).size() == 12800);
            ++accepted;
        } catch (const engine::Error& error) {
            check_names(error.what(), "m.q_groups");
        }
    }
    MESSAGE("accepted " << accepted << " of 300");
    CHECK(accepted < 300);
}

TEST_CASE("a truncated file is refused at any length, and so are weights cut off after it was opened") {
    const auto format = exl2::make_format();
    const TempDir dir;
    const auto path = dir.path() / "output.safetensors";
    write_tensor_file(path, good());
    const auto folder = engine::ModelFolder::open(dir.path());
    const uint64_t size = std::filesystem::file_size(path);
    for (const uint64_t left : {size - 1, size - 100, size / 2, uint64_t{9}, uint64_t{7}, uint64_t{0}}) {
        std::filesystem::resize_file(path, left);
        CHECK_THROWS_WITH_AS(engine::ModelFolder::open(dir.path()), doctest::Contains("output.safetensors"),
                             engine::Error);
        CHECK_THROWS_WITH_AS(format->open(folder, "m", 128, 100), doctest::Contains("output.safetensors"),
                             engine::Error);
    }
}

TEST_CASE("probe: EXL2, plain, and what is declined by name") {
    const auto format = exl2::make_format();
    const auto probe = [&](const Tensors& tensors, const std::string& config) {
        const TempDir dir;
        write_tensor_file(dir.path() / "model.safetensors", tensors);
        if (!config.empty()) write_file(dir.path() / "config.json", config);
        return format->probe(engine::ModelFolder::open(dir.path()));
    };
    const Tensor half = make_tensor(StoredType::f16, {2, 2}, std::vector<uint16_t>(4));
    const Tensor words = make_tensor(StoredType::i32, {2, 2}, std::vector<int32_t>(4));
    CHECK(probe(good(), "").score == 90);
    CHECK(probe(good(), "").format == "exl2");
    for (const StoredType type : {StoredType::f16, StoredType::bf16, StoredType::f32}) {
        const auto plain = probe({{"a.weight", retyped(half, type)}}, "{}");
        CHECK(plain.score == 50);
        CHECK(plain.format == "plain");
    }
    const auto declines = [&](const engine::Probe& result, const char* part) {
        CHECK(result.score == 0);
        check_names(result.reason, part);
    };
    declines(probe({{"a.qweight", words}, {"a.scales", half}, {"a.qzeros", words}}, ""), "gptq");
    declines(probe({{"a.qweight", words}}, R"({"quantization_config": {"quant_method": "awq"}})"), "AWQ");
    declines(probe({{"a.weight", half}, {"a.trellis", words}}, ""), "EXL3");
    declines(probe({{"a.weight", words}}, ""), "a.weight");
    declines(probe({{"a.other", half}}, ""), "neither");
}

}  // namespace
}  // namespace quantplug::test
