// The layouts of codes, and the loop over tasks.
#include <doctest/doctest.h>

#include <atomic>
#include <random>

#include "engine/base/error.h"
#include "engine/tools/code_bits.h"
#include "engine/tools/parallel.h"

namespace quantplug::test {
namespace {


TEST_CASE("codes: what is put is read back, and fills exactly its words") {
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    for (const bool planar : {false, true})
        for (int32_t bits = 2; bits <= 8; ++bits) {
            CAPTURE(planar);
            CAPTURE(bits);
            constexpr size_t columns = 19, stride = 21, rows = 96;
            const size_t words = rows / 32 * size_t(bits);
            std::vector<uint8_t> codes(rows * columns);
            for (uint8_t& code : codes) code = uint8_t(random() % (1u << bits));
            std::vector<uint32_t> packed(words * stride), full(words * stride);
            const auto at = [&](size_t row) {
                return planar ? engine::planar_bits(bits, int64_t(row)) : engine::stream_bits(bits, int64_t(row));
            };
            const std::vector<uint8_t> ones(columns, uint8_t((1 << bits) - 1));
            for (size_t row = 0; row < rows; ++row) {
                engine::put_code_row(at(row), std::span(codes).subspan(row * columns, columns), packed.data(), stride);
                engine::put_code_row(at(row), ones, full.data(), stride);
            }
            for (size_t row = 0; row < rows; ++row) {
                std::vector<uint8_t> out(columns, 0xee);
                engine::get_code_row(at(row), packed.data(), stride, out);
                REQUIRE(std::equal(out.begin(), out.end(), codes.begin() + std::ptrdiff_t(row * columns)));
            }
            for (size_t i = 0; i < full.size(); ++i) REQUIRE(full[i] == (i % stride < columns ? 0xffffffffu : 0u));
            // One code at a time, along a row of words.
            std::vector<uint32_t> line(words);
            for (size_t i = 0; i < rows; ++i) engine::put_code(at(i), codes[i], line.data());
            for (size_t i = 0; i < rows; ++i) REQUIRE(engine::get_code(at(i), line.data()) == codes[i]);
        }
}

TEST_CASE("parallel_for: every task once; the first exception comes out, and poll can stop it") {
    std::vector<std::atomic<int>> seen(1000);
    engine::parallel_for(1000, [&](int64_t i) { ++seen[size_t(i)]; });
    for (const auto& count : seen) REQUIRE(count == 1);
    engine::parallel_for(0, [&](int64_t) { FAIL("no task"); });
    CHECK_THROWS_WITH(engine::parallel_for(100,
                                           [](int64_t i) {
                                               if (i == 7) engine::fail(engine::Code::internal, "seven");
                                           }),
                      "seven");
    CHECK_THROWS_WITH(engine::parallel_for(
                          1 << 30, [](int64_t) {}, [](int64_t) { engine::fail(engine::Code::cancelled, "stop"); }),
                      "stop");
}

}  // namespace
}  // namespace quantplug::test
