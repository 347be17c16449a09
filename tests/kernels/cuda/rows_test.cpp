// Norms, operands and element-wise kernels of the CUDA room against loops in double precision.
#include "kernels/cuda/rows.h"

#include "kernels/reference/activation.h"
#include "tests/kernels/cuda/row_order.h"

namespace quantplug::test {
namespace {

using cuda::Operand;
using cuda::RowsView;

struct NormCase {
    int32_t width, rows;
    int32_t kind;
    bool weight, bias;
    int32_t pad;  // ld - width
    int32_t exponent;
    bool in_place;
    int32_t padding = 3;  // rows in a hundred of K'
};

struct NormResult {
    std::vector<float> normed;
    std::vector<uint16_t> operand;
    uint32_t saturated = 0;
};

struct NormData {
    std::vector<float> x, weight, bias;
    RowOrder order;
    int64_t ld;
    int32_t operand_ld;
    NormData(const NormCase& c, Random& random)
        : x(random_rows(size_t(c.rows), c.width + c.pad, random)),
          weight(random_rows(1, c.width, random)),
          bias(random_rows(1, c.width, random)),
          order(c.width, random, c.padding),
          ld(c.width + c.pad),
          operand_ld(int32_t(order.gather.size()) + 128) {
        for (float& v : x) v += 3;  // a mean far from 0: a variance that is not computed around it would be wrong
    }
};

NormResult run_prepare(const NormCase& c, const NormData& data, int32_t row0, int32_t rows) {
    TestQueue queue;
    const std::vector<float> own(data.x.begin() + row0 * data.ld, data.x.begin() + (row0 + rows) * data.ld);
    DeviceArray<float> x(queue, own), weight(queue, data.weight), bias(queue, data.bias), normed(queue, own.size());
    DeviceArray<int32_t> gather(queue, data.order.gather);
    DeviceArray<uint16_t> operand(queue, size_t(rows) * size_t(data.operand_ld));
    DeviceArray<cuda::Saturation> saturation(queue, std::vector<cuda::Saturation>{{0}});
    cuda::PrepareLaunch launch;
    launch.x = {x.data(), data.ld};
    launch.width = c.width;
    launch.rows = rows;
    launch.norm.kind = c.kind;
    launch.norm.eps = 1e-5f;
    launch.norm.weight = c.weight ? weight.data() : nullptr;
    launch.norm.bias = c.bias ? bias.data() : nullptr;
    launch.normed = c.in_place ? launch.x : RowsView{normed.data(), data.ld};
    launch.matrix = data.order.view(gather.data());
    launch.operand = {operand.data(), data.operand_ld, c.exponent};
    launch.saturation = saturation.data();
    cuda::prepare(queue.queue, launch);
    return {c.in_place ? x.get() : normed.get(), operand.get(), saturation.get()[0].count};
}

/// And of each value the error that FP32 may make: sums of at most 16 + 10 rounded additions, the mean's error against
/// the deviation, then some four roundings.
void reference_norm(const NormCase& c, const NormData& data, int32_t row, std::vector<double>& y,
                    std::vector<double>& error) {
    const float* x = data.x.data() + row * data.ld;
    double mean = 0, square = 0, largest = 0;
    for (int32_t i = 0; i < c.width; ++i) {
        if (c.kind == NormSpec::layer) mean += double(x[i]) / c.width;
        largest = std::max(largest, std::abs(double(x[i])));
    }
    for (int32_t i = 0; i < c.width; ++i) square += (double(x[i]) - mean) * (double(x[i]) - mean) / c.width;
    const double deviation = c.kind == NormSpec::none ? 1 : std::sqrt(square + double(1e-5f));
    for (int32_t i = 0; i < c.width; ++i) {
        const bool normed = c.kind != NormSpec::none;
        const double w = normed && c.weight ? double(data.weight[size_t(i)]) : 1;
        const double b = normed && c.bias ? double(data.bias[size_t(i)]) : 0;
        y.push_back(w * (double(x[i]) - mean) / deviation + b);
        error.push_back(normed ? 26 * 0x1p-24 * std::abs(w) * largest / deviation + 0x1p-23 * std::abs(y.back()) : 0);
    }
}

void check_prepare(const NormCase& c, Random& random) {
    CAPTURE(c.width);
    CAPTURE(c.kind);
    const NormData data(c, random);
    schedule(1);
    const NormResult got = run_prepare(c, data, 0, c.rows);
    int32_t wrong = 0;
    for (int32_t r = 0; r < c.rows; ++r) {
        std::vector<double> y, error;
        reference_norm(c, data, r, y, error);
        for (int32_t i = 0; i < c.width; ++i)
            wrong += !(std::abs(double(got.normed[size_t(r * data.ld + i)]) - y[size_t(i)]) <= error[size_t(i)]);
        const double scale = std::ldexp(1, -c.exponent);
        for (size_t p = 0; p < size_t(data.operand_ld); ++p) {
            const uint16_t half = got.operand[size_t(r) * size_t(data.operand_ld) + p];
            if (p >= data.order.gather.size()) {
                wrong += half != 0xffff;  // the poison
            } else if (const int32_t input = data.order.gather[p]; input < 0) {
                wrong += half != 0;
            } else {
                wrong += !is_half_of(half, y[size_t(input)] * scale, error[size_t(input)] * scale);
            }
        }
    }
    CHECK(wrong == 0);
    CHECK(got.saturated == 0);
    // A row's bits depend on nothing but the row.
    schedule(7);
    const NormResult one = run_prepare(c, data, c.rows - 1, 1);
    const size_t last = size_t(c.rows - 1);
    CHECK(std::memcmp(one.operand.data(), got.operand.data() + last * size_t(data.operand_ld),
                      one.operand.size() * 2) == 0);
    CHECK(std::memcmp(one.normed.data(), got.normed.data() + last * size_t(data.ld), size_t(c.width) * 4) == 0);
}

TEST_CASE("cuda prepare: norms and operands") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=", seed);
    Random random(seed);
    for (const int32_t width : {1, 7, 96, 576, 4096, 5000}) {
        for (int32_t kind = NormSpec::none; kind <= NormSpec::layer; ++kind) {
            const int32_t rows = width > 1000 ? 2 : 5;
            check_prepare({width, rows, kind, true, false, 4 - width % 4, 0, false}, random);
            check_prepare({width, rows, kind, width % 2 == 0, true, 1, kind, true}, random);
        }
    }
    check_prepare({576, 2, NormSpec::layer, false, false, 0, 6, false}, random);
    check_prepare({200, 2, NormSpec::rms, true, false, 0, 0, false, 96}, random);  // groups of one row: K' of 32 K
    check_prepare({9001, 1, NormSpec::layer, true, true, 3, 0, true}, random);     // wider than registers hold
    check_prepare({10240, 1, NormSpec::rms, true, false, 0, 0, true}, random);
}

TEST_CASE("cuda prepare: saturation is counted, NaN stays") {
    if (!cuda_there()) return;
    TestQueue queue;
    std::vector<float> values(100, 1.0f);
    values[3] = 65504.0f * 64;
    values[5] = 65520.0f * 64;
    values[98] = -1e30f;
    values[99] = NAN;
    std::vector<int32_t> order(128, -1);
    std::iota(order.begin(), order.begin() + 100, 0);
    DeviceArray<float> x(queue, values);
    DeviceArray<int32_t> gather(queue, order);
    DeviceArray<uint16_t> operand(queue, 128);
    DeviceArray<cuda::Saturation> saturation(queue, std::vector<cuda::Saturation>{{40}});
    cuda::PrepareLaunch launch;
    launch.x = {x.data(), 100};
    launch.width = 100;
    launch.rows = 1;
    launch.matrix.gather = gather.data();
    launch.matrix.k = 100;
    launch.matrix.k_padded = 128;
    launch.operand = {operand.data(), 128, 6};
    launch.saturation = saturation.data();
    cuda::prepare(queue.queue, launch);
    const std::vector<uint16_t> got = operand.get();
    CHECK(got[0] == f32_to_f16(1.0f / 64));
    CHECK(got[3] == f32_to_f16(65504));
    CHECK(got[5] == f32_to_f16(65504));
    CHECK(got[98] == f32_to_f16(-65504));
    CHECK(std::isnan(f16_to_f32(got[99])));
    CHECK(got[100] == 0);
    CHECK(saturation.get()[0].count == 42);

    launch.matrix.k = 101;  // an input that the row does not have
    cuda::prepare(queue.queue, launch);
    const Status refused = queue.queue.take_status();
    CHECK(refused.code == invalid_argument);
    CHECK(refused.message.find("prepare") != std::string::npos);
}

TEST_CASE("cuda activate") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=", seed);
    Random random(seed);
    for (const Activation activation : {Activation::silu, Activation::gelu, Activation::gelu_tanh,
                                        Activation::quick_gelu, Activation::relu, Activation::relu2}) {
        for (const int32_t width : {7, 700, 1408}) {
            CAPTURE(int(activation));
            CAPTURE(width);
            const int32_t rows = 2, ld = width + (width == 700 ? 1 : 5), kind = below(random, 4);
            const bool with_up = kind != 0, keep = kind != 1, packs = kind != 2 || !keep;
            std::vector<float> gates = random_rows(rows, ld, random, 3), ups = random_rows(rows, ld, random);
            gates[0] = -30;
            gates[1] = 30;
            const RowOrder order(width, random);
            const int32_t k_padded = int32_t(order.gather.size());
            std::vector<float> kept[2];
            std::vector<uint16_t> packed[2];
            for (int32_t run = 0; run < 2; ++run) {
                schedule(uint64_t(run) + 3);
                TestQueue queue;
                DeviceArray<float> gate(queue, gates), up(queue, ups);
                DeviceArray<int32_t> gather(queue, order.gather);
                DeviceArray<uint16_t> operand(queue, size_t(rows * k_padded));
                cuda::ActivateLaunch launch;
                launch.gate = {gate.data(), ld};
                launch.up = {with_up ? up.data() : nullptr, ld};
                launch.width = width;
                launch.rows = rows;
                launch.activation = activation;
                launch.keep = keep;
                launch.matrix = order.view(gather.data());
                launch.operand = {packs ? operand.data() : nullptr, k_padded, 6};
                cuda::activate(queue.queue, launch);
                kept[run] = gate.get();
                packed[run] = operand.get();
            }
            CHECK(std::memcmp(kept[0].data(), kept[1].data(), kept[0].size() * 4) == 0);
            CHECK(packed[0] == packed[1]);
            int32_t wrong = 0;
            for (int32_t r = 0; r < rows; ++r) {
                std::vector<double> y, error;
                for (int32_t i = 0; i < ld; ++i) {
                    const size_t at = size_t(r * ld + i);
                    const double g = double(gates[at]), u = with_up ? double(ups[at]) : 1;
                    y.push_back(kernels::reference::activated(activation, g) * u);
                    // 1 + tanh cancels on the left: 2^-24 of |g|; elsewhere some ulp, erfc's argument squared among
                    // them.
                    error.push_back(8e-6 * std::abs(y.back()) + 1e-7 * std::abs(g * u));
                    if (keep && i < width)
                        wrong += !(std::abs(double(kept[0][at]) - y.back()) <= error.back());
                    else
                        wrong += kept[0][at] != gates[at];
                }
                for (int32_t p = 0; packs && p < k_padded; ++p) {
                    const int32_t input = order.gather[size_t(p)];
                    const uint16_t half = packed[0][size_t(r * k_padded + p)];
                    wrong +=
                        input < 0 ? half != 0 : !is_half_of(half, y[size_t(input)] / 64, error[size_t(input)] / 64);
                }
            }
            CHECK(wrong == 0);
        }
    }
}

TEST_CASE("cuda head_norm") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=", seed);
    Random random(seed);
    struct Heads {
        int32_t kind, n_heads, head_dim;
        bool per_head, bias;
    };
    for (const Heads& c : {Heads{1, 5, 64, false, false}, Heads{2, 3, 80, true, true}, Heads{1, 7, 300, true, false},
                           Heads{2, 1, 1000, false, true}}) {
        CAPTURE(c.head_dim);
        const int32_t rows = 3, column = 9, width = c.n_heads * c.head_dim, ld = width + 13;
        const std::vector<float> values = random_rows(rows, ld, random), weights = random_rows(1, width, random),
                                 biases = random_rows(1, width, random);
        TestQueue queue;
        DeviceArray<float> x(queue, values), weight(queue, weights), bias(queue, biases);
        cuda::NormView norm;
        norm.kind = c.kind;
        norm.eps = 1e-6f;
        norm.weight = weight.data();
        norm.bias = c.bias ? bias.data() : nullptr;
        norm.per_head = c.per_head;
        cuda::head_norm(queue.queue, norm, {x.data(), ld}, column, c.n_heads, c.head_dim, rows);
        const std::vector<float> got = x.get();
        std::vector<double> want(values.begin(), values.end());
        for (int32_t r = 0; r < rows; ++r) {
            for (int32_t h = 0; h < c.n_heads; ++h) {
                double* head = want.data() + r * ld + column + h * c.head_dim;
                double mean = 0, square = 0;
                for (int32_t d = 0; d < c.head_dim && c.kind == 2; ++d) mean += head[d] / c.head_dim;
                for (int32_t d = 0; d < c.head_dim; ++d) square += (head[d] - mean) * (head[d] - mean) / c.head_dim;
                for (int32_t d = 0; d < c.head_dim; ++d) {
                    const size_t at = size_t(c.per_head ? h * c.head_dim + d : d);
                    head[d] = (head[d] - mean) / std::sqrt(square + 1e-6) * double(weights[at]) +
                              (c.bias ? double(biases[at]) : 0);
                }
            }
        }
        double worst = 0;
        for (size_t i = 0; i < want.size(); ++i) worst = std::max(worst, std::abs(double(got[i]) - want[i]));
        CHECK(worst < 1e-5);  // values up to 10, sums of some ten roundings
    }
}

TEST_CASE("cuda rows, element by element") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=", seed);
    Random random(seed);
    for (const int32_t width : {1, 96, 1500}) {
        for (const int32_t ld : {width, width + 3, (width + 7) / 4 * 4}) {
            CAPTURE(width);
            CAPTURE(ld);
            const int32_t rows = 3;
            std::vector<float> froms = random_rows(rows, ld, random), tos = random_rows(rows, ld, random),
                               gates = random_rows(rows, 2, random);
            froms[0] = NAN;
            TestQueue queue;
            DeviceArray<float> from(queue, froms), gate(queue, gates), sum(queue, tos), gated(queue, tos),
                copied(queue, tos), clamped(queue, froms);
            cuda::add_scaled(queue.queue, {from.data(), ld}, 0.7f, width, rows, {sum.data(), ld});
            cuda::add_gated(queue.queue, {from.data(), ld}, {gate.data(), 2}, width, rows, {gated.data(), ld});
            cuda::copy_rows(queue.queue, {from.data(), ld}, width, rows, {copied.data(), ld});
            cuda::clamp(queue.queue, {clamped.data(), ld}, width, 0.5f, rows);
            const std::vector<float> sums = sum.get(), gated_sums = gated.get(), copies = copied.get(),
                                     clamps = clamped.get();
            int32_t wrong = 0;
            // NaN in both, or within some roundings of the largest term
            const auto differs = [](float got, double want) {
                return std::isnan(want) ? !std::isnan(got)
                                        : !(std::abs(double(got) - want) <= 4e-7 * (2 + std::abs(want)));
            };
            for (int32_t i = 0; i < rows * ld; ++i) {
                const size_t at = size_t(i);
                const double f = double(froms[at]), t = double(tos[at]), g = double(gates[size_t(i / ld * 2)]);
                const bool there = i % ld < width;
                wrong += differs(sums[at], there ? t + double(0.7f) * f : t);
                wrong += differs(gated_sums[at], there ? t + f / (1 + std::exp(-g)) : t);
                wrong += differs(copies[at], there ? f : t);
                wrong += differs(clamps[at], there ? std::clamp(f, -0.5, 0.5) : f);
            }
            CHECK(wrong == 0);
        }
    }
}

}  // namespace
}  // namespace quantplug::test
