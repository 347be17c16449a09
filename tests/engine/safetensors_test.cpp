#include "engine/checkpoint/safetensors.h"

#include <doctest/doctest.h>

#include <chrono>
#include <random>

#include "checkpoint_files.h"
#include "engine/checkpoint/file.h"
#include "tests/support/data.h"

using namespace quantplug::engine;
using namespace quantplug::test;

namespace {

SafetensorsHeader parse(const std::string& bytes) {
    return read_safetensors_header(MemoryBytes(as_span(bytes), "m.safetensors"));
}

std::string one(const std::string& body) { return "{\"w\":{" + body + "}}"; }

}  // namespace

TEST_CASE("safetensors: tensors, metadata and data") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937 random(seed);
    const TempDir dir;
    std::vector<RawTensor> raw{{"a", "F16", {3, 5}, {}},
                               {"b.c", "I32", {4}, {}},
                               {"empty", "F32", {0, 7}, {}},
                               {"scalar", "BF16", {}, {}},
                               {"odd", "F4", {3}, {}}};
    const size_t sizes[] = {30, 16, 0, 2, 2};
    for (size_t i = 0; i < raw.size(); ++i) {
        raw[i].bytes.resize(sizes[i]);
        for (char& c : raw[i].bytes) c = char(random());
    }
    write_file(dir.path() / "m.safetensors", safetensors(raw, R"("__metadata__":{"format":"pt","gptq_bits":"4"})"));
    const SafetensorsFile file = SafetensorsFile::open(dir.path() / "m.safetensors");
    CHECK(file.metadata().at("gptq_bits") == "4");
    REQUIRE(file.tensors().size() == raw.size());
    for (size_t i = 0; i < raw.size(); ++i) {
        const TensorInfo& tensor = file.tensors()[i];
        CHECK(tensor.name == raw[i].name);
        CHECK(tensor.type_name == raw[i].type);
        CHECK(tensor.shape == raw[i].shape);
        CHECK(tensor.bytes == sizes[i]);
        if (tensor.type == StoredType::unknown) continue;
        std::string out(tensor.bytes, '?');
        file.read(tensor, 0, std::as_writable_bytes(std::span(out)));
        CHECK(out == raw[i].bytes);
    }
    std::string out(8, '?');
    file.read(file.tensors()[0], 6, std::as_writable_bytes(std::span(out)));
    CHECK(out == raw[0].bytes.substr(6, 8));
    CHECK_REFUSED(file.read(file.tensors()[0], 23, std::as_writable_bytes(std::span(out))), Code::out_of_range, "\"a\"",
                  "30 bytes");
    CHECK_REFUSED(file.read(file.tensors()[4], 0, {}), Code::unimplemented, "m.safetensors", "\"odd\"", "F4");
    CHECK(file.tensors()[0].describe() == "F16 [3, 5]");
    CHECK(file.tensors()[3].count() == 1);
    CHECK(parse(with_header("{}   ")).tensors.empty());
}

TEST_CASE("safetensors: each kind of bad header is named") {
    const std::string data(64, '\0');
    const auto wrong = [&](const std::string& header) { return outcome_of([&] { parse(with_header(header, data)); }); };
    const auto check = [&](const std::string& header, std::initializer_list<std::string_view> parts) {
        const Outcome outcome = wrong(header);
        CAPTURE(header);
        INFO(outcome.message);
        CHECK(outcome.code == Code::invalid_argument);
        CHECK(outcome.mentions({"m.safetensors"}));
        CHECK(outcome.mentions(parts));
    };
    check(one(R"("dtype":"F32","shape":[4],"data_offsets":[0,12])"), {"\"w\"", "F32 [4]", "12 bytes"});
    check(one(R"("dtype":"F32","shape":[4],"data_offsets":[16,0])"), {"\"w\"", "begins at 16"});
    check(one(R"("dtype":"F32","shape":[-4],"data_offsets":[0,16])"), {"\"w\"", "negative"});
    check(one(R"("dtype":"F32","shape":[4.0],"data_offsets":[0,16])"), {"\"w\""});
    check(one(R"("dtype":"F32","shape":[1e30],"data_offsets":[0,16])"), {"\"w\""});
    check(one(R"("dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,16])"), {"\"w\"", "overflow"});
    check(one(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0])"), {"\"w\""});
    check(one(R"("dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,0])"), {"\"w\""});
    check(one(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,0])"), {"\"w\"", "dimension"});
    check(one(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])"),
          {"\"w\"", "16 dimensions"});
    check(one(R"("dtype":"F32","shape":[4],"data_offsets":[0,16,16])"), {"\"w\"", "two data_offsets"});
    check(one(R"("dtype":"F32","shape":[4],"data_offsets":[0])"), {"\"w\"", "two data_offsets"});
    check(one(R"("dtype":"F32","shape":[4])"), {"\"w\"", "data_offsets"});
    check(one(R"("shape":[4],"data_offsets":[0,16])"), {"\"w\"", "dtype"});
    check(one(R"("dtype":"F32","dtype":"F16","shape":[4],"data_offsets":[0,16])"), {"\"w\"", "twice"});
    check(one(R"("dtype":"F32","shape":[4],"shape":[4],"data_offsets":[0,16])"), {"\"w\"", "twice"});
    check(one(R"("dtype":"F32","shape":[[4]],"data_offsets":[0,16])"), {"list"});
    check(one(R"("dtype":"F32","shape":{"a":1},"data_offsets":[0,16])"), {"object"});
    check(one(R"("dtype":7,"shape":[4],"data_offsets":[0,16])"), {"number"});
    check(one(R"("dtype":"F32","shape":[4],"data_offsets":[18446744073709551599,18446744073709551615])"),
          {"\"w\"", "ends at byte"});
    check(
        R"({"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"w":{"dtype":"F32","shape":[4],"data_offsets":[16,32]}})",
        {"\"w\"", "twice"});
    check(
        R"({"v":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"w":{"dtype":"F32","shape":[4],"data_offsets":[12,28]}})",
        {"\"v\"", "\"w\"", "overlap"});
    check(R"({"w":7})", {"number"});
    check(R"({"w":[1]})", {"list"});
    check(R"({"w":null})", {"null"});
    check(R"({"__metadata__":{"a":1}})", {"__metadata__"});
    check(R"({"__metadata__":{"a":{}}})", {"__metadata__"});
    check("{", {"JSON"});
    check("{}{}", {"JSON"});
    check("{\"w\xff\":{}}", {"JSON"});
    check("[]", {"brace"});
    check("{" + std::string(100'000, '['), {});
    check("{\"a\":" + std::string(1'000'000, '{'), {});
}

TEST_CASE("safetensors: files that are not all there") {
    const std::string good = safetensors_of({"a", "b"});
    CHECK_REFUSED(parse(""), Code::data_loss, "m.safetensors", "empty");
    CHECK_REFUSED(parse("abc"), Code::data_loss, "only 3 bytes");
    CHECK_REFUSED(parse("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"), Code::data_loss,
                  "m.safetensors", "Git-LFS", "git lfs pull");
    CHECK_REFUSED(parse(bytes_of(uint64_t{1} << 40) + "{}"), Code::invalid_argument, "m.safetensors", "header");
    CHECK_REFUSED(parse(bytes_of(~uint64_t{0}) + "{}"), Code::invalid_argument, "m.safetensors");
    CHECK_REFUSED(parse(bytes_of(uint64_t{90'000'000}) + "{}"), Code::data_loss, "claims a header of 90000000",
                  "incomplete");
    CHECK_REFUSED(parse(good.substr(0, good.size() - 1)), Code::data_loss,
                  ("claims " + std::to_string(good.size()) + " bytes").c_str(),
                  ("has " + std::to_string(good.size() - 1)).c_str(), "incomplete", "\"b\"");
    for (size_t length = 0; length < good.size(); ++length) {
        CAPTURE(length);
        const Outcome outcome = outcome_of([&] { parse(good.substr(0, length)); });
        REQUIRE(outcome.code);
        CHECK(outcome.mentions({"m.safetensors"}));
    }
}

TEST_CASE("safetensors: bit flips never crash, and what passes lies inside the file") {
    const std::string good = safetensors(
        {{"layer.0.q_weight", "I32", {2, 3}, std::string(24, '\7')}, {"n", "F16", {4}, std::string(8, '\7')}},
        R"("__metadata__":{"format":"pt"})");
    size_t passed = 0, refused = 0;
    for (size_t bit = 0; bit < (good.size() - 32) * 8; ++bit) {
        std::string bad = good;
        bad[bit / 8] = char(bad[bit / 8] ^ (1 << (bit % 8)));
        const Outcome outcome = outcome_of([&] {
            for (const TensorInfo& tensor : parse(bad).tensors) {
                CHECK(tensor.offset + tensor.bytes <= bad.size());
                if (tensor.type != StoredType::unknown) CHECK(tensor.count() * size_of(tensor.type) == tensor.bytes);
            }
        });
        (outcome.code ? refused : passed)++;
    }
    CHECK(refused > 500);
    CHECK(passed > 0);
}

TEST_CASE("safetensors: a header of 100,000 tensors is read at once") {
    std::string header = "{";
    for (int i = 0; i < 100'000; ++i) {
        const std::string at = std::to_string(i * 2), end = std::to_string(i * 2 + 2);
        header += (i ? ",\"" : "\"") + ("model.layers.0.mlp.experts." + std::to_string(i)) +
                  ".gate_proj.q_weight\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[" + at + "," + end + "]}";
    }
    const std::string bytes = with_header(header + "}", std::string(200'000, '\0'));
    const auto start = std::chrono::steady_clock::now();
    CHECK(parse(bytes).tensors.size() == 100'000);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    MESSAGE("100,000 tensors, ", header.size(), " bytes of header: ", seconds.count(), " s");
}
