// From logits to answers and candidates in the CUDA room, against loops in double precision.
#include "kernels/cuda/sample.h"

#include <limits>

#include "tests/kernels/cuda/row_order.h"

namespace quantplug::test {
namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

struct Sampled {
    std::vector<cuda::RowAnswer> answers;
    std::vector<int32_t> chosen;
    std::vector<cuda::CandidateRecord> candidates;

    bool operator==(const Sampled& other) const {
        return std::memcmp(answers.data(), other.answers.data(), answers.size() * sizeof(cuda::RowAnswer)) == 0 &&
               chosen == other.chosen &&
               std::memcmp(candidates.data(), other.candidates.data(),
                           candidates.size() * sizeof(cuda::CandidateRecord)) == 0;
    }
};

struct SampleCase {
    int32_t n_vocab, n_sampled, n, n_wanted, n_candidates;
    int32_t ld;
    std::vector<cuda::StepWanted> wanted;
    std::vector<cuda::AdjustRecord> adjusts;
};

Sampled run_sample(const SampleCase& c, const std::vector<float>& values) {
    TestQueue queue;
    std::vector<cuda::StepWanted> padded = c.wanted;
    padded.resize(size_t(c.n));
    DeviceArray<float> logits(queue, values), partials(queue, cuda::emit_workspace_floats(c.n, c.n_vocab));
    DeviceArray<cuda::StepHeader> header(queue, std::vector<cuda::StepHeader>{{0, 0, c.n_wanted, 0}});
    DeviceArray<cuda::StepWanted> wanted(queue, padded);
    DeviceArray<cuda::RowAnswer> answers(queue, size_t(c.n));
    DeviceArray<int32_t> chosen(queue, size_t(c.n));
    DeviceArray<uint32_t> counters(queue, std::vector<uint32_t>(size_t(c.n), 0));
    DeviceArray<cuda::AdjustRecord> adjusts(queue, c.adjusts.empty() ? std::vector<cuda::AdjustRecord>(1) : c.adjusts);
    DeviceArray<cuda::CandidateRecord> candidates(queue, size_t(c.n * std::max(c.n_candidates, 1)));
    cuda::CandidateLaunch launch;
    launch.emit.logits = {logits.data(), c.ld};
    launch.emit.n_vocab = c.n_vocab;
    launch.emit.n = c.n;
    launch.emit.step.header = header.data();
    launch.emit.step.wanted = wanted.data();
    launch.emit.answers = answers.data();
    launch.emit.chosen = chosen.data();
    launch.emit.partials = partials.data();
    launch.emit.counters = counters.data();
    launch.adjusts = adjusts.data();
    launch.n_candidates = c.n_candidates;
    launch.n_sampled = c.n_sampled;
    launch.candidates = candidates.data();
    cuda::emit(queue.queue, launch.emit);
    cuda::emit_candidates(queue.queue, launch);
    for (const uint32_t counter : counters.get()) CHECK(counter == 0);
    Sampled out{answers.get(), chosen.get(), candidates.get()};
    CHECK(logits.get().size() == values.size());
    return out;
}

/// NaN for NaN; the sums are good to 1e-6, and to a rounding of what is added to them.
bool close(float got, double want) {
    if (std::isnan(want)) return std::isnan(got);
    if (std::isinf(want)) return double(got) == want;
    return std::abs(double(got) - want) <= 1e-6 * std::max(1.0, std::abs(want));
}

double log_sum_exp(const std::vector<float>& z) {
    double largest = -INFINITY, sum = 0;
    for (const float v : z) largest = std::max(largest, double(v));
    for (const float v : z) sum += std::exp(double(v) - largest);
    return largest + std::log(sum);
}

void check_row(const SampleCase& c, const std::vector<float>& values, int32_t row, const Sampled& got) {
    CAPTURE(row);
    const float* z = values.data() + int64_t(row) * c.ld;
    const cuda::StepWanted& wanted = c.wanted[size_t(row)];
    int32_t best = 0;
    bool there = false;
    for (int32_t v = 0; v < c.n_vocab; ++v) {
        if (std::isnan(z[v]) || z[v] == -inf || (there && z[v] <= z[best])) continue;
        best = v;
        there = true;
    }
    const double lse = log_sum_exp({z, z + c.n_vocab});
    const cuda::RowAnswer& answer = got.answers[size_t(row)];
    CHECK(answer.best == best);
    CHECK(got.chosen[size_t(row)] == best);
    CHECK(close(answer.log_sum_exp, lse));
    CHECK(close(answer.best_logprob, double(z[best]) - lse));
    CHECK(close(answer.token_logprob, double(z[wanted.token]) - lse));
    if (c.n_candidates == 0) return;

    std::vector<float> adjusted(z, z + c.n_sampled);
    for (int32_t i = 0; i < wanted.n_adjusts; ++i) {
        const cuda::AdjustRecord& adjust = c.adjusts[size_t(wanted.first_adjust + i)];
        if (adjust.token >= c.n_sampled) continue;
        float& v = adjusted[size_t(adjust.token)];
        v = v > 0 ? v / adjust.repeat : v * adjust.repeat;
        v += adjust.add;
    }
    std::vector<int32_t> order;
    for (int32_t v = 0; v < c.n_sampled; ++v) {
        if (adjusted[size_t(v)] > -inf) order.push_back(v);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return adjusted[size_t(a)] > adjusted[size_t(b)]; });
    CHECK(close(answer.adjusted_log_sum_exp, order.empty() ? -INFINITY : log_sum_exp(adjusted)));
    int32_t wrong = 0;
    for (int32_t i = 0; i < c.n_candidates; ++i) {
        const cuda::CandidateRecord& candidate = got.candidates[size_t(row * c.n_candidates + i)];
        if (size_t(i) < order.size())
            wrong += candidate.token != order[size_t(i)] || candidate.logit != z[order[size_t(i)]];
        else
            wrong += candidate.token != -1;
    }
    CHECK(wrong == 0);
}

void check_sample(SampleCase c, const std::vector<float>& values) {
    CAPTURE(c.n_vocab);
    CAPTURE(c.n_candidates);
    schedule(5);
    const Sampled got = run_sample(c, values);
    for (int32_t row = 0; row < c.n_wanted; ++row) check_row(c, values, row, got);
    for (int32_t row = c.n_wanted; row < c.n; ++row) CHECK(got.chosen[size_t(row)] == 0);
    schedule(6);
    CHECK(got == run_sample(c, values));
}

/// Adjusts of every kind for each row, tokens among the largest logits too.
void add_adjusts(SampleCase& c, const std::vector<float>& values, Random& random) {
    for (int32_t row = 0; row < c.n_wanted; ++row) {
        std::vector<int32_t> tokens(static_cast<size_t>(c.n_vocab));
        std::iota(tokens.begin(), tokens.end(), 0);
        std::shuffle(tokens.begin(), tokens.end(), random);
        const float* z = values.data() + int64_t(row) * c.ld;
        std::stable_sort(tokens.begin(), tokens.begin() + c.n_vocab / 4,
                         [&](int32_t a, int32_t b) { return z[a] > z[b]; });
        const int32_t count = std::min(c.n_vocab, row == 0 ? 0 : 700);
        c.wanted[size_t(row)].first_adjust = int32_t(c.adjusts.size());
        c.wanted[size_t(row)].n_adjusts = count;
        for (int32_t i = 0; i < count; ++i) {
            const float kinds[] = {-inf, 0, -1.5f, 0.75f};
            c.adjusts.push_back({tokens[size_t(i)], i % 3 ? 1.3f : 1.0f, kinds[i % 4]});
        }
    }
}

TEST_CASE("cuda emit and candidates") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=", seed);
    Random random(seed);
    struct Size {
        int32_t n_vocab, n_sampled, n_candidates, pad;
        bool ties;
    };
    for (const Size& s : {Size{1, 1, 1, 0, false}, Size{101, 101, 40, 0, true}, Size{101, 90, 256, 3, false},
                          Size{8192, 8192, 64, 0, true}, Size{8193, 8192, 256, 3, true},
                          Size{50000, 49990, 256, 0, false}, Size{50000, 50000, 64, 1, true}}) {
        SampleCase c;
        c.n_vocab = s.n_vocab;
        c.n_sampled = s.n_sampled;
        c.n_candidates = s.n_candidates;
        c.ld = s.n_vocab + s.pad;
        c.n_wanted = s.n_vocab > 10000 ? 2 : 3;
        c.n = c.n_wanted + 1;
        std::vector<float> values = random_rows(size_t(c.n), c.ld, random, 3);
        if (s.ties) {
            for (float& v : values) v = std::round(v * 4) / 4;
        }
        for (int32_t row = 0; row < c.n_wanted; ++row) c.wanted.push_back({0, below(random, c.n_vocab), 0, 0});
        add_adjusts(c, values, random);
        check_sample(c, values);
    }
}

TEST_CASE("cuda emit and candidates: logits that are no numbers, logits that are equal") {
    if (!cuda_there()) return;
    const int32_t n_vocab = 9000;
    SampleCase c{n_vocab, n_vocab, 8, 8, 50, n_vocab, std::vector<cuda::StepWanted>(8), {}};
    std::vector<float> values(size_t(8 * n_vocab), 0.0f);
    const auto row = [&](int32_t r) { return values.begin() + r * n_vocab; };
    std::fill_n(row(0), n_vocab, NAN);
    std::fill_n(row(1), n_vocab, -inf);
    row(2)[7] = NAN;  // all others equal
    row(3)[8500] = inf;
    std::fill_n(row(4), n_vocab, -inf), row(4)[8999] = -1e30f, row(4)[8500] = -2e30f;  // nothing in the first piece
    std::fill_n(row(5), n_vocab, -0.0f), row(5)[44] = 0.0f;
    row(6)[8200] = 80, row(6)[8300] = 80;
    c.wanted[7].n_adjusts = n_vocab;  // all banned
    for (int32_t v = 0; v < n_vocab; ++v) c.adjusts.push_back({v, 1, -inf});
    check_sample(c, values);
}

TEST_CASE("cuda candidates: lists longer than a block holds") {
    if (!cuda_there()) return;
    // 66 pieces of 256 candidates, three rounds; the best are the first that the third one takes, and the last.
    const int32_t n_vocab = 65 * 8192 + 64;
    SampleCase c{n_vocab, n_vocab, 1, 1, 256, n_vocab, std::vector<cuda::StepWanted>(1), {}};
    std::vector<float> values(static_cast<size_t>(n_vocab));
    for (int32_t v = 0; v < n_vocab; ++v) values[size_t(v)] = float(v / 3) * 1e-4f;
    for (int32_t v = 63 * 8192; v < 63 * 8192 + 100; ++v) values[size_t(v)] = 50;
    check_sample(c, values);
}

TEST_CASE("cuda select_rows and cap_logits") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=", seed);
    Random random(seed);
    for (const int32_t width : {1, 96, 1203}) {
        const int32_t rows = 5, n = 4, n_wanted = 3, ld = width + 2;
        const std::vector<float> values = random_rows(rows, ld, random, 20);
        TestQueue queue;
        DeviceArray<float> x(queue, values), out(queue, size_t(n * ld)), capped(queue, values), scaled(queue, values);
        DeviceArray<cuda::StepHeader> header(queue, std::vector<cuda::StepHeader>{{rows, 0, n_wanted, 0}});
        DeviceArray<cuda::StepWanted> wanted(
            queue, std::vector<cuda::StepWanted>{{4, 0, 0, 0}, {0, 0, 0, 0}, {2, 0, 0, 0}, {0, 0, 0, 0}});
        cuda::StepView step;
        step.header = header.data();
        step.wanted = wanted.data();
        cuda::select_rows(queue.queue, {x.data(), ld}, step, width, n, {out.data(), ld});
        cuda::cap_logits(queue.queue, {capped.data(), ld}, width, 0.5f, 30, rows);
        cuda::cap_logits(queue.queue, {scaled.data(), ld}, width, 0.25f, 0, rows);
        const std::vector<float> selected = out.get(), caps = capped.get(), scales = scaled.get();
        int32_t wrong = 0;
        const int32_t from[] = {4, 0, 2, 0};
        for (int32_t i = 0; i < n * ld; ++i) {
            const float got = selected[size_t(i)];
            wrong += i % ld < width ? got != values[size_t(from[i / ld] * ld + i % ld)] : !std::isnan(got);
        }
        for (int32_t i = 0; i < rows * ld; ++i) {
            const bool there = i % ld < width;
            const double z = double(values[size_t(i)]);
            wrong += !close(caps[size_t(i)], there ? 30 * std::tanh(z * 0.5 / 30) : z);
            wrong += scales[size_t(i)] != (there ? values[size_t(i)] * 0.25f : values[size_t(i)]);
        }
        CHECK(wrong == 0);
    }
}

}  // namespace
}  // namespace quantplug::test
