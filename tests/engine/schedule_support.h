// Requests for a scheduler, and what each gives alone: computed without a scheduler, without a shared prefix.
#pragma once

#include <doctest/doctest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/generate/sampler.h"
#include "engine/generate/stop.h"
#include "engine/schedule/scheduler.h"
#include "tiny_folders.h"

namespace quantplug::test {

#if defined(__SANITIZE_THREAD__)
inline constexpr int sanitizer_factor = 8;
#elif defined(__SANITIZE_ADDRESS__)
inline constexpr int sanitizer_factor = 4;
#else
inline constexpr int sanitizer_factor = 1;
#endif

struct Generated {
    std::vector<int32_t> ids;
    std::vector<float> logprobs;
    std::string text;
    engine::Finish finish = engine::Finish::none;
    int32_t stop_id = -1;
    uint64_t n_cached = 0;
    int ends = 0;
    bool after_end = false;

    void add(const engine::GenerateEvent& event) {
        after_end = after_end || ends > 0;
        for (const engine::GeneratedToken& t : event.new_tokens) {
            ids.push_back(t.id);
            logprobs.push_back(t.logprob);
        }
        text += event.text;
        n_cached = event.n_cached;
        if (event.kind != engine::GenerateEvent::end) return;
        ++ends;
        finish = event.finish;
        stop_id = event.stop_id;
    }
};

/// n_more_ids: tokens beyond the model's 96, with logits of zero.
inline std::unique_ptr<engine::Model> load_tiny(const char* name, engine::LoadOptions options, int32_t n_more_ids = 0) {
    if (options.device == "auto") options.device = "cpu";
    if (options.threads == 0) options.threads = 1;
    if (options.ctx == 0) options.ctx = 256;
    TinyFolder folder(name);
    if (n_more_ids > 0) {
        folder.with({{"vocab_size", 96 + n_more_ids}});
        for (const char* tensor : {"model.embed_tokens.weight", "lm_head.weight"})
            folder.tensors.at(tensor) = with_rows(folder.tensors.at(tensor), 96 + n_more_ids);
        for (int32_t id = 96; id < 96 + n_more_ids; ++id)
            folder.tokenizer["model"]["vocab"]["more" + std::to_string(id)] = id;
    }
    return engine::Model::load(folder.open(), PlainFormat(), options, {}, {});
}

/// One sequence from a loop of its own: the prompt in steps of up to 50 rows, then one token after the other.
inline Generated alone(engine::Model& model, const engine::GenerateRequest& request) {
    Generated out;
    engine::Sampler sampler(request.sampling, request.prompt, &model.token_texts(), {});
    engine::StopFilter filter(request.stop);
    engine::Detokenizer detokenizer(model.tokenizer(), request.special_text);
    engine::Sequence sequence(model, model.ctx(), int32_t(request.prompt.size()));
    const int64_t room = model.ctx() - int64_t(request.prompt.size());
    const int64_t limit = request.max_tokens ? std::min<int64_t>(request.max_tokens, room) : room;
    std::vector<float> logits;
    for (size_t done = 0; done < request.prompt.size();) {
        const size_t n = std::min<size_t>(50, request.prompt.size() - done);
        const kernels::Wanted last{int32_t(n) - 1, kernels::Wanted::logits, 0};
        logits = model.step(sequence, std::span(request.prompt).subspan(done, n), {&last, 1}, true, {}).values;
        done += n;
    }
    while (true) {
        const int32_t id = sampler.sample(std::span(logits).first(size_t(model.n_sampled())));
        sampler.accept(id);
        out.ids.push_back(id);
        out.logprobs.push_back(float(double(logits[size_t(id)]) - engine::log_sum_exp(logits)));
        const auto& own = model.stop_ids();
        const bool stop = (!request.ignore_eos && std::find(own.begin(), own.end(), id) != own.end()) ||
                          std::find(request.stop_ids.begin(), request.stop_ids.end(), id) != request.stop_ids.end();
        if (!stop) out.text += filter.push(detokenizer.push(id));
        const bool full = int64_t(out.ids.size()) >= limit;
        if (stop || full) out.text += filter.push(detokenizer.finish());
        if (stop || full || filter.stopped()) {
            out.text += filter.finish();
            out.finish = stop || filter.stopped() ? engine::Finish::stop : engine::Finish::length;
            if (stop) out.stop_id = id;
            return out;
        }
        const kernels::Wanted last{0, kernels::Wanted::logits, 0};
        logits = model.step(sequence, {&id, 1}, {&last, 1}, false, {}).values;
    }
}

/// Prompts that share prefixes of random lengths; every kind of end.
class RandomRequests {
 public:
    RandomRequests(uint32_t seed, int32_t longest) : random_(seed), longest_(longest) {
        for (auto& prefix : prefixes_) prefix = ids(longest);
    }
    int32_t below(int32_t n) { return int32_t(random_() % uint32_t(n)); }
    std::vector<int32_t> ids(int32_t n) {
        std::vector<int32_t> out;
        for (int32_t i = 0; i < n; ++i) out.push_back(3 + below(93));
        return out;
    }
    engine::GenerateRequest next() {
        engine::GenerateRequest r;
        const auto& prefix = prefixes_[size_t(below(3))];
        r.prompt.assign(prefix.begin(), prefix.begin() + below(longest_));
        const std::vector<int32_t> own = ids(1 + below(20));
        r.prompt.insert(r.prompt.end(), own.begin(), own.end());
        r.max_tokens = below(8) ? 1 + below(25) : 100;
        if (below(2)) {
            r.sampling.temperature = 0.5 + below(20) * 0.1;
            r.sampling.seed = random_();
            if (below(2)) r.sampling.top_k = 1 + below(20);
            if (below(2)) r.sampling.top_p = 0.5;
        }
        if (below(4) == 0) r.sampling.repetition_penalty = 1.3;
        if (below(4) == 0) r.stop.push_back(std::string(1, char('a' + below(26))));
        if (below(4) == 0) r.stop_ids.push_back(below(96));
        if (below(3) == 0) r.n_top = 2;
        r.ignore_eos = below(2);
        r.special_text = below(2);
        return r;
    }

 private:
    std::mt19937 random_;
    int32_t longest_;
    std::vector<int32_t> prefixes_[3];
};

/// Everything where it ran to its end; a beginning of it where it was cancelled.
inline void check_against(const Generated& got, const Generated& lone) {
    REQUIRE(got.ends == 1);
    CHECK_FALSE(got.after_end);
    REQUIRE(got.finish != engine::Finish::error);
    if (got.finish == engine::Finish::cancelled) {
        REQUIRE(got.ids.size() <= lone.ids.size());
        CHECK(std::equal(got.ids.begin(), got.ids.end(), lone.ids.begin()));
        CHECK(lone.text.compare(0, got.text.size(), got.text) == 0);
        return;
    }
    CHECK(got.finish == lone.finish);
    CHECK(got.stop_id == lone.stop_id);
    CHECK(got.ids == lone.ids);
    CHECK(got.text == lone.text);
    REQUIRE(got.logprobs.size() == lone.logprobs.size());
    for (size_t i = 0; i < got.logprobs.size(); ++i)
        CHECK(got.logprobs[i] == doctest::Approx(lone.logprobs[i]).epsilon(1e-5));
}

/// The lone run of a cancelled request goes as far as the request came.
inline void check_alone(const Generated& got, engine::GenerateRequest request, engine::Model& lone_model) {
    if (got.finish == engine::Finish::cancelled) {
        if (got.ids.empty()) return check_against(got, {});
        request.max_tokens = int32_t(got.ids.size());
    }
    check_against(got, alone(lone_model, request));
}

/// Nobody runs, nobody waits, and every block has come back.
inline void check_empty(const engine::Scheduler& scheduler, engine::Model& model) {
    const engine::ScheduleStatus status = scheduler.status();
    CHECK(status.n_running == 0);
    CHECK(status.n_waiting == 0);
    CHECK(status.blocks.used == 0);
    CHECK(status.blocks.cached + status.blocks.free == status.blocks.total);
    CHECK(model.blocks().check() == "");
}

}  // namespace quantplug::test
