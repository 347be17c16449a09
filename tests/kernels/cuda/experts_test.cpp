// Routing, and what goes in and out of experts, of the CUDA room against plain loops.
#include <limits>
#include <set>

#include "kernels/cuda/rows.h"
#include "tests/kernels/cuda/row_order.h"

namespace quantplug::test {
namespace {

struct RouteCase {
    int32_t n_experts, top_k, rows, live, slab_rows;
    bool renormalise;
};

struct Pairs {
    std::vector<cuda::ExpertSlab> slabs;
    int32_t n_slabs = 0;
    std::vector<int32_t> expert, row, row_pairs;
    std::vector<float> weight;

    bool operator==(const Pairs& other) const {
        return n_slabs == other.n_slabs && expert == other.expert && row == other.row && row_pairs == other.row_pairs &&
               std::memcmp(weight.data(), other.weight.data(), weight.size() * 4) == 0;
    }
};

Pairs run_route(const RouteCase& c, const std::vector<float>& values, int32_t ld) {
    TestQueue queue;
    DeviceArray<float> logits(queue, values);
    DeviceArray<cuda::StepHeader> header(queue, std::vector<cuda::StepHeader>{{c.live, 0, 0, 0}});
    const size_t n_pairs = size_t(c.rows * c.top_k);
    DeviceArray<cuda::ExpertSlab> slabs(queue,
                                        size_t(cuda::route_max_slabs(c.rows, c.n_experts, c.top_k, c.slab_rows)));
    DeviceArray<int32_t> n_slabs(queue, 1), expert(queue, n_pairs), row(queue, n_pairs), row_pairs(queue, n_pairs),
        counts(queue, size_t(2 * c.n_experts));
    DeviceArray<float> weight(queue, n_pairs);
    cuda::RouteLaunch launch;
    launch.logits = {logits.data(), ld};
    launch.n_experts = c.n_experts;
    launch.top_k = c.top_k;
    launch.rows = c.rows;
    launch.renormalise = c.renormalise;
    launch.header = c.live < c.rows ? header.data() : nullptr;
    launch.slab_rows = c.slab_rows;
    launch.slabs = slabs.data();
    launch.n_slabs = n_slabs.data();
    launch.pair_expert = expert.data();
    launch.pair_row = row.data();
    launch.pair_weight = weight.data();
    launch.row_pairs = row_pairs.data();
    launch.counts = counts.data();
    cuda::route(queue.queue, launch);
    logits.get();
    counts.get();
    return {slabs.get(), n_slabs.get()[0], expert.get(), row.get(), row_pairs.get(), weight.get()};
}

/// The reference: kernels/reference/experts.cpp. Pairs by expert, then row; their weights.
void check_route(const RouteCase& c, Random& random) {
    CAPTURE(c.n_experts);
    CAPTURE(c.top_k);
    CAPTURE(c.rows);
    const int32_t ld = c.n_experts + 3;
    std::vector<float> logits = random_rows(size_t(c.rows), ld, random, 2);
    for (int32_t i = 0; i < c.rows / 2 * ld; ++i) logits[size_t(i)] = std::round(logits[size_t(i)] * 2) / 2;  // ties
    if (c.rows > 1) std::fill_n(logits.begin(), c.n_experts, -0.0f), logits[size_t(c.n_experts / 2)] = 0.0f;
    schedule(2);
    const Pairs got = run_route(c, logits, ld);
    schedule(11);
    CHECK(got == run_route(c, logits, ld));

    int32_t wrong = 0;
    std::vector<std::vector<int32_t>> rows_of(size_t(c.n_experts));
    std::vector<std::vector<double>> weights_of(size_t(c.n_experts));
    for (int32_t r = 0; r < std::min(c.live, c.rows); ++r) {
        const float* z = logits.data() + r * ld;
        std::vector<int32_t> order(static_cast<size_t>(c.n_experts));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return z[a] > z[b]; });
        double sum = 0, kept = 0;
        for (int32_t i = 0; i < c.n_experts; ++i) {
            const double p = std::exp(double(z[order[size_t(i)]]) - double(z[order[0]]));
            sum += p;
            kept += i < c.top_k ? p : 0;
        }
        for (int32_t i = 0; i < c.top_k; ++i) {
            const size_t e = size_t(order[size_t(i)]);
            rows_of[e].push_back(r);
            weights_of[e].push_back(std::exp(double(z[e]) - double(z[order[0]])) / (c.renormalise ? kept : sum));
        }
    }
    int32_t pair = 0, slab = 0;
    std::vector<int32_t> seen(size_t(c.rows), 0);
    for (int32_t e = 0; e < c.n_experts; ++e) {
        const int32_t first = pair, count = int32_t(rows_of[size_t(e)].size());
        for (int32_t i = 0; i < count; ++i, ++pair) {
            const size_t at = size_t(pair);
            const int32_t r = rows_of[size_t(e)][size_t(i)];
            const double weight = weights_of[size_t(e)][size_t(i)];
            wrong += got.expert[at] != e || got.row[at] != r;
            // expf of a difference below 30 and sums of a few roundings
            wrong += !(std::abs(double(got.weight[at]) - weight) <= 4e-6 * weight);
            wrong += got.row_pairs[size_t(r * c.top_k + seen[size_t(r)]++)] != pair;
        }
        for (int32_t done = 0; done < count; done += c.slab_rows, ++slab) {
            const cuda::ExpertSlab& s = got.slabs[size_t(slab)];
            wrong += s.expert != e || s.first != first + done || s.count != std::min(c.slab_rows, count - done);
        }
    }
    CHECK(got.n_slabs == slab);
    CHECK(slab <= int32_t(got.slabs.size()));
    for (; pair < c.rows * c.top_k; ++pair) wrong += got.expert[size_t(pair)] != -1;
    CHECK(wrong == 0);
}

TEST_CASE("cuda route") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=", seed);
    Random random(seed);
    check_route({1, 1, 3, 3, 8, true}, random);
    check_route({3, 3, 5, 4, 2, false}, random);
    check_route({8, 2, 1, 1, 8, true}, random);
    check_route({8, 2, 200, 187, 8, true}, random);  // more rows than one block takes
    check_route({60, 4, 40, 40, 8, false}, random);
    check_route({64, 6, 64, 1, 32, false}, random);
    check_route({128, 8, 8, 5, 8, true}, random);
    check_route({128, 8, 70, 70, 32, true}, random);
    check_route({512, 10, 4, 3, 8, true}, random);
    check_route({512, 32, 33, 33, 8, false}, random);
    check_route({33, 32, 2, 0, 8, true}, random);  // nothing is live
}

TEST_CASE("cuda route: logits that are no numbers") {
    if (!cuda_there()) return;
    const float inf = std::numeric_limits<float>::infinity();
    const RouteCase c{40, 4, 4, 4, 8, true};
    std::vector<float> logits(160, 1.0f);
    std::fill_n(logits.begin(), 40, NAN);
    std::fill_n(logits.begin() + 40, 40, -inf);
    logits[85] = inf;
    logits[120] = NAN;  // never among the best while there are others
    const Pairs got = run_route(c, logits, 40);
    for (int32_t r = 0; r < 4; ++r) {
        std::set<int32_t> experts;
        for (int32_t i = 0; i < 4; ++i) {
            const int32_t pair = got.row_pairs[size_t(r * 4 + i)];
            REQUIRE(pair >= 0);
            REQUIRE(pair < 16);
            CHECK(got.row[size_t(pair)] == r);
            CHECK(std::isnan(got.weight[size_t(pair)]));
            experts.insert(got.expert[size_t(pair)]);
        }
        CHECK(experts.size() == 4);
        CHECK(experts.count(0) == (r == 3 ? 0 : 1));
    }
}

TEST_CASE("cuda prepare_pairs and combine_pairs") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=", seed);
    Random random(seed);
    for (const int32_t width : {7, 576, 1401}) {
        CAPTURE(width);
        const int32_t n_experts = 3, rows = 4, live = 3, top_k = 2, ld = width + 2;
        const std::vector<int32_t> experts{0, 0, 1, 2, 2, 2, -1, -1}, pair_rows{0, 2, 1, 0, 1, 2, 0, 0},
            pairs_of_rows{0, 3, 2, 4, 1, 5, -1, -1};
        const std::vector<float> weights{0.5f, 0.25f, -1, 2, 0.125f, 3, 0, 0};
        std::vector<RowOrder> orders;
        int32_t k_padded = 0;
        for (int32_t e = 0; e < n_experts; ++e) {
            orders.emplace_back(width, random);
            k_padded = std::max(k_padded, int32_t(orders.back().gather.size()));
        }
        const std::vector<float> xs = random_rows(8, ld, random, 100);
        TestQueue queue;
        DeviceArray<float> x(queue, xs), weight(queue, weights), out(queue, size_t(rows * ld));
        DeviceArray<int32_t> gather0(queue, orders[0].gather), gather1(queue, orders[1].gather),
            gather2(queue, orders[2].gather), expert(queue, experts), row(queue, pair_rows),
            row_pairs(queue, pairs_of_rows);
        DeviceArray<cuda::MatrixView> table(
            queue, std::vector<cuda::MatrixView>{orders[0].view(gather0.data()), orders[1].view(gather1.data()),
                                                 orders[2].view(gather2.data())});
        DeviceArray<cuda::StepHeader> header(queue, std::vector<cuda::StepHeader>{{live, 0, 0, 0}});
        DeviceArray<cuda::Saturation> saturation(queue, std::vector<cuda::Saturation>{{0}});
        for (const bool by_row : {true, false}) {
            DeviceArray<uint16_t> operand(queue, size_t(8 * k_padded));
            cuda::PairOperandLaunch launch;
            launch.x = {x.data(), ld};
            launch.by_row = by_row;
            launch.width = width;
            launch.table = table.data();
            launch.shape.k = width;
            launch.shape.k_padded = k_padded;
            launch.routed.pair_expert = expert.data();
            launch.routed.pair_row = row.data();
            launch.routed.max_pairs = 8;
            launch.operand = {operand.data(), k_padded, 3};
            launch.saturation = saturation.data();
            cuda::prepare_pairs(queue.queue, launch);
            const std::vector<uint16_t> got = operand.get();
            int32_t wrong = 0;
            for (int32_t pair = 0; pair < 8; ++pair) {
                const int32_t e = experts[size_t(pair)], from = by_row ? pair_rows[size_t(pair)] : pair;
                for (int32_t p = 0; p < k_padded; ++p) {
                    const uint16_t half = got[size_t(pair * k_padded + p)];
                    if (e < 0 || p >= int32_t(orders[size_t(e)].gather.size())) {
                        wrong += half != 0xffff;  // the poison
                        continue;
                    }
                    const int32_t input = orders[size_t(e)].gather[size_t(p)];
                    wrong += input < 0 ? half != 0 : half != f32_to_f16(xs[size_t(from * ld + input)] / 8);
                }
            }
            CHECK(wrong == 0);
        }
        CHECK(saturation.get()[0].count == 0);

        cuda::combine_pairs(queue.queue, {x.data(), ld}, row_pairs.data(), weight.data(), header.data(), top_k, width,
                            rows, {out.data(), ld});
        DeviceArray<float> live_out(queue, size_t(live * ld));
        cuda::combine_pairs(queue.queue, {x.data(), ld}, row_pairs.data(), weight.data(), nullptr, top_k, width, live,
                            {live_out.data(), ld});
        const std::vector<float> sums = out.get();
        CHECK(std::memcmp(live_out.get().data(), sums.data(), size_t(live * ld) * 4) == 0);
        int32_t wrong = 0;
        for (int32_t r = 0; r < rows; ++r) {
            for (int32_t i = 0; i < ld; ++i) {
                double want = 0;
                for (int32_t k = 0; k < top_k && r < live; ++k) {
                    const size_t pair = size_t(pairs_of_rows[size_t(r * top_k + k)]);
                    want += double(weights[pair]) * double(xs[pair * size_t(ld) + size_t(i)]);
                }
                const float got = sums[size_t(r * ld + i)];
                // three roundings of sums up to 3000
                wrong += i < width ? !(std::abs(double(got) - want) <= 6e-4) : !std::isnan(got);
            }
        }
        CHECK(wrong == 0);
    }
}

}  // namespace
}  // namespace quantplug::test
