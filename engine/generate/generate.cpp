#include "engine/generate/generate.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>

#include "engine/base/error.h"
#include "engine/generate/stop.h"

namespace quantplug::engine {

namespace {

class Clock {
 public:
    double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

bool contains(const std::vector<int32_t>& ids, int32_t id) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
}

class Generation {
 public:
    Generation(Model& model, const GenerateRequest& request, const std::function<bool(const GenerateEvent&)>& on_event,
               const std::function<bool()>& cancelled)
        : model_(model),
          request_(request),
          on_event_(on_event),
          cancelled_([this, &cancelled] { return stop_ || (cancelled && cancelled()); }) {}

    Finish run() {
        Finish finish = Finish::error;
        try {
            prepare();
            finish = loop();
        } catch (const Error& error) {
            const bool cancel = error.code() == Code::cancelled;
            finish = cancel ? Finish::cancelled : Finish::error;
            send_end(finish);
            if (!cancel) throw;
            return finish;
        } catch (...) {
            send_end(finish);
            throw;
        }
        send_end(finish);
        return finish;
    }

 private:
    void prepare() {
        const size_t n = request_.prompt.size();
        if (n == 0) fail(Code::invalid_argument, "the prompt is empty; give at least one token");
        if (n >= size_t(model_.ctx()))
            fail(Code::out_of_range, "the prompt has ", n, " tokens and the context is ", model_.ctx(),
                 "; shorten it or load with a larger ctx");
        if (request_.max_tokens < 0 || request_.n_top < 0)
            fail(Code::invalid_argument, "a number of tokens is negative");
        const int64_t room = model_.ctx() - int64_t(n);
        limit_ = request_.max_tokens > 0 ? std::min<int64_t>(request_.max_tokens, room) : room;
        sampler_.emplace(request_.sampling);
        filter_.emplace(request_.stop);
        detokenizer_.emplace(model_.tokenizer(), request_.special_text);
        sequence_.emplace(model_, int32_t(int64_t(n) + limit_));
    }

    /// The logits after the prompt.
    std::vector<float> prefill() {
        const std::span<const int32_t> prompt(request_.prompt);
        std::vector<float> logits;
        while (n_done_ < prompt.size()) {
            const size_t rows = std::min(prompt.size() - n_done_, size_t(model_.prefill_rows()));
            const bool last = n_done_ + rows == prompt.size();
            const kernels::Wanted wanted{int32_t(rows - 1), kernels::Wanted::logits, 0};
            kernels::StepResult result = model_.step(*sequence_, prompt.subspan(n_done_, rows),
                                                     std::span(&wanted, last ? 1 : 0), true, cancelled_);
            n_done_ += rows;
            logits = std::move(result.values);
            GenerateEvent event{.kind = GenerateEvent::prefill, .n_done = n_done_, .n_prompt = prompt.size()};
            send(event);
        }
        return logits;
    }

    Finish loop() {
        std::vector<float> logits = prefill();
        prefill_seconds_ = clock_.seconds();
        while (true) {
            if (cancelled_()) return Finish::cancelled;
            const GeneratedToken token = pick(logits);
            ++n_generated_;
            const bool own_stop = !request_.ignore_eos &&
                                  std::binary_search(model_.stop_ids().begin(), model_.stop_ids().end(), token.id);
            const bool stop = own_stop || contains(request_.stop_ids, token.id);
            if (stop) stop_id_ = token.id;
            std::string text = stop ? std::string() : filter_->push(detokenizer_->push(token.id));
            const bool full = int64_t(n_generated_) >= limit_;
            if (stop || full) text += filter_->push(detokenizer_->finish());
            const bool stopped = stop || filter_->stopped();
            if (stopped || full) text += filter_->finish();
            GenerateEvent event{.kind = GenerateEvent::tokens,
                                .new_tokens = std::span(&token, 1),
                                .text = std::move(text),
                                .n_done = n_done_,
                                .n_prompt = request_.prompt.size(),
                                .n_generated = n_generated_};
            send(event);
            if (stopped) return Finish::stop;
            if (full) return Finish::length;
            const kernels::Wanted wanted{0, kernels::Wanted::logits, 0};
            logits = model_.step(*sequence_, std::span(&token.id, 1), std::span(&wanted, 1), false, cancelled_).values;
        }
    }

    GeneratedToken pick(const std::vector<float>& logits) {
        GeneratedToken token;
        token.id = sampler_->sample(std::span(logits).first(size_t(model_.n_sampled())));
        token.logprob = float(double(logits[size_t(token.id)]) - log_sum_exp(logits));
        if (request_.n_top > 0) token.top = most_probable(logits, size_t(request_.n_top));
        return token;
    }

    void send(const GenerateEvent& event) {
        if (!on_event_(event)) stop_ = true;
    }

    void send_end(Finish finish) {
        if (prefill_seconds_ == 0) prefill_seconds_ = clock_.seconds();
        GenerateEvent event{.kind = GenerateEvent::end,
                            .n_done = n_done_,
                            .n_prompt = request_.prompt.size(),
                            .n_generated = n_generated_,
                            .prefill_seconds = prefill_seconds_,
                            .decode_seconds = std::max(0.0, clock_.seconds() - prefill_seconds_),
                            .finish = finish,
                            .stop_id = stop_id_};
        if (finish == Finish::error && filter_) event.text = filter_->finish();
        on_event_(event);
    }

    Model& model_;
    const GenerateRequest& request_;
    const std::function<bool(const GenerateEvent&)>& on_event_;
    std::function<bool()> cancelled_;
    bool stop_ = false;

    std::optional<Sampler> sampler_;
    std::optional<StopFilter> filter_;
    std::optional<Detokenizer> detokenizer_;
    std::optional<Sequence> sequence_;
    int64_t limit_ = 0;
    uint64_t n_done_ = 0, n_generated_ = 0;
    int32_t stop_id_ = -1;
    Clock clock_;
    double prefill_seconds_ = 0;
};

}  // namespace

Finish generate(Model& model, const GenerateRequest& request, const std::function<bool(const GenerateEvent&)>& on_event,
                const std::function<bool()>& cancelled) {
    return Generation(model, request, on_event, cancelled).run();
}

}  // namespace quantplug::engine
