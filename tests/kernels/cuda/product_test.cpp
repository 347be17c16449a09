// Products of few rows against sums in double. What is allowed: integers and FP16 activations are exact, a product of
// the two is too; FP32 sums of K of them round each by 2^-24 of the running sum, in runs of a group and a range, which
// stays below 1e-5 of the root of the summed squares |p|.
#include "kernels/cuda/product.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "kernels/reference/activation.h"
#include "packed_matrix.h"
#if defined(QP_CUDA_SHIM)
#include "kernels/cuda/shim/launch.h"
#endif

using namespace quantplug::test;

namespace {

constexpr double sum_error = 1e-5;

struct Expected {
    std::vector<double> value, size;  // (rows, n): x W + b, |p|
};

Expected expected(const std::vector<double>& w, const std::vector<float>& bias, const std::vector<uint16_t>& x,
                  int32_t rows, int32_t k, int32_t n, double scale = 1) {
    Expected out;
    for (int32_t r = 0; r < rows; ++r) {
        std::vector<double> sum(size_t(n), 0.0), square(size_t(n), 0.0);
        for (int32_t i = 0; i < k; ++i) {
            const double v = scale * double(f16_to_f32(x[size_t(r) * size_t(k) + size_t(i)]));
            for (int32_t c = 0; c < n; ++c) {
                const double p = v * w[size_t(i) * size_t(n) + size_t(c)];
                sum[size_t(c)] += p;
                square[size_t(c)] += p * p;
            }
        }
        for (int32_t c = 0; c < n; ++c) {
            const double b = bias.empty() ? 0 : double(bias[size_t(c)]);
            out.value.push_back(sum[size_t(c)] + b);
            out.size.push_back(std::sqrt(square[size_t(c)]) + std::fabs(b));
        }
    }
    return out;
}

// Columns column .. column + n - 1 of `got` (rows, ld); the worst error in |p|.
double check_close(const std::vector<float>& got, int64_t ld, int32_t column, const Expected& want, int32_t rows,
                   int32_t n, double allowed) {
    double worst = 0;
    for (int32_t r = 0; r < rows; ++r) {
        for (int32_t c = 0; c < n; ++c) {
            const size_t at = size_t(r) * size_t(n) + size_t(c);
            const double g = double(got[size_t(r * ld + column + c)]);
            const double error = std::fabs(g - want.value[at]) / (want.size[at] + 1e-30);
            if (!(error <= allowed)) {
                CHECK_MESSAGE(error <= allowed, "row " << r << ", column " << c << ": expected " << want.value[at]
                                                       << ", got " << g << ", error / |p| " << error);
                return error;
            }
            worst = std::max(worst, error);
        }
    }
    return worst;
}

int32_t operand_ld(const cuda::MatrixView& view) { return (view.k_padded + 127) / 128 * 128; }

class Launcher {
 public:
    explicit Launcher(uint64_t seed) : random(seed) {}
    TestQueue queue;
    Random random;

    cuda::Operand operand(DeviceArray<uint16_t>& x, int32_t ld, int32_t exponent = 0) {
        return {x.data(), ld, exponent};
    }
    // One matrix, freshly set.
    std::vector<float> run(PackedMatrix& m, const std::vector<uint16_t>& x, int32_t rows) {
        const int32_t ld = operand_ld(m.view) + 128;
        DeviceArray<uint16_t> device_x(queue, operand_of(m.host, x, rows, ld));
        DeviceArray<float> out(queue, size_t(rows) * size_t(m.view.n));
        cuda::ProductLaunch launch;
        launch.matrices[0] = m.view;
        launch.x = operand(device_x, ld);
        launch.rows = rows;
        launch.out = out.data();
        launch.ld = m.view.n;
        cuda::product(queue.queue, launch);
        return out.get();
    }
};

void set_schedule(uint64_t seed) {
#if defined(QP_CUDA_SHIM)
    cuda::shim_settings().seed = seed;
#else
    (void)seed;
#endif
}

}  // namespace

TEST_CASE("cuda product: every shape of quantised matrices") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Launcher l(seed);
    double worst = 0;
    for (const Shape& shape : shapes()) {
        const std::unique_ptr<QuantData> data = random_quant(shape, l.random);
        PackedMatrix m(l.queue, data->source);
        const std::vector<double> w = exact_weights(*data);
        const std::vector<uint16_t> x = random_halves(33 * size_t(shape.k), l.random);
        const Expected want = expected(w, data->source.bias, x, 33, shape.k, shape.n);
        for (const int32_t rows : {1, 3, 8, 9, 33}) {
            INFO(std::string(shape.name) << ", " << shape.groups[0].bits << " bits, " << rows << " rows");
            const std::vector<float> got = l.run(m, x, rows);
            worst = std::max(worst, check_close(got, shape.n, 0, want, rows, shape.n, sum_error));
        }
    }
    MESSAGE("worst error / |p| " << worst);
}

TEST_CASE("cuda product: ranges far longer than the ring, every width and group class") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Launcher l(seed);
    const int32_t k = 11200, n = 3, rows = 9;
    const auto check = [&](const auto& data, const char* name, int32_t bits) {
        INFO(std::string(name) << ", " << bits << " bits");
        PackedMatrix m(l.queue, data.source);
        const std::vector<uint16_t> x = random_halves(size_t(rows) * size_t(k), l.random);
        const Expected want = expected(exact_weights(data), data.source.bias, x, rows, k, n);
        for (const int32_t some : {1, rows}) check_close(l.run(m, x, some), n, 0, want, some, n, sum_error);
    };
    for (const int32_t bits : {2, 3, 4, 5, 6, 8}) {
        const int32_t size = bits % 3 == 0 ? 32 : bits % 3 == 1 ? 64 : 128;
        check(*random_quant({"", k, n, groups_of(bits, k, size), bits % 2 == 0, false, false}, l.random), "groups",
              bits);
        check(*random_quant({"", k, n, groups_of(bits, k, k), bits % 2 == 1, true, false}, l.random), "one group",
              bits);
    }
    check(*random_dense(k, n, DType::f16, true, l.random), "plain", 16);
}

TEST_CASE("cuda product: plain matrices of the three types") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Launcher l(seed);
    for (const DType type : {DType::f16, DType::bf16, DType::f32}) {
        const std::unique_ptr<DenseData> data = random_dense(200, 37, type, true, l.random);
        PackedMatrix m(l.queue, data->source);
        const std::vector<double> w = exact_weights(*data);
        const std::vector<uint16_t> x = random_halves(10 * 200, l.random);
        const Expected want = expected(w, data->source.bias, x, 10, 200, 37);
        // FP32 weights are rounded to 11 bits, so are BF16 ones far below their column's largest: independent errors of
        // at most 2^-11 of each product, 0.4 of that on average, so that 2^-9 of |p| is ten standard deviations.
        const double allowed = type == DType::f16 ? sum_error : type == DType::bf16 ? 2 * sum_error : 0x1p-9;
        for (const int32_t rows : {1, 10}) {
            INFO("type " << int(type) << ", " << rows << " rows");
            check_close(l.run(m, x, rows), 37, 0, want, rows, 37, allowed);
        }
    }
}

TEST_CASE("cuda product: a row's bits are its own, whatever the rows, its place, the warps, the schedule") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Launcher l(seed);
    const Shape mixed{"mixed", 2080, 21, {{8, 96}, {6, 160}, {5, 128}, {4, 800}, {3, 480}, {2, 416}}, true, true, true};
    const std::unique_ptr<QuantData> data = random_quant(mixed, l.random);
    for (const int32_t n_multiprocessors : {16, 132}) {
        PackedMatrix m(l.queue, data->source, n_multiprocessors);
        CHECK(m.view.n_splits == (n_multiprocessors == 132 ? 16 : 8));
        const std::vector<uint16_t> x = random_halves(70 * size_t(mixed.k), l.random);
        const size_t n = size_t(mixed.n);
        const std::vector<float> all = l.run(m, x, 70);
        check_close(all, mixed.n, 0, expected(exact_weights(*data), data->source.bias, x, 70, mixed.k, mixed.n), 70,
                    mixed.n, sum_error);
        for (const int32_t rows : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 64, 65, 69}) {
            // The last `rows` rows: each lies elsewhere than before.
            set_schedule(uint64_t(rows) + 5);
            const std::vector<uint16_t> some(x.end() - rows * mixed.k, x.end());
            const std::vector<float> got = l.run(m, some, rows);
            CHECK_MESSAGE(std::memcmp(got.data(), all.data() + (70 - size_t(rows)) * n, got.size() * 4) == 0,
                          rows << " rows, " << n_multiprocessors << " multiprocessors");
        }
        set_schedule(1);
    }
}

TEST_CASE("cuda product: three matrices side by side, set and add, a scaled operand") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Launcher l(seed);
    // One order for all three; zero points in one alone, 16 ranges in two.
    Shape shapes_of[3] = {{"q", 2048, 40, groups_of(4, 2048, 128), false, true, true},
                          {"k", 2048, 33, groups_of(4, 2048, 128), true, true, false},
                          {"v", 2048, 16, groups_of(3, 2048, 64), false, true, true}};
    std::unique_ptr<QuantData> data[3];
    for (int i = 0; i < 3; ++i) {
        data[i] = random_quant(shapes_of[i], l.random);
        if (i > 0) data[i]->source.perm = data[0]->source.perm;
    }
    PackedMatrix q(l.queue, data[0]->source, 132), k(l.queue, data[1]->source, 132), v(l.queue, data[2]->source, 16);
    for (const int32_t rows : {2, 12}) {
        const std::vector<uint16_t> x = random_halves(size_t(rows) * 2048, l.random);
        const int32_t ld = operand_ld(q.view);
        DeviceArray<uint16_t> device_x(l.queue, operand_of(q.host, x, rows, ld));
        const int64_t out_ld = 100;
        DeviceArray<float> out(l.queue, std::vector<float>(size_t(rows) * size_t(out_ld), 7.0f));
        cuda::ProductLaunch launch;
        launch.n_matrices = 3;
        launch.matrices[0] = q.view;
        launch.matrices[1] = k.view;
        launch.matrices[2] = v.view;
        launch.columns[1] = 41;
        launch.columns[2] = 75;
        launch.x = l.operand(device_x, ld, 6);
        launch.rows = rows;
        launch.out = out.data();
        launch.ld = out_ld;
        for (const Store store : {Store::set, Store::add}) {
            launch.store = store;
            cuda::product(l.queue.queue, launch);
            const std::vector<float> got = out.get();
            for (int i = 0; i < 3; ++i) {
                Expected want =
                    expected(exact_weights(*data[i]), data[i]->source.bias, x, rows, 2048, shapes_of[i].n, 64);
                if (store == Store::add) {
                    for (double& value : want.value) value *= 2;
                }
                check_close(got, out_ld, launch.columns[i], want, rows, shapes_of[i].n, 2 * sum_error);
            }
            for (int32_t r = 0; r < rows; ++r) {
                for (const int32_t c : {40, 74, 91, 99}) CHECK(got[size_t(r * out_ld + c)] == 7.0f);
            }
        }
    }
}

namespace {

// act(gate) * up, or act(up); sizes: what an error of 1 in |p| of both sums makes of it, at a slope of at most 1.13
// (relu2: 2 |x|).
Expected gated(Activation activation, const Expected* gate, const Expected& up) {
    Expected out;
    for (size_t i = 0; i < up.value.size(); ++i) {
        const Expected& first = gate ? *gate : up;
        const double a = quantplug::kernels::reference::activated(activation, first.value[i]);
        const double slope =
            activation == Activation::relu2 ? 2 * std::fabs(first.value[i]) + 0.01 * first.size[i] : 1.2;
        const double other = gate ? up.value[i] : 1;
        out.value.push_back(a * other);
        out.size.push_back(slope * first.size[i] * std::fabs(other) + (gate ? std::fabs(a) * up.size[i] : 0) +
                           std::fabs(a * other) + 0.01 * first.size[i] * up.size[i]);
    }
    return out;
}

constexpr Activation activations[] = {Activation::silu,       Activation::gelu, Activation::gelu_tanh,
                                      Activation::quick_gelu, Activation::relu, Activation::relu2};

// A packed result (rows, ld) in the order of `down` against doubles * 2^-exponent, with FP16's rounding; zeros in the
// padding, untouched beyond K'.
void check_packed(const std::vector<uint16_t>& got, int32_t ld, int32_t exponent, const cuda::MatrixView& down,
                  const Expected& want, int32_t rows) {
    int bad = 0;
    for (int32_t r = 0; r < rows; ++r) {
        for (int32_t i = 0; i < ld; ++i) {
            const uint16_t half = got[size_t(r) * size_t(ld) + size_t(i)];
            if (i >= down.k_padded) {
                bad += half != 0xffff;
            } else if (down.gather[i] < 0) {
                bad += half != 0;
            } else {
                const size_t at = size_t(r) * size_t(down.k) + size_t(down.gather[i]);
                const double value = std::ldexp(want.value[at], -exponent), size = std::ldexp(want.size[at], -exponent);
                bad += !(std::fabs(double(f16_to_f32(half)) - value) <=
                         2 * sum_error * size + std::fabs(value) * 0x1p-11 + 0x1p-25);
            }
        }
    }
    CHECK(bad == 0);
}

}  // namespace

TEST_CASE("cuda gated product: every activation, to FP32 and to the next product's operand") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Launcher l(seed);
    const int32_t k = 320, inner = 70;
    // One order and one padding for both, so that they take one operand.
    const std::vector<QuantGroup> groups{{5, 64}, {4, 160}, {3, 96}};
    const std::unique_ptr<QuantData> gate = random_quant({"gate", k, inner, groups, true, true, true}, l.random, 0.2f);
    const std::unique_ptr<QuantData> up = random_quant({"up", k, inner, groups, false, true, false}, l.random, 0.2f);
    up->source.perm = gate->source.perm;
    const std::unique_ptr<QuantData> down =
        random_quant({"down", inner, 32, groups_of(4, inner, 32), false, true, false}, l.random);
    PackedMatrix d(l.queue, down->source), g(l.queue, gate->source), u(l.queue, up->source);
    for (const int32_t rows : {1, 9, 35}) {
        const std::vector<uint16_t> x = random_halves(size_t(rows) * size_t(k), l.random);
        const int32_t ld = operand_ld(u.view);
        DeviceArray<uint16_t> device_x(l.queue, operand_of(u.host, x, rows, ld));
        const Expected want_gate = expected(exact_weights(*gate), gate->source.bias, x, rows, k, inner);
        const Expected want_up = expected(exact_weights(*up), up->source.bias, x, rows, k, inner);
        for (const Activation activation : activations) {
            for (const bool with_gate : {true, false}) {
                INFO("activation " << int(activation) << ", " << rows << " rows, gate " << with_gate);
                const Expected want = gated(activation, with_gate ? &want_gate : nullptr, want_up);
                const int32_t out_ld = inner + 3, packed_ld = operand_ld(d.view) + 128;
                DeviceArray<float> out(l.queue, size_t(rows) * size_t(out_ld));
                DeviceArray<uint16_t> packed(l.queue, size_t(rows) * size_t(packed_ld));
                DeviceArray<uint32_t> saturation(l.queue, std::vector<uint32_t>{0});
                cuda::GatedLaunch launch;
                if (with_gate) launch.gate = g.view;
                launch.up = u.view;
                launch.activation = activation;
                launch.x = l.operand(device_x, ld);
                launch.rows = rows;
                launch.out = out.data();
                launch.ld = out_ld;
                launch.packed = l.operand(packed, packed_ld, 6);
                launch.down = d.view;
                launch.saturation = reinterpret_cast<cuda::Saturation*>(saturation.data());
                cuda::gated_product(l.queue.queue, launch);
                check_close(out.get(), out_ld, 0, want, rows, inner, sum_error);
                check_packed(packed.get(), packed_ld, 6, d.host, want, rows);
                CHECK(saturation.get()[0] == 0);
            }
        }
    }
}

namespace {

// W_o (k, hidden) adds to a stream and leaves what gate and up (hidden, inner) read.
void check_folded(Launcher& l, int32_t k, int32_t hidden, int32_t n_multiprocessors, int32_t n_splits) {
    const int32_t inner = 40, all_rows = 35;
    const float eps = 0.1f;
    const std::unique_ptr<QuantData> o =
        random_quant({"o", k, hidden, groups_of(4, k, 64), true, true, true}, l.random, 0.2f);
    const std::vector<QuantGroup> groups{{5, hidden / 2}, {3, hidden - hidden / 2}};
    const std::unique_ptr<QuantData> gate =
        random_quant({"gate", hidden, inner, groups, true, true, true}, l.random, 0.2f);
    const std::unique_ptr<QuantData> up =
        random_quant({"up", hidden, inner, groups, false, true, true}, l.random, 0.2f);
    up->source.perm = gate->source.perm;
    PackedMatrix po(l.queue, o->source, n_multiprocessors), pg(l.queue, gate->source, n_multiprocessors),
        pu(l.queue, up->source, n_multiprocessors);
    for (const PackedMatrix* m : {&po, &pg, &pu}) CHECK(m->view.n_splits == n_splits);
    // Streams of every magnitude, and rows of zeros before the product.
    const double magnitudes[] = {1, 1e5, 1e-4, 0, 1e-9, 30, 1e10};
    std::vector<float> before(size_t(all_rows) * size_t(hidden)), weight, sums;
    for (int32_t r = 0; r < all_rows; ++r) {
        double sum = 0;
        for (int32_t c = 0; c < hidden; ++c) {
            float& v = before[size_t(r * hidden + c)];
            v = float(magnitudes[r % 7]) * gauss(l.random);
            sum += double(v) * double(v);
        }
        sums.insert(sums.end(), {float(sum), NAN, NAN, NAN});  // one part; the rest must not be read into it
    }
    for (int32_t c = 0; c < hidden; ++c) weight.push_back(1 + gauss(l.random, 0.3f));
    const std::vector<uint16_t> all_x = random_halves(size_t(all_rows) * size_t(k), l.random);
    const int32_t x_ld = operand_ld(po.view), packed_ld = operand_ld(pu.view) + 128;
    const int32_t parts = cuda::folded_parts(po.view.n_blocks), parts_ld = (parts + 3) / 4 * 4;

    struct Left {
        std::vector<float> stream, squares, plain, gated;
        std::vector<int32_t> exponents;
        std::vector<uint16_t> packed;
    };
    // Rows first .. first + rows - 1.
    const auto run = [&](int32_t first, int32_t rows) {
        const auto part = [&](const auto& values, int32_t width) {
            return std::decay_t<decltype(values)>(values.begin() + first * width,
                                                  values.begin() + (first + rows) * width);
        };
        DeviceArray<uint16_t> x(l.queue, operand_of(po.host, part(all_x, k), rows, x_ld));
        DeviceArray<float> stream(l.queue, part(before, hidden)), w(l.queue, weight), sum(l.queue, part(sums, 4));
        DeviceArray<float> squares(l.queue, size_t(rows) * size_t(parts_ld));
        DeviceArray<int32_t> exponents(l.queue, size_t(rows));
        DeviceArray<uint16_t> packed(l.queue, size_t(rows) * size_t(packed_ld));
        DeviceArray<uint32_t> saturation(l.queue, std::vector<uint32_t>{0});
        DeviceArray<float> plain(l.queue, size_t(rows) * size_t(2 * inner)),
            gated(l.queue, size_t(rows) * size_t(inner));
        cuda::ProductLaunch adding;
        adding.matrices[0] = po.view;
        adding.x = l.operand(x, x_ld);
        adding.rows = rows;
        adding.out = stream.data();
        adding.ld = hidden;
        adding.store = Store::add;
        adding.fold_out.packed = l.operand(packed, packed_ld);
        adding.fold_out.order = pu.view;
        adding.fold_out.weight = w.data();
        adding.fold_out.squares = {squares.data(), parts, parts_ld};
        adding.fold_out.exponents = exponents.data();
        adding.fold_out.before = {sum.data(), 1, 4};
        adding.fold_out.saturation = reinterpret_cast<cuda::Saturation*>(saturation.data());
        cuda::product(l.queue.queue, adding);
        cuda::ProductLaunch reading;
        reading.n_matrices = 2;
        reading.matrices[0] = pg.view;
        reading.matrices[1] = pu.view;
        reading.columns[1] = inner;
        reading.x = adding.fold_out.packed;
        reading.rows = rows;
        reading.out = plain.data();
        reading.ld = 2 * inner;
        reading.fold_in = {adding.fold_out.squares, exponents.data(), hidden, eps};
        cuda::product(l.queue.queue, reading);
        cuda::GatedLaunch mlp;
        mlp.gate = pg.view;
        mlp.up = pu.view;
        mlp.x = reading.x;
        mlp.rows = rows;
        mlp.out = gated.data();
        mlp.ld = inner;
        mlp.fold_in = reading.fold_in;
        cuda::gated_product(l.queue.queue, mlp);
        CHECK(saturation.get()[0] == 0);
        return Left{stream.get(), squares.get(), plain.get(), gated.get(), exponents.get(), packed.get()};
    };

    const Left all = run(0, all_rows);
    Expected stream = expected(exact_weights(*o), o->source.bias, all_x, all_rows, k, hidden);
    for (size_t i = 0; i < before.size(); ++i) {
        stream.value[i] += double(before[i]);
        stream.size[i] += std::fabs(double(before[i]));
    }
    check_close(all.stream, hidden, 0, stream, all_rows, hidden, sum_error);
    int bad = 0;
    std::vector<uint16_t> x;  // what was left, in input order
    std::vector<double> factors;
    for (int32_t r = 0; r < all_rows; ++r) {
        const float* h = all.stream.data() + r * hidden;
        // Powers of two near 16 times the root mean square before.
        const double rms = std::sqrt(double(sums[size_t(4 * r)]) / hidden);
        const int32_t e = all.exponents[size_t(r)];
        bad += rms < 0x1p-13 ? e != -8 : std::fabs(std::log2(16 * rms) - e) > 0.501 && e != -8;
        double sum = 0;
        for (int32_t p = 0; p < parts; ++p) {
            double want = 0;
            for (int32_t c = 8 * p; c < std::min(8 * p + 8, hidden); ++c) want += double(h[c]) * double(h[c]);
            const double got = double(all.squares[size_t(r * parts_ld + p)]);
            bad += !(std::fabs(got - want) <= 1e-6 * want);
            sum += want;
        }
        for (int32_t i = 0; i < packed_ld; ++i) {
            const uint16_t half = all.packed[size_t(r * packed_ld + i)];
            const int32_t c = i < pu.host.k_padded ? pu.host.gather[i] : -1;
            if (i >= pu.host.k_padded)
                bad += half != 0xffff;
            else if (c < 0)
                bad += half != 0;
            else
                bad += half != f32_to_f16(std::ldexp(h[c] * weight[size_t(c)], -e));
        }
        for (int32_t c = 0; c < hidden; ++c) x.push_back(all.packed[size_t(r * packed_ld + pu.host.scatter[c])]);
        factors.push_back(std::ldexp(1.0, e) / std::sqrt(sum / hidden + double(eps)));
    }
    CHECK(bad == 0);
    const auto normed = [&](const QuantData& data) {
        Expected want = expected(exact_weights(data), {}, x, all_rows, hidden, inner);
        for (size_t i = 0; i < want.value.size(); ++i) {
            const double bias = double(data.source.bias[i % size_t(inner)]);
            want.value[i] = want.value[i] * factors[i / size_t(inner)] + bias;
            want.size[i] = want.size[i] * factors[i / size_t(inner)] + std::fabs(bias);
        }
        return want;
    };
    const Expected want_gate = normed(*gate), want_up = normed(*up);
    check_close(all.plain, 2 * inner, 0, want_gate, all_rows, inner, sum_error);
    check_close(all.plain, 2 * inner, inner, want_up, all_rows, inner, sum_error);
    check_close(all.gated, inner, 0, gated(Activation::silu, &want_gate, want_up), all_rows, inner, sum_error);

    for (const int32_t rows : {1, 7, 9, 16, 33}) {
        set_schedule(uint64_t(rows) + 5);
        const int32_t first = all_rows - rows;  // other places than before
        const Left some = run(first, rows);
        const auto same = [&](const auto& a, const auto& b, int32_t width) {
            return std::memcmp(a.data(), b.data() + first * width, size_t(rows * width) * sizeof(a[0])) == 0;
        };
        INFO(rows << " rows");
        CHECK(same(some.stream, all.stream, hidden));
        CHECK(same(some.packed, all.packed, packed_ld));
        CHECK(same(some.squares, all.squares, parts_ld));
        CHECK(same(some.exponents, all.exponents, 1));
        CHECK(same(some.plain, all.plain, 2 * inner));
        CHECK(same(some.gated, all.gated, inner));
    }
    set_schedule(1);
}

}  // namespace

TEST_CASE("cuda product: a norm folded into the product before it and those behind it") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Launcher l(seed);
    check_folded(l, 320, 70, 16, 8);
    check_folded(l, 2100, 2090, 132, 16);
}

TEST_CASE("cuda gated product: values beyond FP16 saturate and are counted") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Launcher l(seed);
    const std::unique_ptr<QuantData> up = random_quant({"up", 128, 40, groups_of(8, 128, 128)}, l.random, 1000.0f);
    const std::unique_ptr<QuantData> down = random_quant({"down", 40, 16, groups_of(4, 40, 40)}, l.random);
    PackedMatrix u(l.queue, up->source), d(l.queue, down->source);
    const std::vector<uint16_t> x = random_halves(3 * 128, l.random);
    const Expected want = gated(Activation::relu2, nullptr, expected(exact_weights(*up), {}, x, 3, 128, 40));
    uint32_t beyond = 0;
    for (const double v : want.value) beyond += std::fabs(v) > 65504;
    DeviceArray<uint16_t> device_x(l.queue, operand_of(u.host, x, 3, 128)), packed(l.queue, 3 * 128);
    DeviceArray<uint32_t> saturation(l.queue, std::vector<uint32_t>{2});
    cuda::GatedLaunch launch;
    launch.up = u.view;
    launch.activation = Activation::relu2;
    launch.x = l.operand(device_x, 128);
    launch.rows = 3;
    launch.packed = l.operand(packed, 128);
    launch.down = d.view;
    launch.saturation = reinterpret_cast<cuda::Saturation*>(saturation.data());
    cuda::gated_product(l.queue.queue, launch);
    CHECK(saturation.get()[0] == 2 + beyond);
    uint32_t at_limit = 0;
    for (const uint16_t half : packed.get()) at_limit += half == 0x7bff;
    CHECK(at_limit == beyond);
    CHECK(beyond > 0);
}

TEST_CASE("cuda expert products: each pair with its expert's own matrices, whatever their widths") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Launcher l(seed);
    const int32_t n_experts = 4, k = 256, inner = 50;
    std::vector<std::unique_ptr<QuantData>> data[3];  // gate, up, down
    std::vector<std::unique_ptr<PackedMatrix>> packed[3];
    std::vector<cuda::MatrixView> tables[3];
    for (int32_t e = 0; e < n_experts; ++e) {
        const int32_t bits = 2 + e;
        data[0].push_back(
            random_quant({"gate", k, inner, groups_of(bits, k, 128), e == 1, true, e == 2}, l.random, 0.2f));
        data[1].push_back(random_quant({"up", k, inner, groups_of(bits, k, 64), e == 2, true, false}, l.random, 0.2f));
        data[1].back()->source.perm = data[0].back()->source.perm;
        data[2].push_back(
            random_quant({"down", inner, k, groups_of(bits, inner, e == 0 ? 7 : 50), e == 3, true, true}, l.random));
        for (int i = 0; i < 3; ++i) {
            packed[i].push_back(std::make_unique<PackedMatrix>(l.queue, data[i].back()->source));
            tables[i].push_back(packed[i].back()->view);
        }
    }
    DeviceArray<cuda::MatrixView> gates(l.queue, tables[0]), ups(l.queue, tables[1]), downs(l.queue, tables[2]);
    for (const int32_t slab_rows : {8, 32}) {
        // Expert 0: more pairs than a slab, 2: none, then dead slabs and pairs.
        const std::vector<int32_t> counts{slab_rows + 3, 1, 0, 5};
        std::vector<cuda::ExpertSlab> slabs;
        std::vector<int32_t> pair_expert;
        for (int32_t e = 0; e < n_experts; ++e) {
            for (int32_t first = 0; first < counts[size_t(e)]; first += slab_rows)
                slabs.push_back(
                    {e, int32_t(pair_expert.size()) + first, std::min(slab_rows, counts[size_t(e)] - first)});
            pair_expert.insert(pair_expert.end(), size_t(counts[size_t(e)]), e);
        }
        const int32_t live = int32_t(pair_expert.size()), live_slabs = int32_t(slabs.size()), pairs = live + 2;
        slabs.push_back({-1, -1, -1});
        slabs.push_back({-1, -1, -1});
        DeviceArray<cuda::ExpertSlab> device_slabs(l.queue, slabs);
        DeviceArray<int32_t> n_slabs(l.queue, std::vector<int32_t>{live_slabs});
        cuda::Routed routed;
        routed.slabs = device_slabs.data();
        routed.n_slabs = n_slabs.data();
        routed.max_slabs = int32_t(slabs.size());
        routed.slab_rows = slab_rows;
        routed.max_pairs = pairs;

        const std::vector<uint16_t> x = random_halves(size_t(pairs) * size_t(k), l.random);
        const int32_t ld = 256, inner_ld = 384;
        std::vector<uint16_t> operand(size_t(pairs) * size_t(ld), 0x7e00);
        std::vector<Expected> want_inner, want_down;
        const auto row = [&](int32_t p) { return std::vector<uint16_t>(x.begin() + p * k, x.begin() + (p + 1) * k); };
        for (int32_t p = 0; p < live; ++p) {
            const size_t e = size_t(pair_expert[size_t(p)]);
            const std::vector<uint16_t> one = operand_of(packed[0][e]->host, row(p), 1, ld);
            std::copy(one.begin(), one.end(), operand.begin() + p * ld);
            const Expected gate = expected(exact_weights(*data[0][e]), data[0][e]->source.bias, row(p), 1, k, inner);
            const Expected up = expected(exact_weights(*data[1][e]), data[1][e]->source.bias, row(p), 1, k, inner);
            want_inner.push_back(gated(Activation::silu, &gate, up));
        }
        DeviceArray<uint16_t> device_x(l.queue, operand), hidden(l.queue, size_t(pairs) * size_t(inner_ld));
        DeviceArray<uint32_t> saturation(l.queue, std::vector<uint32_t>{0});
        cuda::ExpertGatedLaunch first;
        first.gates = gates.data();
        first.ups = ups.data();
        first.downs = downs.data();
        first.shape = tables[0][0];
        first.down_shape = tables[2][0];
        first.routed = routed;
        first.x = l.operand(device_x, ld);
        first.packed = l.operand(hidden, inner_ld, 6);
        first.saturation = reinterpret_cast<cuda::Saturation*>(saturation.data());
        cuda::expert_gated_product(l.queue.queue, first);
        DeviceArray<float> out(l.queue, size_t(pairs) * size_t(k));
        cuda::ExpertProductLaunch second;
        second.table = downs.data();
        second.shape = tables[2][0];
        second.routed = routed;
        second.x = l.operand(hidden, inner_ld, 6);
        second.out = out.data();
        second.ld = k;
        cuda::expert_product(l.queue.queue, second);
        const std::vector<uint16_t> got_hidden = hidden.get();
        const std::vector<float> got = out.get();
        for (int32_t p = 0; p < live; ++p) {
            INFO("pair " << p << " of expert " << pair_expert[size_t(p)] << ", slabs of " << slab_rows);
            const size_t e = size_t(pair_expert[size_t(p)]);
            const cuda::MatrixView& down = packed[2][e]->host;
            const std::vector<uint16_t> own(got_hidden.begin() + p * inner_ld, got_hidden.begin() + (p + 1) * inner_ld);
            check_packed(own, inner_ld, 6, down, want_inner[size_t(p)], 1);
            std::vector<uint16_t> in(size_t(inner), uint16_t(0));
            for (int32_t i = 0; i < inner; ++i) in[size_t(i)] = own[size_t(down.scatter[i])];
            const Expected want = expected(exact_weights(*data[2][e]), data[2][e]->source.bias, in, 1, inner, k, 64);
            const std::vector<float> mine(got.begin() + p * k, got.begin() + (p + 1) * k);
            check_close(mine, k, 0, want, 1, k, sum_error);
        }
        // Pairs that are not live stay as they were.
        for (size_t i = size_t(live) * size_t(inner_ld); i < got_hidden.size(); ++i) CHECK(got_hidden[i] == 0xffff);
        for (size_t i = size_t(live) * size_t(k); i < got.size(); ++i) CHECK(std::isnan(got[i]));
    }
}

TEST_CASE("cuda product: what it cannot compute is refused by name") {
    if (!cuda_there()) return;
    Launcher l(1);
    cuda::ProductLaunch launch;
    launch.rows = 1;
    DeviceArray<float> out(l.queue, 16);
    launch.out = out.data();
    cuda::product(l.queue.queue, launch);
    CHECK(l.queue.queue.take_status().message.find("unpacked matrix") != std::string::npos);
    const std::unique_ptr<QuantData> data = random_quant({"m", 128, 16, groups_of(4, 128, 128)}, l.random);
    PackedMatrix m(l.queue, data->source);
    DeviceArray<uint16_t> x(l.queue, 128);
    launch.matrices[0] = m.view;
    launch.ld = 16;
    launch.x = {x.data(), 64, 0};
    cuda::product(l.queue.queue, launch);
    CHECK(l.queue.queue.take_status().message.find("row stride of 64") != std::string::npos);
    launch.x.ld = 128;
    launch.rows = -1;
    cuda::product(l.queue.queue, launch);
    CHECK(l.queue.queue.take_status().message.find("rows numbering -1") != std::string::npos);
    l.queue.finish();
}
