#include "host_stub/cli/line_reader.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <vector>

namespace quantplug::host {
namespace {

std::vector<std::string> lines_of(const std::string& text, bool joined, size_t piece) {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    REQUIRE(text.size() < 4096);  // a pipe's room
    for (size_t at = 0; at < text.size(); at += piece) {
        const size_t n = std::min(piece, text.size() - at);
        REQUIRE(::write(ends[1], text.data() + at, n) == static_cast<ssize_t>(n));
    }
    ::close(ends[1]);
    LineReader reader(ends[0]);
    std::vector<std::string> lines;
    for (std::string line; (joined ? reader.next_joined(line) : reader.next(line)) == LineReader::Got::kLine;)
        lines.push_back(line);
    ::close(ends[0]);
    return lines;
}

}  // namespace

TEST_CASE("lines of a pipe, whatever pieces they come in") {
    using Lines = std::vector<std::string>;
    for (const size_t piece : {size_t{1}, size_t{3}, size_t{1000}}) {
        CAPTURE(piece);
        CHECK(lines_of("", false, piece).empty());
        CHECK(lines_of("a", false, piece) == Lines{"a"});
        CHECK(lines_of("a\n\nb\r\nc\\\nd", false, piece) == Lines{"a", "", "b", "c\\", "d"});
        CHECK(lines_of("a\\\nb\\\n\nc\n", true, piece) == Lines{"a\nb\n", "c"});
        CHECK(lines_of("end\\", true, piece) == Lines{"end\n"});
    }
}

}  // namespace quantplug::host
