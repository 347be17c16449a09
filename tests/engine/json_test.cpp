#include "engine/checkpoint/json.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "checkpoint_files.h"
#include "engine/checkpoint/file.h"
#include "tests/support/data.h"

using namespace quantplug::engine;
using namespace quantplug::test;

namespace {

Json parse(std::string_view text) { return parse_json(text, "config.json"); }

}  // namespace

TEST_CASE("json: what Python writes is accepted") {
    const Json document = parse(
        "\xef\xbb\xbf{\"a\": NaN, \"b\": [Infinity, -Infinity, -1], \"c\": \"NaN [{ Infinity\\\"\", \"c2\": -0.5}");
    CHECK(document["a"].is_null());
    CHECK(document["b"][0].is_null());
    CHECK(document["b"][1].is_null());
    CHECK(document["b"][2] == -1);
    CHECK(document["c"] == "NaN [{ Infinity\"");
    CHECK(document["c2"] == -0.5);
    CHECK(parse("{\"a\": 1, \"a\": 2}")["a"] == 2);
}

TEST_CASE("json: damaged documents are refused by name") {
    for (const char* text :
         {"", "{", "{\"a\":}", "{\"a\":1}}", "\"", "\"\\", "NaNa", "[1,]", "{\"a\":1e999}", "nul", "{\"a\":\"\xff\"}",
          "{\"a\":\"\\ud800\"}", "\xef\xbb\xbf", "{'a':1}", "[1 2]", "Infinit"}) {
        CAPTURE(text);
        CHECK_REFUSED(parse(text), Code::invalid_argument, "config.json");
    }
}

TEST_CASE("json: depth and size are limited before anything is parsed") {
    CHECK_NOTHROW(parse(std::string(64, '[') + std::string(64, ']')));
    CHECK_REFUSED(parse(std::string(65, '[') + std::string(65, ']')), Code::invalid_argument, "config.json",
                  "64 levels");
    CHECK_REFUSED(parse(std::string(5'000'000, '[')), Code::invalid_argument, "64 levels");
    CHECK_REFUSED(parse_json("[1,2,3]", "x.json", {.max_bytes = 6}), Code::resource_exhausted, "x.json", "7 bytes");
    // Brackets in strings do not count, escaped quotes do not end them.
    CHECK_NOTHROW(parse("[\"\\\"" + std::string(200, '[') + "\"]"));
}

TEST_CASE("json: getters treat null as missing and name what is wrong") {
    const Json document =
        parse(R"({"n": null, "i": 7, "f": 7.0, "h": 7.5, "big": 1e30, "small": -1e30, "u": 18446744073709551615,
        "s": "x", "l": [1, null, 3.0], "b": true, "zero": 0, "o": {"i": 3, "p": {"q": 4}}, "least": -9223372036854775808})");
    const JsonObject object(document, "config.json");
    CHECK_FALSE(object.integer("n"));
    CHECK(object.is_null("n"));
    CHECK_FALSE(object.is_null("missing"));
    CHECK_FALSE(object.has("n"));
    CHECK(object.integer("i") == 7);
    CHECK(object.integer("f") == 7);
    CHECK(object.number("i") == 7.0);
    CHECK(object.integer("big") == std::numeric_limits<int64_t>::max());
    CHECK(object.integer("small") == std::numeric_limits<int64_t>::min());
    CHECK(object.integer("u") == std::numeric_limits<int64_t>::max());
    CHECK(object.integer("least") == std::numeric_limits<int64_t>::min());
    CHECK(object.number("big") == 1e30);
    CHECK(object.boolean("b") == true);
    CHECK(object.boolean("zero") == false);
    CHECK(object.integer("o.i") == 3);
    CHECK(object.integer("o.p.q") == 4);
    CHECK_FALSE(object.integer("o.p.q.r"));
    CHECK_FALSE(object.integer("s.i"));
    CHECK(object.integers("l") == std::vector<int64_t>{1, 3});
    CHECK(object.integers("i") == std::vector<int64_t>{7});
    CHECK(object.integers("n").empty());
    CHECK(object.object("o")->integer("i") == 3);
    CHECK_REFUSED(object.integer("h"), Code::invalid_argument, "config.json: h", "7.5");
    CHECK_REFUSED(object.integer("s"), Code::invalid_argument, "config.json: s", "integer", "\"x\"");
    CHECK_REFUSED(object.integer("b"), Code::invalid_argument, "config.json: b", "true");
    CHECK_REFUSED(object.string("i"), Code::invalid_argument, "config.json: i", "string");
    CHECK_REFUSED(object.boolean("i"), Code::invalid_argument, "config.json: i", "true or false");
    CHECK_REFUSED(object.object("l"), Code::invalid_argument, "config.json: l", "object");
    CHECK_REFUSED(object.integers("o"), Code::invalid_argument, "config.json: o");
    CHECK_REFUSED(object.strings("l"), Code::invalid_argument, "config.json: l");
    CHECK_REFUSED(object.object("o")->string("i"), Code::invalid_argument, "config.json: o.i");
    CHECK_REFUSED(JsonObject(document["l"], "config.json", "l"), Code::invalid_argument, "config.json: l");
}

TEST_CASE("json: bit flips and truncations never crash") {
    const std::string good = R"({"a": [1, 2.5, NaN], "b": {"c": "x\u00e9y", "d": null}, "e": -Infinity})";
    for (size_t length = 0; length < good.size(); ++length)
        CHECK_REFUSED(parse(std::string_view(good).substr(0, length)), Code::invalid_argument, "config.json");
    for (size_t bit = 0; bit < good.size() * 8; ++bit) {
        std::string bad = good;
        bad[bit / 8] = char(bad[bit / 8] ^ (1 << (bit % 8)));
        const auto outcome = outcome_of([&] { JsonObject(parse(bad), "x").integers("a"); });
        CHECK((!outcome.code || !outcome.message.empty()));
    }
}

TEST_CASE("file: reading") {
    const TempDir dir;
    write_file(dir.path() / "a", "0123456789");
    std::filesystem::create_symlink("a", dir.path() / "link");
    std::filesystem::create_symlink("gone", dir.path() / "broken");
    REQUIRE(::mkfifo((dir.path() / "pipe").c_str(), 0600) == 0);
    for (const char* name : {"a", "link"}) {
        const File file = File::open(dir.path() / name);
        CHECK(file.size() == 10);
        std::string out(4, '?');
        file.read(3, std::as_writable_bytes(std::span(out)));
        CHECK(out == "3456");
        file.read(10, {});
        CHECK_REFUSED(file.read(7, std::as_writable_bytes(std::span(out))), Code::data_loss, name, "truncated");
        CHECK_REFUSED(file.read(~uint64_t{0}, std::as_writable_bytes(std::span(out))), Code::data_loss, name);
    }
    CHECK_REFUSED(File::open(dir.path() / "none"), Code::not_found, "none");
    CHECK_REFUSED(File::open(dir.path() / "broken"), Code::not_found, "broken", "symbolic link");
    CHECK_REFUSED(File::open(dir.path()), Code::invalid_argument, "folder");
    CHECK_REFUSED(File::open(dir.path() / "pipe"), Code::invalid_argument, "pipe", "regular");
    CHECK_REFUSED(File::open("/dev/zero"), Code::invalid_argument, "/dev/zero", "regular");
    CHECK_REFUSED(read_text_file(dir.path() / "a", 9), Code::resource_exhausted, "10 bytes");
    CHECK(read_text_file(dir.path() / "a", 10) == "0123456789");

    const File file = File::open(dir.path() / "a");
    std::filesystem::resize_file(dir.path() / "a", 5);
    std::string out(8, '?');
    CHECK_REFUSED(file.read(0, std::as_writable_bytes(std::span(out))), Code::data_loss, "truncated while in use");
}

TEST_CASE("file: text for messages") {
    CHECK(printable("a\nb\x01\xff\xc3\xa9") == "a?b??\xc3\xa9");
    CHECK(printable("\xed\xa0\x80") == "???");  // a lone surrogate
    CHECK(printable(std::string(500, 'x')).size() <= 123);
    CHECK(is_utf8("\xf0\x9f\x99\x82 ok"));
    CHECK_FALSE(is_utf8("\xc0\x80"));
    CHECK_FALSE(is_utf8("\xf4\x90\x80\x80"));
    CHECK_FALSE(is_utf8("\xe2\x82"));
}
