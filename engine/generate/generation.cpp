#include "engine/generate/generation.h"

#include <algorithm>
#include <cmath>

namespace quantplug::engine {

namespace {

/// The most probable token whatever came before.
bool is_plain_greedy(const Sampling& s) {
    return s.temperature == 0 && s.repetition_penalty == 1 && s.frequency_penalty == 0 && s.presence_penalty == 0 &&
           s.dry_multiplier == 0 && s.bias.empty() && s.banned.empty() && s.min_tokens == 0;
}

std::vector<int32_t> stop_ids_of(const Model& model, const GenerateRequest& request) {
    std::vector<int32_t> ids = request.stop_ids;
    if (!request.ignore_eos) ids.insert(ids.end(), model.stop_ids().begin(), model.stop_ids().end());
    std::sort(ids.begin(), ids.end());
    return ids;
}

/// Checked before anything is made of it.
GenerateRequest checked(const Model& model, GenerateRequest request) {
    if (!model.has_weights())
        fail(Code::failed_precondition, "the model was loaded with vocab_only: it has no weights");
    if (request.prompt.empty()) fail(Code::invalid_argument, "the prompt is empty; give at least one token");
    if (request.prompt.size() >= size_t(model.ctx()))
        fail(Code::out_of_range, "the prompt has ", request.prompt.size(), " tokens and the context is ", model.ctx(),
             "; shorten it or load with a larger ctx");
    for (const int32_t id : request.prompt) model.check_token(id);
    if (request.max_tokens < 0 || request.n_top < 0) fail(Code::invalid_argument, "a number of tokens is negative");
    return request;
}

}  // namespace

Generation::Generation(const Model& model, GenerateRequest request)
    : model_(model),
      request_(checked(model, std::move(request))),
      stop_ids_(stop_ids_of(model, request_)),
      sampler_(request_.sampling, request_.prompt, &model.token_texts(), stop_ids_),
      filter_(request_.stop),
      detokenizer_(model.tokenizer(), request_.special_text),
      ids_(request_.prompt) {
    const int64_t room = model.ctx() - int64_t(ids_.size());
    limit_ = request_.max_tokens > 0 ? std::min<int64_t>(request_.max_tokens, room) : room;
    // A row of logits need not be copied where only its largest counts. Ids without a token are never drawn: where
    // there are any, the sampler has to leave them out.
    const bool all_sampled = model.n_sampled() == model.n_vocab();
    greedy_ = is_plain_greedy(request_.sampling) && request_.n_top == 0 && all_sampled;
    // The most probable tokens beside the drawn one are of all ids, and of the logits before they are adjusted.
    const bool tops =
        request_.n_top == 0 || (request_.n_top <= kernels::max_candidates && all_sampled && !sampler_.adjusts_any());
    tries_candidates_ = !greedy_ && tops && sampler_.can_use_candidates();
}

kernels::Wanted Generation::wanted(bool candidates, std::vector<kernels::Adjust>& adjusts) {
    kernels::Wanted out;
    if (greedy_) {
        out.what = kernels::Wanted::argmax;
    } else if (candidates && tries_candidates_ && !needs_logits_) {
        const std::span<const kernels::Adjust> own = sampler_.adjusts(size_t(model_.n_sampled()));
        if (own.size() > size_t(kernels::max_adjusts)) return out;
        out.what = kernels::Wanted::candidates;
        const int32_t n = request_.sampling.temperature == 0 ? std::max(1, request_.n_top) : kernels::max_candidates;
        out.n = std::min(n, model_.n_sampled());
        out.first_adjust = int32_t(adjusts.size());
        out.n_adjusts = int32_t(own.size());
        adjusts.insert(adjusts.end(), own.begin(), own.end());
    }
    return out;
}

void Generation::start() {
    if (!started_) started_ = Clock::now();
}

std::optional<GenerateEvent> Generation::advance(int32_t n, int32_t taken) {
    const uint64_t done = std::min(uint64_t(n), uint64_t(n_prompt()));
    if (done <= n_done_) return std::nullopt;  // computed again after a preemption, or beyond the prompt
    n_cached_ += std::min(done - n_done_, uint64_t(taken));
    n_done_ = done;
    return event(GenerateEvent::prefill);
}

/// False where candidates were not enough.
bool Generation::pick(const Answer& answer, GeneratedToken& token) {
    const std::span<const float> values = answer.values;
    if (greedy_) {
        if (!std::isfinite(values[0]))
            fail(Code::internal, "the model computed no finite logit; its weights or scales are damaged");
        token.id = answer.id;
        token.logprob = values[0];
        return true;
    }
    if (!answer.candidates.empty()) return pick_candidate(answer, token);
    token.id = sampler_.sample(values.first(size_t(model_.n_sampled())));
    token.logprob = float(double(values[size_t(token.id)]) - log_sum_exp(values));
    if (request_.n_top > 0) token.top = most_probable(values, size_t(request_.n_top));
    return true;
}

bool Generation::pick_candidate(const Answer& answer, GeneratedToken& token) {
    const std::span<const kernels::Candidate> best = answer.candidates;
    const double log_sum = double(answer.values[0]);
    const size_t n_top = size_t(request_.n_top);
    const auto logprob = [&](const kernels::Candidate& c) { return float(double(c.logit) - log_sum); };
    if (!std::isfinite(log_sum) || best.size() < n_top || (n_top > 0 && best[n_top - 1].token < 0)) return false;
    const std::optional<int32_t> id = sampler_.sample(best, answer.values[1], size_t(model_.n_sampled()));
    if (!id) return false;
    token.id = *id;
    token.logprob = logprob(*std::find_if(best.begin(), best.end(), [&](const auto& c) { return c.token == *id; }));
    for (const kernels::Candidate& c : best.first(n_top)) token.top.push_back({c.token, logprob(c)});
    return true;
}

std::optional<GenerateEvent> Generation::accept(const Answer& answer) {
    try {
        GeneratedToken token;
        needs_logits_ = !pick(answer, token);
        if (needs_logits_) {
            // Each costs a row that is computed again.
            if (++n_short_ > 2 && 8 * n_short_ > n_generated_) tries_candidates_ = false;
            return std::nullopt;
        }
        if (!first_token_) first_token_ = Clock::now();
        ++n_generated_;
        sampler_.accept(token.id);
        ids_.push_back(token.id);
        const bool stop = std::binary_search(stop_ids_.begin(), stop_ids_.end(), token.id);
        if (stop) stop_id_ = token.id;
        GenerateEvent out = event(GenerateEvent::tokens);
        if (!stop) out.text = filter_.push(detokenizer_.push(token.id));
        const bool full = int64_t(n_generated_) >= limit_;
        if (stop || full) out.text += filter_.push(detokenizer_.finish());
        const bool stopped = stop || filter_.stopped();
        if (stopped || full) {
            out.text += filter_.finish();
            finish_ = stopped ? Finish::stop : Finish::length;
        }
        out.new_tokens.push_back(std::move(token));
        return out;
    } catch (const Error& error) {
        Generation::stop(Finish::error, error.code(), error.what());
    } catch (const std::bad_alloc&) {
        Generation::stop(Finish::error, Code::resource_exhausted, "there is no memory for the next token");
    }
    return std::nullopt;
}

void Generation::stop(Finish finish, Code code, std::string error) {
    finish_ = finish;
    code_ = code;
    error_ = std::move(error);
}

GenerateEvent Generation::event(GenerateEvent::Kind kind) const {
    GenerateEvent out;
    out.kind = kind;
    out.n_done = n_done_;
    out.n_prompt = request_.prompt.size();
    out.n_generated = n_generated_;
    out.n_cached = n_cached_;
    return out;
}

GenerateEvent Generation::end() {
    GenerateEvent out = event(GenerateEvent::end);
    const Clock::time_point now = Clock::now();
    const auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
    if (started_) out.prefill_seconds = seconds(first_token_.value_or(now) - *started_);
    if (first_token_) out.decode_seconds = seconds(now - *first_token_);
    out.finish = finish_;
    out.stop_id = finish_ == Finish::stop ? stop_id_ : -1;
    out.code = code_;
    out.error = error_;
    out.tag = request_.tag;
    // Text that was held back for a stop string is owed when a step fails.
    if (finish_ == Finish::error) out.text = filter_.finish();
    return out;
}

}  // namespace quantplug::engine
