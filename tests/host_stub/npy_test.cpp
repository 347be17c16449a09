#include "host_stub/cli/npy.h"

#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <quantplug/common.hpp>
#include <random>
#include <vector>

#include "tests/support/data.h"

namespace quantplug::host {
namespace {

std::string read_all(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("a matrix is written as NumPy's format 1.0") {
    const test::TempDir dir;
    const unsigned seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (const auto& size : {std::pair<size_t, size_t>{3, 5}, {1, 1}, {0, 7}, {123, 1000}}) {
        const size_t rows = size.first, columns = size.second;
        CAPTURE(rows);
        const auto path = dir.path() / "m.npy";
        std::vector<float> values(rows * columns);
        for (float& value : values) value = normal(random);
        {
            NpyWriter writer(path, rows, columns);
            for (size_t i = 0; i < rows; ++i) writer.write_row(std::span(values).subspan(i * columns, columns));
            writer.finish();
        }
        const std::string bytes = read_all(path);
        REQUIRE(bytes.size() > 10);
        CHECK(bytes.substr(0, 8) == std::string("\x93NUMPY\x01\x00", 8));
        const size_t header_size = static_cast<unsigned char>(bytes[8]) + 256u * static_cast<unsigned char>(bytes[9]);
        CHECK((10 + header_size) % 64 == 0);
        const std::string header = bytes.substr(10, header_size);
        const std::string shape = "(" + std::to_string(rows) + ", " + std::to_string(columns) + ")";
        CHECK(header.rfind("{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }", 0) == 0);
        CHECK(header.back() == '\n');
        REQUIRE(bytes.size() == 10 + header_size + values.size() * 4);
        CHECK((values.empty() || std::memcmp(bytes.data() + 10 + header_size, values.data(), values.size() * 4) == 0));
        CHECK(!std::filesystem::exists(path.string() + ".part"));
    }
}

TEST_CASE("a file that is not finished is not there") {
    const test::TempDir dir;
    const auto path = dir.path() / "m.npy";
    const std::vector<float> row(4);
    {
        NpyWriter writer(path, 2, 4);
        writer.write_row(row);
        CHECK_THROWS_AS(writer.finish(), Error);
    }
    CHECK(std::filesystem::is_empty(dir.path()));
    {
        NpyWriter writer(path, 1, 4);
        CHECK_THROWS_AS(writer.write_row(std::span(row).first(3)), Error);
        writer.write_row(row);
        CHECK_THROWS_AS(writer.write_row(row), Error);
    }
    CHECK(std::filesystem::is_empty(dir.path()));
    try {
        NpyWriter writer(dir.path() / "absent" / "m.npy", 1, 1);
        FAIL("written into a folder that is not there");
    } catch (const Error& error) {
        CHECK(std::string(error.what()).find("absent/m.npy cannot be written") != std::string::npos);
    }
}

}  // namespace quantplug::host
