#include "kernels/cuda/gemm.h"

#include <doctest/doctest.h>

#include <cmath>
#include <map>

#include "device_matrix.h"
#if defined(QP_CUDA_SHIM)
#include "kernels/cuda/shim/launch.h"
#endif

using namespace quantplug::test;

namespace {

void set_schedule(uint64_t seed) {
#if defined(QP_CUDA_SHIM)
    cuda::shim_settings().seed = seed;
#else
    (void)seed;
#endif
}

/// Bits of a vector of floats are equal. NaN equals itself.
bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Problem {
    int32_t rows, columns, k;
    float alpha;
    Store store;
    int32_t out_columns, first_column;  // of a wider output
    std::vector<uint16_t> x, w;
    std::vector<float> before;

    Problem(int32_t r, int32_t c, int32_t k_, Random& random) : rows(r), columns(c), k(k_) {
        alpha = random() % 2 ? 1.0f : 64.0f;
        store = random() % 2 ? Store::set : Store::add;
        first_column = below(random, 4);
        out_columns = c + first_column + below(random, 4);
        x = random_halves(size_t(rows) * size_t(x_ld()), random);
        w = random_halves(size_t(columns) * size_t(k), random);
        before.resize(size_t(rows) * size_t(out_columns));
        for (float& v : before) v = gauss(random);
    }
    int32_t x_ld() const { return k + 64; }

    cuda::GemmLaunch launch(const uint16_t* device_x, const uint16_t* device_w, float* out) const {
        cuda::GemmLaunch launch;
        launch.x = device_x;
        launch.x_ld = x_ld();
        launch.w = device_w;
        launch.w_ld = k;
        launch.rows = rows;
        launch.columns = columns;
        launch.k = k;
        launch.alpha = alpha;
        launch.out = out + first_column;
        launch.ld = out_columns;
        launch.store = store;
        return launch;
    }
    std::vector<float> run(int32_t tile_rows) const {
        TestQueue queue;
        DeviceArray<uint16_t> device_x(queue, x), device_w(queue, w);
        DeviceArray<float> out(queue, before);
        cuda::gemm(queue.queue, launch(device_x.data(), device_w.data(), out.data()), tile_rows);
        return out.get();
    }
    /// Products of FP16 are exact in FP32; each of the k additions rounds what is at most the sum of magnitudes, and
    /// tensor cores may truncate: k 2^-23 of it, and the last rounding.
    void check(const std::vector<float>& got) const {
        for (int32_t r = 0; r < rows; ++r) {
            for (int32_t c = 0; c < out_columns; ++c) {
                const size_t at = size_t(r) * size_t(out_columns) + size_t(c);
                const int32_t column = c - first_column;
                if (column < 0 || column >= columns) {
                    if (got[at] != before[at])
                        FAIL("row " << r << ": column " << c << " beside the output was written");
                    continue;
                }
                double sum = 0, magnitude = 0;
                for (int32_t i = 0; i < k; ++i) {
                    const double product = double(f16_to_f32(x[size_t(r) * size_t(x_ld()) + size_t(i)])) *
                                           double(f16_to_f32(w[size_t(column) * size_t(k) + size_t(i)]));
                    sum += product;
                    magnitude += std::fabs(product);
                }
                const double want = sum * double(alpha) + (store == Store::add ? double(before[at]) : 0);
                const double tolerance = magnitude * double(alpha) * k * 0x1p-23 + std::fabs(want) * 0x1p-22;
                if (!(std::fabs(double(got[at]) - want) <= tolerance))
                    FAIL("row " << r << ", column " << column << ": " << got[at] << ", expected " << want << " +- "
                                << tolerance);
            }
        }
    }
};

}  // namespace

TEST_CASE("cuda: the own product agrees with doubles at every edge, whatever the tiles and the schedule") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=", seed);
    Random random(seed);
    const int32_t sizes[][3] = {{1, 1, 32},      {1, 130, 64},   {63, 7, 96},   {64, 128, 128}, {65, 129, 160},
                                {128, 127, 192}, {129, 16, 256}, {200, 33, 32}, {3, 260, 64},   {66, 128, 416}};
    for (const auto& size : sizes) {
        const Problem problem(size[0], size[1], size[2], random);
        INFO(size[0], " rows, ", size[1], " columns, k ", size[2], ", alpha ", problem.alpha, ", add ",
             problem.store == Store::add, ", in column ", problem.first_column, " of ", problem.out_columns);
        set_schedule(1);
        const std::vector<float> by64 = problem.run(64);
        problem.check(by64);
        set_schedule(2);
        CHECK(same_bits(by64, problem.run(128)));
    }
    set_schedule(1);
}

TEST_CASE("cuda: a row of the own product does not depend on the rows beside it") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=", seed);
    Random random(seed);
    Problem many(150, 40, 96, random);
    const std::vector<float> all = many.run(0);
    for (const int32_t row : {0, 1, 77, 149}) {
        Problem one = many;
        one.rows = 1;
        one.x.assign(many.x.begin() + row * many.x_ld(), many.x.begin() + (row + 1) * many.x_ld());
        const auto part = [&](const std::vector<float>& from) {
            return std::vector<float>(from.begin() + row * many.out_columns,
                                      from.begin() + (row + 1) * many.out_columns);
        };
        one.before = part(many.before);
        CHECK(same_bits(one.run(0), part(all)));
    }
}

TEST_CASE("cuda: the own product refuses what it cannot do") {
    if (!cuda_there()) return;
    Random random(1);
    const Problem problem(2, 2, 32, random);
    TestQueue queue;
    DeviceArray<uint16_t> x(queue, problem.x), w(queue, problem.w);
    DeviceArray<float> out(queue, problem.before);
    cuda::GemmLaunch launch = problem.launch(x.data(), w.data(), out.data());
    launch.k = 40;
    cuda::gemm(queue.queue, launch);
    CHECK(queue.queue.take_status().message ==
          "gemm: a product of 2 x 40 by 2 columns in tiles of 0 rows; k is a multiple of 32, tiles have 64 or 128");
    launch.k = 32;
    launch.x_ld = 33;
    cuda::gemm(queue.queue, launch);
    CHECK(queue.queue.take_status().message ==
          "gemm: rows of x and w must be aligned to 16 bytes, x_ld is 33, w_ld 32");
}

namespace {

struct ProductCase {
    std::vector<std::unique_ptr<QuantData>> data;
    std::vector<std::unique_ptr<DeviceMatrix>> matrices;
    std::vector<int32_t> columns;  // where each matrix's output begins
    int32_t out_columns = 0;
};

/// out of every matrix in doubles: the operand as stored (K' order) times the decoded weights.
void check_product(ProductCase& c, int32_t rows, int32_t exponent, Store store, Random& random) {
    TestQueue queue;
    const cuda::MatrixView& first = c.matrices[0]->view;
    const int32_t k_padded = first.k_padded, ld = k_padded + 128;
    std::vector<uint16_t> x(size_t(rows) * size_t(ld), 0x7e00);  // NaN beyond K'
    for (int32_t r = 0; r < rows; ++r) {
        for (int32_t i = 0; i < k_padded; ++i)
            x[size_t(r) * size_t(ld) + size_t(i)] = c.matrices[0]->gather(i) < 0 ? 0 : f32_to_f16(gauss(random));
    }
    std::vector<float> before(size_t(rows) * size_t(c.out_columns));
    for (float& v : before) v = gauss(random);

    cuda::ProductLaunch launch;
    launch.n_matrices = int32_t(c.matrices.size());
    for (size_t m = 0; m < c.matrices.size(); ++m) {
        launch.matrices[m] = c.matrices[m]->view;
        launch.columns[m] = c.columns[m];
    }
    launch.rows = rows;
    launch.ld = c.out_columns;
    launch.store = store;
    const auto run = [&](uint64_t schedule) {
        set_schedule(schedule);
        DeviceArray<uint16_t> device_x(queue, x), scratch(queue, cuda::gemm_scratch_halves(k_padded));
        DeviceArray<float> out(queue, before);
        launch.x = {device_x.data(), ld, exponent};
        launch.out = out.data();
        cuda::gemm_product(queue.queue, nullptr, launch, scratch.data());
        return out.get();
    };
    const std::vector<float> got = run(1);
    CHECK(same_bits(got, run(2)));
    set_schedule(1);

    const double alpha = std::ldexp(1.0, exponent);
    std::vector<bool> written(before.size(), false);
    for (size_t m = 0; m < c.matrices.size(); ++m) {
        DeviceMatrix& matrix = *c.matrices[m];
        const std::vector<float>& bias = c.data[m]->source.bias;
        for (int32_t r = 0; r < rows; ++r) {
            for (int32_t n = 0; n < matrix.view.n; ++n) {
                double sum = 0, magnitude = 0;
                for (int32_t i = 0; i < k_padded; ++i) {
                    if (matrix.gather(i) < 0) continue;
                    const double product = double(f16_to_f32(x[size_t(r) * size_t(ld) + size_t(i)])) *
                                           double(matrix.at(matrix.gather(i), n));
                    sum += product;
                    magnitude += std::fabs(product);
                }
                const size_t at = size_t(r) * size_t(c.out_columns) + size_t(c.columns[m] + n);
                written[at] = true;
                const double want = sum * alpha + (store == Store::add ? double(before[at]) : 0) +
                                    (bias.empty() ? 0 : double(bias[size_t(n)]));
                const double tolerance = magnitude * alpha * matrix.view.k * 0x1p-23 +
                                         (std::fabs(want) + std::fabs(double(before[at])) + 4) * 0x1p-22;
                if (!(std::fabs(double(got[at]) - want) <= tolerance))
                    FAIL("matrix " << m << ", row " << r << ", column " << n << ": " << got[at] << ", expected "
                                   << want);
            }
        }
    }
    for (size_t i = 0; i < got.size(); ++i) {
        if (!written[i] && got[i] != before[i]) FAIL("element " << i << " beside the outputs was written");
    }
}

void add_matrix(ProductCase& c, TestQueue& queue, const Shape& shape, int32_t column, Random& random) {
    c.data.push_back(random_quant(shape, random));
    QuantSource& source = c.data.back()->source;
    if (shape.perm) source.perm = c.data.front()->source.perm;  // matrices of one operand have one order
    c.matrices.push_back(std::make_unique<DeviceMatrix>(queue, *c.data.back()));
    c.columns.push_back(column);
    c.out_columns = std::max(c.out_columns, column + shape.n + 1);
}

}  // namespace

TEST_CASE("cuda: products of many rows agree with the decoded weights") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=", seed);
    Random random(seed);
    const auto shape = [](int32_t n, bool perm, bool bias) {
        return Shape{"", 200, n, {{4, 96}, {3, 104}}, true, perm, bias};
    };
    SUBCASE("neighbours are multiplied together, others alone") {
        ProductCase c;
        TestQueue queue;
        add_matrix(c, queue, shape(48, true, true), 1, random);
        add_matrix(c, queue, shape(19, true, false), 49, random);  // joins; its own padding must not reach the next
        add_matrix(c, queue, shape(16, true, true), 68, random);
        for (const int32_t rows : {1, 5, 70}) check_product(c, rows, 6, rows == 5 ? Store::add : Store::set, random);
    }
    SUBCASE("apart, and out of order") {
        ProductCase c;
        TestQueue queue;
        add_matrix(c, queue, shape(33, false, false), 40, random);
        add_matrix(c, queue, shape(32, false, true), 0, random);
        check_product(c, 9, 0, Store::add, random);
    }
    SUBCASE("more columns than a block of the scratch") {
        ProductCase c;
        TestQueue queue;
        add_matrix(c, queue, {"", 32, 19, {{4, 32}}}, 0, random);  // no whole blocks: nothing joins
        add_matrix(c, queue, {"", 32, 4096 - 48, {{2, 32}}}, 19, random);
        add_matrix(c, queue, {"", 32, 100, {{8, 32}}}, 19 + 4096 - 48, random);
        check_product(c, 3, 0, Store::set, random);
    }
}

TEST_CASE("cuda: the scratch of a product serves every narrower matrix, within the cache") {
    uint64_t before = 0;
    for (int32_t k = 128; k <= 128 * 1024; k += 128) {
        const uint64_t halves = cuda::gemm_scratch_halves(k);
        CHECK(halves >= before);
        CHECK((halves <= uint64_t(20) << 20 || halves == 128 * uint64_t(k)));
        before = halves;
    }
}

namespace {

/// A cuBLAS that notes what it is asked for.
struct FakeBlas {
    struct Call {
        int op_a, op_b, m, n, k, a_type, b_type, c_type, lda, ldb, ldc, compute, algorithm;
        float alpha, beta;
        const void *a, *b;
        void* c;
    };
    std::vector<Call> calls;
    std::vector<const char*> log;
    void* workspace = nullptr;
    size_t workspace_bytes = 0;
    int gemm_status = 0;
    const char* missing = "";
};
FakeBlas* fake = nullptr;

int fake_create(void** handle) { return *handle = fake, 0; }
int fake_destroy(void*) { return fake->log.push_back("destroy"), 0; }
int fake_version(void*, int* version) { return *version = 130002, 0; }
int fake_stream(void*, void*) { return fake->workspace = nullptr, fake->log.push_back("stream"), 0; }
int fake_workspace(void*, void* workspace, size_t bytes) {
    fake->workspace = workspace;
    fake->workspace_bytes = bytes;
    return 0;
}
int fake_gemm(void*, int op_a, int op_b, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda,
              const void* b, int b_type, int ldb, const void* beta, void* c, int c_type, int ldc, int compute,
              int algorithm) {
    fake->calls.push_back({op_a, op_b, m, n, k, a_type, b_type, c_type, lda, ldb, ldc, compute, algorithm,
                           *static_cast<const float*>(alpha), *static_cast<const float*>(beta), a, b, c});
    return fake->gemm_status;
}
void* fake_symbol(void*, const char* name) {
    if (std::strcmp(name, fake->missing) == 0) return nullptr;
    const std::map<std::string, void*> symbols{{"cublasCreate_v2", reinterpret_cast<void*>(fake_create)},
                                               {"cublasDestroy_v2", reinterpret_cast<void*>(fake_destroy)},
                                               {"cublasGetVersion_v2", reinterpret_cast<void*>(fake_version)},
                                               {"cublasSetStream_v2", reinterpret_cast<void*>(fake_stream)},
                                               {"cublasSetWorkspace_v2", reinterpret_cast<void*>(fake_workspace)},
                                               {"cublasGemmEx", reinterpret_cast<void*>(fake_gemm)}};
    const auto found = symbols.find(name);
    return found == symbols.end() ? nullptr : found->second;
}

}  // namespace

TEST_CASE("cuda: cuBLAS is asked for the product in its own terms") {
    if (!cuda_there()) return;
    FakeBlas noted;
    fake = &noted;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=", seed);
    Random random(seed);
    Problem problem(5, 7, 64, random);
    {
        TestQueue queue;
        std::unique_ptr<cuda::Blas> blas = cuda::Blas::from_symbols(fake_symbol, nullptr);
        REQUIRE(blas);
        CHECK(std::string(blas->version()) == "cuBLAS 13.0.2");
        const cuda::GemmLaunch launch = problem.launch(problem.x.data(), problem.w.data(), problem.before.data());
        blas->gemm(queue.queue, launch);
        blas->gemm(queue.queue, launch);
        CHECK(queue.queue.ok());
        CHECK(noted.log.size() == 1);  // the stream is set once
        CHECK(noted.workspace != nullptr);
        CHECK(noted.workspace_bytes == cuda::blas_workspace_bytes);
        REQUIRE(noted.calls.size() == 2);
        noted.gemm_status = 13;
        blas->gemm(queue.queue, launch);
        CHECK(queue.queue.take_status().message ==
              "cuBLAS 13.0.2: a product of 5 x 64 x 7 failed with CUBLAS_STATUS_EXECUTION_FAILED (13); "
              "QUANTPLUG_CUBLAS=off does without it");
    }
    CHECK(std::string(noted.log.back()) == "destroy");

    // The call by cuBLAS's documentation: all matrices column by column, C = alpha op(A) op(B) + beta C.
    const FakeBlas::Call& call = noted.calls[0];
    CHECK(call.a_type == 2);  // CUDA_R_16F
    CHECK(call.b_type == 2);
    CHECK(call.c_type == 0);    // CUDA_R_32F
    CHECK(call.compute == 68);  // CUBLAS_COMPUTE_32F
    CHECK(call.algorithm == -1);
    std::vector<float> out = problem.before;
    const auto element = [](const void* p, int op, int ld, int row, int column) {
        const int at = op == 0 ? row + column * ld : column + row * ld;
        return f16_to_f32(static_cast<const uint16_t*>(p)[at]);
    };
    for (int i = 0; i < call.m; ++i) {
        for (int j = 0; j < call.n; ++j) {
            float sum = 0;
            for (int l = 0; l < call.k; ++l)
                sum += element(call.a, call.op_a, call.lda, i, l) * element(call.b, call.op_b, call.ldb, l, j);
            float& c = out[size_t(problem.first_column + i + j * call.ldc)];
            c = call.alpha * sum + call.beta * c;
        }
    }
    CHECK(call.c == problem.before.data() + problem.first_column);
    problem.check(out);
}

TEST_CASE("cuda: without cuBLAS there is none, and no error") {
    FakeBlas noted;
    fake = &noted;
    for (const char* name : {"cublasCreate_v2", "cublasDestroy_v2", "cublasGetVersion_v2", "cublasSetStream_v2",
                             "cublasSetWorkspace_v2", "cublasGemmEx"}) {
        noted.missing = name;
        CHECK(!cuda::Blas::from_symbols(fake_symbol, nullptr));
    }
    for (const char* wish : {"off", "/nowhere/libcublas.so"}) {
        setenv("QUANTPLUG_CUBLAS", wish, 1);
        CHECK(!cuda::Blas::open());
    }
    unsetenv("QUANTPLUG_CUBLAS");
#if defined(QP_CUDA_SHIM)
    CHECK(!cuda::Blas::open());
#endif
}
