// Columns of stored matrices: fused projections, stacks of experts, transposed files.
#include "engine/model/columns.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "checkpoint_files.h"
#include "kernels/half.h"
#include "tests/support/data.h"
#include "tests/support/tensor_files.h"

namespace quantplug::test {

using engine::Code;
using engine::ColumnRange;
using engine::LinearPart;
using engine::StoredType;

namespace {

/// Three groups of different widths, zero points, a row order and a bias.
kernels::QuantSource random_source(std::mt19937& random, int32_t k, int32_t n) {
    kernels::QuantSource s;
    s.in_features = k;
    s.out_features = n;
    s.groups = {{4, 32}, {2, 16}, {8, k - 48}};
    for (int32_t row = 0; row < k; ++row) s.perm.push_back(row);
    std::shuffle(s.perm.begin(), s.perm.end(), random);
    for (size_t i = 0; i < s.groups.size() * size_t(n); ++i) {
        s.scales.push_back(kernels::f32_to_f16(0.001f * float(1 + random() % 100)));
        s.zeros.push_back(uint8_t(random() % 4));
    }
    for (int32_t i = 0; i < n; ++i) s.bias.push_back(float(random() % 1000));
    std::vector<uint8_t> codes(size_t(k) * size_t(n));
    for (int32_t row = 0; row < k; ++row)
        for (int32_t column = 0; column < n; ++column) {
            const int32_t bits = row < 32 ? 4 : row < 48 ? 2 : 8;
            codes[size_t(row) * size_t(n) + size_t(column)] = uint8_t(random() % (1u << bits));
        }
    s.read_codes = [codes, n](int32_t row0, int32_t rows, uint8_t* out) {
        std::copy_n(codes.begin() + std::ptrdiff_t(row0) * n, size_t(rows) * size_t(n), out);
        return kernels::Status{};
    };
    return s;
}

std::vector<uint16_t> decoded(const kernels::QuantSource& s) {
    std::vector<uint16_t> out(size_t(s.in_features) * size_t(s.out_features), 0xdead);
    int32_t row0 = 0;
    for (const kernels::QuantGroup& group : s.groups) {
        REQUIRE(kernels::decode_f16(s, row0, group.rows, out.data() + size_t(row0) * size_t(s.out_features)).ok());
        row0 += group.rows;
    }
    return out;
}

}  // namespace

TEST_CASE("columns: a cut matrix is the columns of the whole, with the row order of the whole") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937 random(seed);
    const int32_t k = 80, n = 96;
    const auto whole = std::make_shared<const kernels::QuantSource>(random_source(random, k, n));
    const std::vector<uint16_t> all = decoded(*whole);
    const std::vector<std::vector<ColumnRange>> cuts = {
        {{0, 32}}, {{64, 32}}, {{5, 1}}, {{0, 16}, {48, 16}}, {{95, 1}, {0, 3}, {40, 8}}, {{0, n}}};
    for (const std::vector<ColumnRange>& cut : cuts) {
        const kernels::QuantSource part = engine::select_columns(whole, cut);
        REQUIRE(kernels::validate(part).message == "");
        CHECK(part.perm == whole->perm);
        CHECK(part.groups == whole->groups);
        std::vector<int32_t> columns;
        for (const ColumnRange& range : cut)
            for (int32_t c = 0; c < range.count; ++c) columns.push_back(range.first + c);
        REQUIRE(part.out_features == int32_t(columns.size()));
        const std::vector<uint16_t> got = decoded(part);
        size_t wrong = 0;
        for (size_t row = 0; row < size_t(k); ++row)
            for (size_t c = 0; c < columns.size(); ++c)
                wrong += got[row * columns.size() + c] != all[row * size_t(n) + size_t(columns[c])];
        CHECK(wrong == 0);
        for (size_t c = 0; c < columns.size(); ++c) CHECK(part.bias[c] == whole->bias[size_t(columns[c])]);
    }
    CHECK(decoded(engine::select_columns(whole, {})) == all);
    CHECK_REFUSED(engine::select_columns(whole, {{90, 7}}), Code::internal, "90");
}

TEST_CASE("columns: zero points and biases that are absent stay absent") {
    std::mt19937 random(1);
    auto whole = std::make_shared<kernels::QuantSource>(random_source(random, 64, 32));
    whole->zeros.clear();
    whole->bias.clear();
    const kernels::QuantSource part = engine::select_columns(whole, {{8, 8}});
    CHECK(part.zeros.empty());
    CHECK(part.bias.empty());
}

TEST_CASE("columns: a plain part in pieces of any size, as stored, transposed, out of a stack, of unit length") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const int32_t in = 6, out = 10;
    std::vector<float> values(size_t(in) * size_t(out)), turned(values.size()), bias(size_t(out) + 2);
    for (float& v : values) v = normal(random);
    for (float& v : bias) v = normal(random);
    for (size_t o = 0; o < size_t(out); ++o)
        for (size_t i = 0; i < size_t(in); ++i) turned[i * size_t(out) + o] = values[o * size_t(in) + i];
    std::vector<float> stack(turned.size() * 2, 77.0f);  // (2 * in, out), the second half is the matrix
    std::copy(turned.begin(), turned.end(), stack.begin() + std::ptrdiff_t(turned.size()));
    const TempDir dir;
    write_tensor_file(dir.path() / "m.safetensors", {{"w", make_tensor(StoredType::f32, {out, in}, values)},
                                                     {"t", make_tensor(StoredType::f32, {in, out}, turned)},
                                                     {"s", make_tensor(StoredType::f32, {2 * in, out}, stack)},
                                                     {"b", make_tensor(StoredType::f32, {out + 2}, bias)}});
    const auto folder = engine::ModelFolder::open(dir.path());
    for (const char* name : {"w", "t", "s"})
        for (const bool cut : {false, true})
            for (const bool unit : {false, true}) {
                CAPTURE(name);
                LinearPart part;
                part.tensor = name;
                part.bias_tensor = "b";
                part.transposed = *name != 'w';
                part.first_row = *name == 's' ? in : 0;
                part.unit_columns = unit;
                part.stored_columns = out;
                part.shape.in_features = in;
                part.shape.dtype = kernels::DType::f32;
                if (cut) part.columns = {{7, 3}, {0, 2}};
                const std::vector<int32_t> columns =
                    cut ? std::vector<int32_t>{7, 8, 9, 0, 1} : std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
                part.shape.out_features = int32_t(columns.size());
                const kernels::DenseSource source = engine::open_dense(folder, part);
                REQUIRE(source.bias.size() == columns.size());
                for (const int32_t piece : {1, 2, 4, int32_t(columns.size())}) {
                    std::vector<float> got(columns.size() * size_t(in), -99.0f);
                    for (int32_t row = 0; row < int32_t(columns.size()); row += piece) {
                        const int32_t rows = std::min(piece, int32_t(columns.size()) - row);
                        REQUIRE(source.read_rows(row, rows, got.data() + size_t(row) * size_t(in)).ok());
                    }
                    for (size_t c = 0; c < columns.size(); ++c) {
                        const float* stored = values.data() + size_t(columns[c]) * size_t(in);
                        double norm = 0;
                        for (int32_t i = 0; i < in; ++i) norm += double(stored[i]) * stored[i];
                        norm = unit ? std::sqrt(norm) : 1;
                        for (int32_t i = 0; i < in; ++i)
                            CHECK(got[c * size_t(in) + size_t(i)] == doctest::Approx(stored[i] / norm).epsilon(1e-6));
                        CHECK(source.bias[c] == bias[size_t(columns[c])]);
                    }
                }
            }
}

}  // namespace quantplug::test
