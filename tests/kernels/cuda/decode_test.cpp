#include "kernels/cuda/decode.h"

#include <doctest/doctest.h>

#include <cmath>

#include "device_matrix.h"

using namespace quantplug::test;

namespace {

/// The bits of every decoded value but the sign of zeros in padding. (16 n_blocks, k_padded)
void check_blocks(DeviceMatrix& matrix, const std::vector<uint16_t>& out, int32_t block0, int32_t n_blocks) {
    const int32_t k_padded = matrix.view.k_padded;
    for (int32_t c = 0; c < n_blocks * cuda::block_columns; ++c) {
        const int32_t column = block0 * cuda::block_columns + c;
        for (int32_t row = 0; row < k_padded; ++row) {
            const uint16_t got = out[size_t(c) * size_t(k_padded) + size_t(row)];
            const int32_t input = matrix.gather(row);
            const bool padding = input < 0 || column >= matrix.view.n;
            const float want = padding ? 0 : matrix.at(input, column);
            const bool same = padding        ? (got & 0x7fffu) == 0
                              : matrix.exact ? got == f32_to_f16(want)
                                             : std::fabs(f16_to_f32(got) - want) <= matrix.tolerance(input, column);
            if (same) continue;
            FAIL("column " << column << ", row " << row << " (input " << input << "): " << f16_to_f32(got)
                           << ", expected " << want);
        }
    }
}

void check_decoding(TestQueue& queue, DeviceMatrix& matrix) {
    const int32_t n_blocks = matrix.view.n_blocks;
    const size_t block = size_t(cuda::block_columns) * size_t(matrix.view.k_padded);
    DeviceArray<uint16_t> all(queue, block * size_t(n_blocks)), last(queue, block);
    cuda::decode_blocks(queue.queue, matrix.view, 0, n_blocks, all.data());
    cuda::decode_blocks(queue.queue, matrix.view, n_blocks - 1, 1, last.data());
    check_blocks(matrix, all.get(), 0, n_blocks);
    check_blocks(matrix, last.get(), n_blocks - 1, 1);
}

/// A step of rows whose tokens and positions are given; rows of the launch beyond them are dummies.
struct DeviceStep {
    DeviceStep(TestQueue& queue, const std::vector<int32_t>& tokens, const std::vector<int32_t>& positions,
               int32_t n_dummies)
        : header(queue, {cuda::StepHeader{int32_t(tokens.size()), 1, 0, 0}}),
          rows(queue, rows_of(tokens, positions, n_dummies)) {
        view.header = header.data();
        view.rows = rows.data();
    }
    static std::vector<cuda::StepRow> rows_of(const std::vector<int32_t>& tokens, const std::vector<int32_t>& positions,
                                              int32_t n_dummies) {
        std::vector<cuda::StepRow> out;
        for (size_t r = 0; r < tokens.size(); ++r) out.push_back({tokens[r], positions[r], 0, positions[r] + 1, 0});
        out.resize(out.size() + size_t(n_dummies), {-7, 0, -1, 0, -1});
        return out;
    }
    DeviceArray<cuda::StepHeader> header;
    DeviceArray<cuda::StepRow> rows;
    cuda::StepView view;
};

void check_table(DeviceMatrix& table, TestQueue& queue, Random& random) {
    const int32_t k = table.view.k, n = table.view.n, ld = k + 3;
    const std::vector<int32_t> chosen{below(random, n), n - 1}, tokens{below(random, n), -2, 0, -1, n - 1};
    const std::vector<int32_t> wanted{tokens[0], chosen[1], 0, chosen[0], n - 1, 0, 0};  // two dummies
    const int32_t offset = std::min(2, n - 1);
    std::vector<int32_t> positions;
    for (size_t r = 0; r < tokens.size(); ++r) positions.push_back(below(random, n - offset));
    DeviceStep step(queue, tokens, positions, 2);
    DeviceArray<int32_t> device_chosen(queue, chosen);
    const size_t rows = wanted.size();
    DeviceArray<float> out(queue, rows * size_t(ld));
    std::vector<float> x(rows * size_t(ld));
    for (float& v : x) v = gauss(random);
    DeviceArray<float> sums(queue, x);

    cuda::EmbedLaunch launch;
    launch.table = table.view;
    launch.step = step.view;
    launch.rows = int32_t(rows);
    launch.chosen = device_chosen.data();
    launch.scale = 11.3f;
    launch.out = out.data();
    launch.ld = ld;
    cuda::embed_rows(queue.queue, launch);
    cuda::add_positions(queue.queue, table.view, step.view, int32_t(rows), offset, sums.data(), ld);

    const std::vector<float> got = out.get(), got_sums = sums.get();
    for (size_t r = 0; r < rows; ++r) {
        for (int32_t i = 0; i < ld; ++i) {
            const size_t at = r * size_t(ld) + size_t(i);
            if (i >= k) {
                CHECK(std::isnan(got[at]));  // untouched
                CHECK(got_sums[at] == x[at]);
                continue;
            }
            const float value = table.at(i, wanted[r]), tolerance = 11.3f * table.tolerance(i, wanted[r]);
            if (!(std::fabs(got[at] - value * 11.3f) <= tolerance))
                FAIL("row " << r << ", input " << i << ": " << got[at] << ", expected " << value * 11.3f);
            const int32_t column = r < positions.size() ? positions[r] + offset : -1;
            const float sum = x[at] + (column < 0 ? 0 : table.at(i, column));
            const float sum_tolerance =
                column < 0 || table.exact ? 0 : table.tolerance(i, column) + std::fabs(sum) * 0x1p-23f;
            if (!(std::fabs(got_sums[at] - sum) <= sum_tolerance))
                FAIL("row " << r << ", input " << i << " with its position: " << got_sums[at] << ", expected " << sum);
        }
    }
}

}  // namespace

TEST_CASE("cuda: quantised matrices are decoded bit for bit") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=", seed);
    Random random(seed);
    for (const Shape& shape : shapes()) {
        INFO(shape.name, ", ", shape.k, " x ", shape.n, ", bits ", shape.groups[0].bits);
        auto data = random_quant(shape, random, random() % 4 == 0 ? 1e-5f : 0.02f);  // FP16's subnormals too
        // Scales of either sign: a code at its zero point is then a negative zero.
        for (uint16_t& scale : data->source.scales) scale = uint16_t(scale ^ (random() % 2 ? 0x8000u : 0u));
        TestQueue queue;
        DeviceMatrix matrix(queue, *data);
        check_decoding(queue, matrix);
        check_table(matrix, queue, random);
    }
}

TEST_CASE("cuda: plain matrices are decoded to FP16 of what is stored") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=", seed);
    Random random(seed);
    for (const DType type : {DType::f16, DType::bf16, DType::f32}) {
        for (const std::pair<int32_t, int32_t>& size : {std::pair{64, 16}, {200, 37}, {1, 1}, {1100, 18}}) {
            const int32_t k = size.first, n = size.second;
            const float sigma = random() % 2 ? 0.05f : 3.0f;
            INFO("type ", int(type), ", ", k, " x ", n, ", sigma ", sigma);
            auto data = random_dense(k, n, type, false, random, sigma);
            TestQueue queue;
            DeviceMatrix matrix(queue, *data);
            check_decoding(queue, matrix);
            check_table(matrix, queue, random);
        }
    }
}

TEST_CASE("cuda: decode refuses what it cannot do") {
    if (!cuda_there()) return;
    Random random(1);
    auto data = random_dense(64, 32, DType::f16, false, random);
    TestQueue queue;
    DeviceMatrix matrix(queue, *data);
    DeviceArray<uint16_t> out(queue, 16);
    cuda::decode_blocks(queue.queue, matrix.view, 1, 2, out.data());
    CHECK(queue.queue.take_status().message == "decode: column blocks 1 to 3 of a matrix of 2");
    cuda::decode_blocks(queue.queue, matrix.view, 0, 1, out.data() + 1);
    CHECK(queue.queue.take_status().message == "decode: out must be aligned to 16 bytes");
}
