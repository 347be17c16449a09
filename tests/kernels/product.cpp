// Packed matrices times rows, as the head of a model without layers: every shape, both computes, every instruction set,
// against doubles.
#include "model.h"

using namespace quantplug::test;

namespace {

// A model of no layers whose rows are those of `inputs` (n_vocab, K) and whose head is the matrix under test.
struct Product {
    std::unique_ptr<Device> device;
    ModelSpec spec;
    Kv kv;

    template <class Source>
    Product(std::unique_ptr<Device> d, const Source& source, const DenseData& inputs, Compute compute)
        : device(std::move(d)) {
        spec.hidden_size = source.in_features;
        spec.intermediate_size = 1;
        spec.n_vocab = source.out_features;
        spec.n_heads = spec.n_kv_heads = 1;
        spec.head_dim = 2;
        spec.max_positions = 256;
        spec.compute = compute;
        REQUIRE(device->pack(inputs.source, &spec.embedding).ok());
        const Status status = device->pack(source, &spec.head);
        REQUIRE_MESSAGE(status.ok(), status.message);
        REQUIRE(device->prepare(spec, 128, 128).ok());
        REQUIRE(device->make_kv(spec, {KvSpec::f32, 256, 1}, &kv).ok());
    }

    // (rows, N) for the tokens 0, 1 .. rows-1 modulo N.
    std::vector<float> run(int32_t rows) {
        std::vector<Row> step_rows;
        std::vector<Wanted> wanted;
        for (int32_t r = 0; r < rows; ++r) {
            step_rows.push_back({0, r % spec.n_vocab, r});
            wanted.push_back({r, Wanted::logits, 0});
        }
        const std::vector<int32_t> table{0};
        StepResult result;
        const Status status = device->wait(device->submit(spec, {step_rows, kv, table, 1, wanted, true},
                                                          [&](Ops& ops) {
                                                              ops.head_sample(spec, ops.embed(spec));
                                                              return true;
                                                          }),
                                           &result);
        REQUIRE_MESSAGE(status.ok(), status.message);
        return result.values;
    }
};

const float* input_row(const DenseData& inputs, int32_t r) {
    const int32_t token = r % inputs.source.out_features;
    return reinterpret_cast<const float*>(inputs.bytes.data()) + size_t(token) * size_t(inputs.source.in_features);
}

constexpr int32_t row_counts[] = {1, 2, 3, 4, 5, 8, 17, 64, 70};

}  // namespace

TEST_CASE(
    "quantised products agree with doubles, with equal bits on every instruction set, thread count and number of "
    "rows") {
    const uint64_t seed = fresh_seed();
    Random random(seed);
    for (const Shape& shape : shapes()) {
        INFO("seed " << seed << ", " << std::string(shape.name) << ", bits " << shape.groups[0].bits);
        const auto quant = random_quant(shape, random);
        const auto inputs = random_dense(shape.k, shape.n, DType::f32, false, random, 1);
        const size_t n = size_t(shape.n);
        for (Compute compute : {Compute::standard, Compute::exact}) {
            INFO(std::string(compute == Compute::exact ? "exact" : "standard"));
            const int32_t most = row_counts[std::size(row_counts) - 1];
            std::vector<float> portable;
            for (const char* name : instruction_sets()) {
                for (int32_t threads : {1, 3}) {
                    INFO(std::string(name) << ", " << threads << " threads");
                    Product product(cpu_device(name, threads), quant->source, *inputs, compute);
                    const auto all = product.run(most);
                    REQUIRE(all.size() == size_t(most) * n);
                    if (portable.empty()) portable = all;
                    CHECK(std::memcmp(all.data(), portable.data(), all.size() * sizeof(float)) == 0);
                    for (int32_t rows : row_counts) {
                        const auto some = product.run(rows);
                        CHECK(std::memcmp(some.data(), portable.data(), some.size() * sizeof(float)) == 0);
                    }
                }
            }
            // Doubles, from the definition. exact multiplies the FP16 values; standard multiplies scale * (code - zero)
            // unrounded.
            int32_t shown = 0;
            for (int32_t r = 0; r < std::min(most, shape.n); ++r) {
                const float* x = input_row(*inputs, r);
                for (size_t c = 0; c < n; ++c) {
                    double sum = shape.bias ? double(quant->source.bias[c]) : 0, magnitude = std::fabs(sum),
                           activation_error = 0;
                    size_t row = 0;
                    for (size_t g = 0; g < shape.groups.size(); ++g) {
                        const QuantGroup& group = shape.groups[g];
                        const double scale = double(f16_to_f32(quant->source.scales[g * n + c]));
                        const int32_t zero = shape.zeros ? quant->source.zeros[g * n + c] : 1 << (group.bits - 1);
                        for (int32_t i = 0; i < group.rows; ++i, ++row) {
                            double weight = scale * (quant->codes[row * n + c] - zero);
                            if (compute == Compute::exact) weight = double(f16_to_f32(f32_to_f16(float(weight))));
                            const double value = double(x[shape.perm ? size_t(quant->source.perm[row]) : row]);
                            sum += value * weight;
                            magnitude += std::fabs(value * weight);
                            activation_error += std::fabs(weight) * 6 /
                                                64770;  // half a step of amax / 32385; amax of normal values below 6
                        }
                    }
                    // FP32 sums: (K / 4 + 6) roundings of 2^-24 at the most.
                    const double rounding = (double(shape.k) / 4 + 6) * 0x1p-24 * magnitude;
                    const double bound = rounding + (compute == Compute::exact ? 0 : activation_error) + 1e-30;
                    const double got = double(portable[size_t(r) * n + c]);
                    if (!(std::fabs(got - sum) <= bound) && shown++ < 3) {
                        INFO("row " << r << ", column " << c << ": expected " << sum << ", got " << got << ", bound "
                                    << bound);
                        CHECK(std::fabs(got - sum) <= bound);
                    }
                }
            }
        }
    }
}

TEST_CASE("dense products agree with doubles, with equal bits everywhere") {
    const uint64_t seed = fresh_seed();
    Random random(seed);
    for (DType type : {DType::f32, DType::f16, DType::bf16}) {
        for (int32_t k : {1, 15, 16, 33, 576}) {
            for (int32_t n : {1, 6, 35}) {
                INFO("seed " << seed << ", type " << int(type) << ", " << k << " x " << n);
                const auto dense = random_dense(k, n, type, n == 6, random);
                const auto inputs = random_dense(k, n, DType::f32, false, random, 1);
                std::vector<float> portable;
                for (const char* name : instruction_sets()) {
                    for (int32_t threads : {1, 3}) {
                        Product product(cpu_device(name, threads), dense->source, *inputs, Compute::standard);
                        for (int32_t rows : row_counts) {
                            const auto some = product.run(rows);
                            if (portable.empty()) portable = product.run(70);
                            CHECK(std::memcmp(some.data(), portable.data(), some.size() * sizeof(float)) == 0);
                        }
                    }
                }
                for (int32_t r = 0; r < n; ++r) {
                    for (int32_t c = 0; c < n; ++c) {
                        double sum = n == 6 ? double(dense->source.bias[size_t(c)]) : 0, magnitude = std::fabs(sum);
                        for (int32_t i = 0; i < k; ++i) {
                            const size_t at = size_t(c) * size_t(k) + size_t(i);
                            const auto* u16 = reinterpret_cast<const uint16_t*>(dense->bytes.data());
                            const auto* f32 = reinterpret_cast<const float*>(dense->bytes.data());
                            const double weight = type == DType::f32   ? double(f32[at])
                                                  : type == DType::f16 ? double(f16_to_f32(u16[at]))
                                                                       : double(bf16_to_f32(u16[at]));
                            sum += double(input_row(*inputs, r)[i]) * weight;
                            magnitude += std::fabs(double(input_row(*inputs, r)[i]) * weight);
                        }
                        CHECK(std::fabs(double(portable[size_t(r) * size_t(n) + size_t(c)]) - sum) <=
                              (k / 16 + 6) * 0x1p-24 * magnitude + 1e-30);
                    }
                }
            }
        }
    }
}

TEST_CASE("a row of NaN, infinity, zeros or denormals is handled, and leaves its neighbours alone") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    const Shape shape{"", 64, 16, groups_of(4, 64, 32)};
    const auto quant = random_quant(shape, random);
    const auto inputs = random_dense(64, 16, DType::f32, false, random, 1);
    auto* x = reinterpret_cast<float*>(inputs->bytes.data());
    const float special[] = {std::nanf(""), INFINITY, 0.0f, 1e-41f};
    for (int32_t r = 0; r < 4; ++r) std::fill(x + r * 64, x + r * 64 + 64, special[r]);
    std::vector<float> portable;
    for (const char* name : instruction_sets()) {
        Product product(cpu_device(name, 2), quant->source, *inputs, Compute::standard);
        const auto y = product.run(16);
        if (portable.empty()) portable = y;
        for (size_t c = 0; c < 16; ++c) {
            CHECK(std::isnan(y[c]));
            CHECK(std::isnan(y[16 + c]));
            CHECK(y[32 + c] == 0.0f);
            CHECK(y[48 + c] == 0.0f);
        }
        CHECK(std::memcmp(y.data() + 64, portable.data() + 64, (y.size() - 64) * sizeof(float)) == 0);
        CHECK(std::isfinite(y[64]));
    }
}
