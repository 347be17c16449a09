#include "host_stub/cli/utf8.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <random>

namespace quantplug::host {

TEST_CASE("bytes that are no UTF-8 become U+FFFD, the rest stays") {
    const std::string r = "\xef\xbf\xbd";
    CHECK(valid_utf8("") == "");
    CHECK(valid_utf8("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\n") == "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\n");
    CHECK(valid_utf8("\xff"
                     "a") == r + "a");
    CHECK(valid_utf8("a\xc3") == "a" + r);
    CHECK(valid_utf8("\xc0\xaf") == r + r);                       // overlong
    CHECK(valid_utf8("\xe0\x80\xaf") == r + r + r);               // overlong
    CHECK(valid_utf8("\xed\xa0\x80") == r + r + r);               // a surrogate
    CHECK(valid_utf8("\xf4\x90\x80\x80") == r + r + r + r);       // above U+10FFFF
    CHECK(valid_utf8("\xf4\x8f\xbf\xbf") == "\xf4\x8f\xbf\xbf");  // U+10FFFF
    CHECK(valid_utf8(std::string_view("a\0b", 3)) == std::string("a\0b", 3));
}

TEST_CASE("a line for a terminal has no control characters") {
    CHECK(printable("a\nb\t\x1b[31mc\x7f") == "a b  [31mc ");
    CHECK(printable("\xc2\x9b"
                    "31m") == " 31m");  // C1: CSI in one character
    CHECK(printable("caf\xc3\xa9") == "caf\xc3\xa9");
}

TEST_CASE("any bytes become what a strict JSON writer takes, and valid text is untouched") {
    const unsigned seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    for (int i = 0; i < 2000; ++i) {
        std::string text(random() % 24, '\0');
        // Mostly lead and continuation bytes, where the cases are.
        for (char& c : text) c = static_cast<char>(random() % 3 ? 0x80 + random() % 0x80 : random() % 0x80);
        const std::string clean = valid_utf8(text);
        CHECK_NOTHROW(nlohmann::json(clean).dump(-1, ' ', false, nlohmann::json::error_handler_t::strict));
        CHECK(valid_utf8(clean) == clean);
        bool strict = true;
        try {
            nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::strict);
        } catch (const nlohmann::json::exception&) {
            strict = false;
        }
        CHECK((clean == text) == strict);
    }
}

}  // namespace quantplug::host
