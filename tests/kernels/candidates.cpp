// Candidates in place of rows of logits, and rows whose token the step before has chosen.
#include <algorithm>
#include <cmath>

#include "model.h"

using namespace quantplug::test;

namespace {

const KvSpec kv_options{KvSpec::f16, 32, 16};  // blocks that every device takes

struct Named {
    std::string name;
    std::unique_ptr<Device> device;
};

std::vector<Named> every_device() {
    std::vector<Named> out;
    out.push_back({"reference", make_reference_device()});
    for (const char* name : instruction_sets()) out.push_back({name, cpu_device(name, 2)});
    for (size_t i = 0; i < cuda_devices().size(); ++i) {
        std::unique_ptr<Device> device;
        const Status status = make_cuda_device(int32_t(i), &device);
        REQUIRE_MESSAGE(status.ok(), status.message);
        out.push_back({"cuda:" + std::to_string(i), std::move(device)});
    }
    return out;
}

std::vector<int32_t> table_of(int32_t n) {
    std::vector<int32_t> table;
    for (int32_t b = 0; b < n; ++b) table.push_back(b);
    return table;
}

Status run(Loaded& loaded, const Step& step, StepResult* result) {
    return loaded.device->wait(
        loaded.device->submit(loaded.spec, step, [&](Ops& ops) { return walk_all(loaded.spec, ops); }), result);
}

double log_sum(std::span<const float> z) {
    double most = -INFINITY, sum = 0;
    for (const float v : z) most = std::max(most, double(v));
    for (const float v : z) sum += std::exp(double(v) - most);
    return most + std::log(sum);
}

// Device.h's words, one after the other.
std::vector<Candidate> expected_candidates(std::vector<float> z, const std::vector<Adjust>& adjusts, int32_t n,
                                           int32_t n_sampled, float* sum) {
    const std::vector<float> raw = z;
    for (const Adjust& a : adjusts) {
        volatile float& v = z[size_t(a.token)];  // every operation rounded
        if (v > 0)
            v = v / a.repeat;
        else
            v = v * a.repeat;
        v = v + a.add;
    }
    z.resize(size_t(n_sampled));
    *sum = float(log_sum(z));
    std::vector<std::pair<float, int32_t>> order;
    for (int32_t id = 0; id < n_sampled; ++id)
        if (z[size_t(id)] > -INFINITY) order.push_back({-z[size_t(id)], id});
    std::sort(order.begin(), order.end());
    std::vector<Candidate> out(static_cast<size_t>(n));
    for (size_t i = 0; i < std::min(out.size(), order.size()); ++i)
        out[i] = {order[i].second, raw[size_t(order[i].second)]};
    return out;
}

void check_equal(std::span<const Candidate> got, const std::vector<Candidate>& expected) {
    REQUIRE(got.size() == expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
        INFO("rank " << i);
        REQUIRE(got[i].token == expected[i].token);
        if (got[i].token >= 0) REQUIRE(got[i].logit == expected[i].logit);
    }
}

}  // namespace

TEST_CASE("candidates are the best adjusted logits, in order, with both sums") {
    const uint64_t seed = fresh_seed();
    Random random(seed);
    const auto below = [&](int32_t n) { return int32_t(random() % uint64_t(n)); };
    const auto uniform = [&](float low, float high) {
        return low + (high - low) * float(below(1 << 20)) / float(1 << 20);
    };
    for (Named& named : every_device()) {
        INFO("seed " << seed << ", " << named.name);
        TinyOptions options;
        options.n_vocab = 3001;
        options.logit_scale = 8;
        Loaded loaded(std::move(named.device), {options, seed}, 8, 8, kv_options);
        const std::vector<int32_t> table = table_of(16);
        for (int round = 0; round < 12; ++round) {
            const std::vector<Row> rows{{0, below(3000), round}, {1, below(3000), round}};
            std::vector<Adjust> adjusts;
            std::vector<Wanted> wanted;
            std::vector<std::vector<Adjust>> own(6);
            const int32_t n_sampled = round % 3 == 0 ? 0 : round % 3 == 1 ? 3001 : 1 + below(3000);
            for (int32_t w = 0; w < 6; ++w) {
                const int32_t row = w % 2;
                Wanted one{row, w < 2 ? Wanted::logits : w == 2 ? Wanted::argmax : Wanted::candidates};
                if (one.what == Wanted::candidates) {
                    one.n = w == 3 ? max_candidates : 1 + below(max_candidates);
                    const int32_t kind = below(4), n_ids = kind == 0 ? 0 : kind == 1 ? 5 : 2000;
                    std::vector<int32_t> ids;
                    for (int32_t id = 0; id < 3001; ++id) ids.push_back(id);
                    std::shuffle(ids.begin(), ids.end(), random);
                    for (int32_t i = 0; i < n_ids; ++i) {
                        Adjust a{ids[size_t(i)], uniform(0.5f, 2), uniform(-3, 1)};
                        if (below(8) == 0) a.add = -INFINITY;
                        if (below(4) == 0) a = {a.token, 1e30f, 5};  // what was above 0 is 5: many equals
                        own[size_t(w)].push_back(a);
                    }
                    if (round == 5 && w == 4) {  // nothing is left but two
                        own[4].clear();
                        for (int32_t id = 2; id < 3001; ++id) own[4].push_back({id, 1, -INFINITY});
                    }
                    if (round == 6 && w == 4) {  // nothing at all
                        own[4].clear();
                        for (int32_t id = 0; id < 3001; ++id) own[4].push_back({id, 1, -INFINITY});
                    }
                }
                one.first_adjust = int32_t(adjusts.size());
                one.n_adjusts = int32_t(own[size_t(w)].size());
                adjusts.insert(adjusts.end(), own[size_t(w)].begin(), own[size_t(w)].end());
                wanted.push_back(one);
            }
            StepResult result;
            const Status status = run(loaded, {rows, loaded.kv, table, 8, wanted, false, adjusts, n_sampled}, &result);
            REQUIRE_MESSAGE(status.ok(), status.message);
            const std::span<const float> values = result.values;
            REQUIRE(values.size() == 2 * 3001 + 1 + 3 * 2);
            std::span<const Candidate> candidates = result.candidates;
            size_t at = 2 * 3001 + 1;
            for (int32_t w = 3; w < 6; ++w, at += 2) {
                INFO("round " << round << ", wanted " << w);
                const auto z = values.subspan(size_t(w % 2) * 3001, 3001);
                float sum = 0;
                const auto expected = expected_candidates({z.begin(), z.end()}, own[size_t(w)], wanted[size_t(w)].n,
                                                          n_sampled ? n_sampled : 3001, &sum);
                check_equal(candidates.first(expected.size()), expected);
                candidates = candidates.subspan(expected.size());
                // Rounding of the sum to FP32, and single-precision exponentials.
                CHECK(values[at] == doctest::Approx(log_sum(z)).epsilon(2e-6));
                if (expected[0].token >= 0)
                    CHECK(values[at + 1] == doctest::Approx(sum).epsilon(2e-6));
                else
                    CHECK(values[at + 1] == -INFINITY);
            }
            CHECK(candidates.empty());
            // The argmax beside them is of the row as it was.
            const auto z = values.first(3001);
            CHECK(result.tokens == std::vector<int32_t>{int32_t(std::max_element(z.begin(), z.end()) - z.begin())});
        }
        // No number is never a candidate.
        const std::vector<Row> bad{{0, 3000, 20}};
        const std::vector<Wanted> all{{.row = 0, .what = Wanted::candidates, .n = 3}};
        StepResult result;
        REQUIRE(run(loaded, {bad, loaded.kv, table, 8, all}, &result).ok());
        CHECK_FALSE(std::isfinite(result.values[0]));
        for (const Candidate& c : result.candidates) CHECK(c.token == -1);
    }
}

TEST_CASE("candidates and adjustments that leave their bounds are refused") {
    const uint64_t seed = fresh_seed();
    for (Named& named : every_device()) {
        INFO("seed " << seed << ", " << named.name);
        Loaded loaded(std::move(named.device), {{}, seed}, 8, 4, kv_options);
        const std::vector<int32_t> table = table_of(16);
        const std::vector<Row> rows{{0, 1, 0}};
        const auto refuse = [&](const char* part, const Wanted& one, const std::vector<Adjust>& adjusts,
                                int32_t n_sampled = 0) {
            StepResult result;
            const std::vector<Wanted> wanted{one};
            const Status status = run(loaded, {rows, loaded.kv, table, 8, wanted, false, adjusts, n_sampled}, &result);
            INFO(status.message);
            CHECK(status.code == invalid_argument);
            CHECK(status.message.find(part) != std::string::npos);
        };
        const auto wanted = [](int32_t n, int32_t first, int32_t count) {
            return Wanted{.row = 0, .what = Wanted::candidates, .n = n, .first_adjust = first, .n_adjusts = count};
        };
        refuse("0 candidates", wanted(0, 0, 0), {});
        refuse("257 candidates", wanted(257, 0, 0), {});
        refuse("adjustments 0 to 1", wanted(1, 0, 1), {});
        refuse("adjustments 1 to 2", wanted(1, 1, 1), {{}});
        refuse("adjustments -1 to 0", wanted(1, -1, 1), {{}});
        refuse("adjustments 0 to -1", wanted(1, 0, -1), {{}});
        refuse("adjustments 2147483647 to", wanted(1, INT32_MAX, INT32_MAX), {{}});
        refuse("4097 logits", wanted(1, 0, 4097), std::vector<Adjust>(4097));
        refuse("token 101", wanted(1, 0, 1), {{101, 1, 0}});
        refuse("token -1", wanted(1, 0, 1), {{-1, 1, 0}});
        for (const float repeat : {0.0f, -1.0f, INFINITY, NAN}) refuse("divides by", wanted(1, 0, 1), {{1, repeat, 0}});
        for (const float add : {INFINITY, NAN}) refuse("adds", wanted(1, 0, 1), {{1, 1, add}});
        refuse("ids below 102", wanted(1, 0, 0), {}, 102);
        refuse("ids below -1", wanted(1, 0, 0), {}, -1);
        refuse("none of argmax", {.row = 0, .what = Wanted::What(4)}, {});
        StepResult result;
        const std::vector<Wanted> good{wanted(256, 0, 1)};
        const std::vector<Adjust> ban{{5, 1, -INFINITY}};
        CHECK(run(loaded, {rows, loaded.kv, table, 8, good, false, ban, 101}, &result).ok());
        CHECK(result.candidates.size() == 256);  // 100, then none
        CHECK(result.candidates[99].token >= 0);
        CHECK(result.candidates[100].token == -1);
    }
}

TEST_CASE("a row takes the token that the step before chose, which may be under way") {
    const uint64_t seed = fresh_seed();
    TinyOptions options;
    options.tied_quantised = true;  // no token whose logits are NaN
    for (Named& named : every_device()) {
        INFO("seed " << seed << ", " << named.name);
        Loaded loaded(std::move(named.device), {options, seed}, 8, 4, kv_options);
        Device& device = *loaded.device;
        const std::vector<int32_t> table = table_of(16);
        const auto walk = [&](Ops& ops) { return walk_all(loaded.spec, ops); };
        const std::vector<Wanted> both{{0, Wanted::argmax}, {1, Wanted::argmax}};
        const auto decode = [&](int32_t a, int32_t b, int32_t position) {
            return std::vector<Row>{{0, a, position}, {1, b, position}};
        };
        // One after the other.
        std::vector<std::vector<int32_t>> expected;
        std::vector<float> logprobs;
        std::vector<int32_t> last{3, 4};
        for (int32_t p = 0; p < 20; ++p) {
            StepResult result;
            REQUIRE(run(loaded, {decode(last[0], last[1], p), loaded.kv, table, 8, both}, &result).ok());
            expected.push_back(last = result.tokens);
            logprobs = result.values;
        }
        // Each submitted before the one before is waited for; the sequences change places every time.
        std::vector<std::vector<Row>> rows(20);
        std::vector<Ticket> tickets;
        const auto collect = [&](size_t i) {
            StepResult result;
            const Status status = device.wait(tickets[i], &result);
            REQUIRE_MESSAGE(status.ok(), status.message);
            if (i % 2) std::swap(result.tokens[0], result.tokens[1]);
            CHECK(result.tokens == expected[i]);
            if (i + 1 < rows.size()) return;
            CHECK(result.values[1] == logprobs[0]);  // the last one is swapped
            CHECK(result.values[0] == logprobs[1]);
        };
        for (int32_t p = 0; p < 20; ++p) {
            rows[size_t(p)] = decode(3, 4, p);
            if (p % 2) std::swap(rows[size_t(p)][0], rows[size_t(p)][1]);
            // Of a step that is swapped the first row is sequence 1's.
            if (p > 0)
                for (Row& row : rows[size_t(p)]) row.token = chosen_before(p % 2 ? row.sequence : 1 - row.sequence);
            tickets.push_back(device.submit(loaded.spec, {rows[size_t(p)], loaded.kv, table, 8, both}, walk));
            if (p > 0) collect(size_t(p) - 1);
        }
        collect(19);

        // What there is no token of.
        const std::vector<Wanted> mixed{{0, Wanted::argmax}, {1, Wanted::logits}};
        StepResult result;
        const auto refuse = [&](int32_t code, const char* part, int32_t token) {
            const std::vector<Row> one{{0, token, 30}};
            const Status status = run(loaded, {one, loaded.kv, table, 8, {}}, &result);
            INFO(status.message);
            CHECK(status.code == code);
            CHECK(status.message.find(part) != std::string::npos);
        };
        const auto again = [&] { REQUIRE(run(loaded, {decode(1, 2, 30), loaded.kv, table, 8, mixed}, &result).ok()); };
        again();
        refuse(invalid_argument, "wanted 1 of the step before, which was not an argmax", chosen_before(1));
        refuse(failed_precondition, "failed", chosen_before(0));  // the refused one
        again();
        refuse(invalid_argument, "which wanted 2", chosen_before(2));
        again();
        refuse(invalid_argument, "which wanted 2", INT32_MIN);
        again();
        const std::vector<Row> next = decode(1, 2, 31);
        const Ticket given_up =
            device.submit(loaded.spec, {next, loaded.kv, table, 8, both}, [](Ops&) { return false; });
        CHECK(device.wait(given_up, &result).code == cancelled);
        refuse(failed_precondition, "cancelled", chosen_before(0));
        again();
        const std::vector<Row> one{{0, chosen_before(0), 31}};
        CHECK(run(loaded, {one, loaded.kv, table, 8, {}}, &result).ok());
    }
    const TinyModel model({}, seed);
    Loaded fresh(cpu_device(nullptr, 1), model, 8, 4, kv_options);
    const std::vector<Row> one{{0, chosen_before(0), 0}};
    StepResult result;
    CHECK(run(fresh, {one, fresh.kv, table_of(16), 8, {}}, &result).code == failed_precondition);
}
