// What a packed matrix holds, read back by layout.h's own words and compared with the source.
#include "kernels/cuda/pack.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "kernels/half.h"
#include "support.h"

using namespace quantplug::test;
namespace cuda = quantplug::kernels::cuda;

namespace {

// The code of row `row` and column `column` of K' x 16 blocks.
uint32_t code_at(const cuda::MatrixView& m, int32_t row, int32_t column) {
    int32_t s = m.n_sections - 1;
    while (row / cuda::chunk_rows < m.sections[s].chunk0) --s;
    const cuda::Section& section = m.sections[s];
    const uint32_t* chunk = m.words + size_t(column / 16) * m.block_words + section.word0 +
                            size_t(row / cuda::chunk_rows - section.chunk0) * size_t(32 * section.bits);
    for (int32_t lane = 0; lane < 32; ++lane) {
        for (int32_t p = 0; p < 16; ++p) {
            for (int32_t h = 0; h < 2; ++h) {
                if (cuda::fragment_row(lane, p, h) != row % cuda::chunk_rows ||
                    cuda::fragment_column(lane, p) != column % 16)
                    continue;
                if (section.bits == 16) return (chunk[cuda::chunk_word(16, lane, p)] >> (16 * h)) & 0xffffu;
                if (section.bits == 8)
                    return (chunk[cuda::chunk_word(8, lane, p / 2)] >> (16 * h + 8 * (p & 1))) & 0xffu;
                cuda::FieldPiece pieces[5];
                uint32_t code = 0;
                const int32_t n = cuda::field_pieces(section.bits, p, pieces);
                for (int32_t i = 0; i < n; ++i) {
                    const uint32_t word = chunk[cuda::chunk_word(section.bits, lane, pieces[i].word)];
                    code |= ((word >> (pieces[i].bit + 16 * h)) & ((1u << pieces[i].n_bits) - 1)) << pieces[i].shift;
                }
                return code;
            }
        }
    }
    return ~0u;
}

struct Element {
    uint16_t scale;
    int32_t integer;  // code - zero
    int32_t bits;
};
Element element_at(const cuda::MatrixView& m, int32_t row, int32_t column) {
    int32_t s = m.n_sections - 1;
    while (row / cuda::chunk_rows < m.sections[s].chunk0) --s;
    const cuda::Section& section = m.sections[s];
    const int32_t group = section.group0 + ((row / cuda::slab_rows - 2 * section.chunk0) >> section.group_shift);
    REQUIRE(group < m.n_groups);
    const size_t at = (size_t(column / 16) * size_t(m.n_groups) + size_t(group)) * 8 + size_t(column % 8);
    const bool second = column % 16 >= 8;
    const int32_t zero = m.zeros ? int32_t(m.zeros[at] >> (second ? 8 : 0)) & 0xff : 1 << (section.bits - 1);
    return {uint16_t(m.scales[at] >> (second ? 16 : 0)), int32_t(code_at(m, row, column)) - zero, section.bits};
}

void check_plan(const cuda::MatrixView& m) {
    int32_t chunk = 0;
    for (int32_t i = 0; i < m.n_sections; ++i) {
        CHECK(m.sections[i].chunk0 == chunk);
        CHECK(m.sections[i].n_chunks > 0);
        CHECK(m.sections[i].n_chunks % 2 == 0);
        if (i > 0) CHECK(m.sections[i].bits < m.sections[i - 1].bits);
        chunk += m.sections[i].n_chunks;
    }
    CHECK(chunk == m.n_chunks);
    CHECK(m.k_padded == m.n_chunks * cuda::chunk_rows);
    CHECK((m.n_splits == 8 || m.n_splits == 16));
    CHECK(m.split_begin[0] == 0);
    for (int32_t i = 0; i < m.n_splits; ++i) {
        CHECK(m.split_begin[i] % 2 == 0);
        CHECK(m.split_begin[i] <= m.split_begin[i + 1]);
    }
    CHECK(m.split_begin[m.n_splits] == m.n_chunks);
}

// gather is the permutation of the sorted rows with -1 between; scatter and padding say the same.
void check_lists(const cuda::MatrixView& m) {
    std::vector<bool> seen(size_t(m.k), false);
    int32_t padding = 0;
    for (int32_t row = 0; row < m.k_padded; ++row) {
        const int32_t input = m.gather[row];
        if (input < 0) {
            REQUIRE(padding < m.n_padding);
            CHECK(m.padding[padding++] == row);
        } else {
            REQUIRE(input < m.k);
            CHECK(!seen[size_t(input)]);
            seen[size_t(input)] = true;
            CHECK(m.scatter[input] == row);
        }
    }
    CHECK(padding == m.n_padding);
    CHECK(std::find(seen.begin(), seen.end(), false) == seen.end());
}

}  // namespace

TEST_CASE("cuda pack: every shape reads back as what it was packed from") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    for (const Shape& shape : shapes()) {
        if (shape.k > 1000) continue;
        const std::unique_ptr<QuantData> data = random_quant(shape, random);
        INFO(std::string(shape.name) << ", " << shape.groups[0].bits << " bits");
        const cuda::PackPlan plan = cuda::plan_pack(data->source.shape(), 16);
        std::vector<uint8_t> image(plan.total, 0xcd);
        REQUIRE(cuda::pack_image(data->source, plan, image.data()).ok());
        const cuda::MatrixView m = cuda::placed(plan, image.data());
        check_plan(m);
        check_lists(m);
        CHECK((m.bias != nullptr) == shape.bias);
        const size_t n = size_t(shape.n);
        std::vector<size_t> sorted_of(size_t(shape.k)), group_of(size_t(shape.k));
        size_t sorted = 0;
        for (size_t g = 0; g < shape.groups.size(); ++g) {
            for (int32_t i = 0; i < shape.groups[g].rows; ++i, ++sorted) {
                sorted_of[shape.perm ? size_t(data->source.perm[sorted]) : sorted] = sorted;
                group_of[sorted] = g;
            }
        }
        int bad = 0;
        for (int32_t row = 0; row < m.k_padded; ++row) {
            for (int32_t c = 0; c < 16 * m.n_blocks; ++c) {
                const Element e = element_at(m, row, c);
                const int32_t input = m.gather[row];
                if (c >= shape.n) {
                    bad += e.scale != 0;
                } else if (input < 0) {
                    bad += e.integer != 0 && e.scale != 0;
                } else {
                    const size_t from = sorted_of[size_t(input)], g = group_of[from];
                    const int32_t zero =
                        shape.zeros ? int32_t(data->source.zeros[g * n + size_t(c)]) : 1 << (shape.groups[g].bits - 1);
                    bad += e.scale != data->source.scales[g * n + size_t(c)];
                    bad += e.integer != int32_t(data->codes[from * n + size_t(c)]) - zero;
                    bad += e.bits != (shape.groups[g].bits == 7 ? 8 : shape.groups[g].bits);
                }
            }
        }
        CHECK(bad == 0);
        for (size_t c = 0; shape.bias && c < n; ++c) CHECK(m.bias[c] == data->source.bias[c]);
    }
}

TEST_CASE("cuda pack: plain matrices are FP16 times a power of two per column") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    for (const DType type : {DType::f16, DType::bf16, DType::f32}) {
        for (const float sigma : {1e-9f, 0.05f, 3000.0f}) {
            const std::unique_ptr<DenseData> data = random_dense(200, 37, type, true, random, sigma);
            const cuda::PackPlan plan = cuda::plan_pack(data->source.shape(), 16);
            std::vector<uint8_t> image(plan.total, 0xcd);
            REQUIRE(cuda::pack_image(data->source, plan, image.data()).ok());
            const cuda::MatrixView m = cuda::placed(plan, image.data());
            check_plan(m);
            check_lists(m);
            CHECK(m.n_sections == 1);
            CHECK(m.sections[0].bits == 16);
            for (int32_t c = 0; c < 37; ++c) {
                const Element any = element_at(m, 0, c);
                const float scale = f16_to_f32(any.scale);
                int exponent = 0;
                CHECK(std::frexp(scale, &exponent) == 0.5f);
                if (type == DType::f16) CHECK(scale == 1.0f);
                for (int32_t row = 0; row < m.k_padded; ++row) {
                    const float got = f16_to_f32(uint16_t(code_at(m, row, c))) * scale;
                    float want = 0;
                    if (row < 200) {
                        uint16_t half = 0;
                        const size_t at = size_t(c) * 200 + size_t(row);
                        if (type == DType::f32)
                            std::memcpy(&want, data->bytes.data() + at * 4, 4);
                        else
                            std::memcpy(&half, data->bytes.data() + at * 2, 2);
                        if (type == DType::f16) want = f16_to_f32(half);
                        if (type == DType::bf16) want = bf16_to_f32(half);
                    }
                    // 11 bits of what is not far below the column's largest; the smallest steps of FP16 otherwise.
                    const double allowed =
                        type == DType::f16 ? 0 : std::max(std::fabs(double(want)) * 0x1p-11, double(scale) * 0x1p-25);
                    CHECK(std::fabs(double(got) - double(want)) <= allowed);
                }
            }
        }
    }
}

TEST_CASE("cuda pack: codes are read once, in ascending order, never across groups, and must fit") {
    const std::vector<QuantGroup> groups{{4, 40}, {8, 3}, {4, 128}, {2, 61}};
    QuantSource source;
    source.in_features = 232;
    source.out_features = 70000;  // a buffer of codes holds 32 rows at a time
    source.groups = groups;
    source.scales.assign(groups.size() * 70000, 0x3c00);
    int32_t next = 0;
    uint8_t value = 3;
    source.read_codes = [&](int32_t row0, int32_t rows, uint8_t* codes) {
        CHECK(row0 == next);
        next += rows;
        int32_t begin = 0;
        for (const QuantGroup& group : groups) {
            CHECK((row0 >= begin + group.rows || row0 + rows <= begin + group.rows));
            begin += group.rows;
        }
        std::fill(codes, codes + size_t(rows) * 70000, value);
        return quantplug::kernels::Status{};
    };
    const cuda::PackPlan plan = cuda::plan_pack(source.shape(), 132);
    std::vector<uint8_t> image(plan.total);
    CHECK(cuda::pack_image(source, plan, image.data()).ok());
    CHECK(next == 232);
    next = 0;
    value = 4;  // beyond 2 bits
    const quantplug::kernels::Status status = cuda::pack_image(source, plan, image.data());
    CHECK(status.code == quantplug::kernels::invalid_argument);
    CHECK(status.message.find("group 3 does not fit its 2 bits") != std::string::npos);
}

TEST_CASE("cuda pack: plans of absurd shapes saturate") {
    MatrixShape shape;
    shape.in_features = 1 << 24;
    shape.out_features = 1 << 26;
    CHECK(cuda::plan_pack(shape, 132).total > uint64_t(1) << 50);
    shape.in_features = INT32_MAX;
    shape.out_features = INT32_MAX;
    shape.has_bias = shape.has_zeros = true;
    CHECK(cuda::plan_pack(shape, 132).total == UINT64_MAX);
    shape.groups = {{8, INT32_MAX}};
    CHECK(cuda::plan_pack(shape, 132).total == UINT64_MAX);
    shape.in_features = shape.out_features = -5;
    shape.groups = {{4, -5}};
    CHECK(cuda::plan_pack(shape, 132).total < 4096);
    // Splits: more of them only where there are few blocks, on a large card, for a long K.
    MatrixShape square{2048, 2048, groups_of(4, 2048, 128)};
    CHECK(cuda::plan_pack(square, 132).view.n_splits == 16);
    CHECK(cuda::plan_pack(square, 72).view.n_splits == 8);
    square.out_features = 4096;
    CHECK(cuda::plan_pack(square, 132).view.n_splits == 8);
}
