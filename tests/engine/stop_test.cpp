#include "engine/generate/stop.h"

#include <doctest/doctest.h>

#include <random>

#include "engine/base/error.h"

namespace quantplug::test {

using engine::StopFilter;

TEST_CASE("text is held back while it may become a stop string") {
    StopFilter filter({"</s>", "User:"});
    CHECK(filter.push("Hello <") == "Hello ");
    CHECK(filter.push("/") == "");
    CHECK(filter.push("b> Us") == "</b> ");
    CHECK(filter.push("er") == "");
    CHECK(filter.push(": more") == "");
    CHECK(filter.stopped());
    CHECK(filter.push("ignored") == "");
    CHECK(filter.finish() == "");
}

TEST_CASE("what was held back comes at an end that is no stop string") {
    StopFilter filter({"###"});
    CHECK(filter.push("a##") == "a");
    CHECK(filter.finish() == "##");
    CHECK(filter.finish() == "");
}

TEST_CASE("the earliest of several stop strings counts") {
    StopFilter filter({"cd", "b"});
    CHECK(filter.push("abcd") == "a");
    CHECK(filter.stopped());
}

TEST_CASE("any cut of the text gives the same result as the whole") {
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    for (int round = 0; round < 500; ++round) {
        std::string text;
        for (int i = 0; i < 30; ++i) text += "ab\xc3\xa9"[random() % 2 ? 0 : 1];
        const std::vector<std::string> stops = {"abba", "baab", "aaaaa"};
        size_t end = std::string::npos;
        for (const auto& s : stops) end = std::min(end, text.find(s));
        StopFilter filter(stops);
        std::string out;
        for (size_t i = 0; i < text.size();) {
            const size_t n = std::min<size_t>(1 + random() % 5, text.size() - i);
            out += filter.push(std::string_view(text).substr(i, n));
            i += n;
        }
        out += filter.finish();
        CHECK(out == text.substr(0, end));
        CHECK(filter.stopped() == (end != std::string::npos));
    }
}

TEST_CASE("characters stay whole") {
    // The stop string begins with the second byte of no character, but its first byte is shared by é and è.
    StopFilter filter({"\xc3\xa8"});
    CHECK(filter.push("x\xc3\xa9") == "x\xc3\xa9");
    CHECK(filter.push("\xc3\xa8") == "");
    CHECK(filter.stopped());
}

TEST_CASE("an empty stop string is refused") { CHECK_THROWS_AS(StopFilter({""}), engine::Error); }

}  // namespace quantplug::test
