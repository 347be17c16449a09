#include "engine/plugin/plugin_model.h"

#include "engine/base/error.h"
#include "engine/generate/generation.h"
#include "engine/generate/score.h"
#include "engine/plugin/load_options.h"

namespace quantplug::engine {

namespace {

class PluginDetokenizer : public backend::Detokenizer {
 public:
    PluginDetokenizer(const Tokenizer& tokenizer, bool special_text)
        : tokenizer_(tokenizer), special_text_(special_text) {
        reset();
    }
    std::string push(int32_t id) override { return stream_->push(id); }
    std::string finish() override {
        std::string text = stream_->finish();
        reset();
        return text;
    }

 private:
    void reset() { stream_ = tokenizer_.decode_stream(special_text_); }

    const Tokenizer& tokenizer_;
    bool special_text_;
    std::unique_ptr<DecodeStream> stream_;
};

class PluginLogits : public backend::LogitsSession {
 public:
    PluginLogits(engine::Model& model, std::vector<int32_t> ids) : pass_(model, std::move(ids)) {}
    bool next(const float*& row, uint64_t& position) override {
        const std::span<const float> values = pass_.next(&position, {});
        row = values.data();
        return !values.empty();
    }

 private:
    LogitsPass pass_;
};

uint32_t reason_of(Finish finish) {
    switch (finish) {
        case Finish::stop:
            return QP_FINISH_STOP;
        case Finish::length:
            return QP_FINISH_LENGTH;
        case Finish::cancelled:
            return QP_FINISH_CANCELLED;
        case Finish::error:
        case Finish::none:
            break;
    }
    return QP_FINISH_ERROR;
}

/// The arrays of an event, as long as it lives.
class TokenArrays {
 public:
    explicit TokenArrays(const GenerateEvent& event) {
        for (const GeneratedToken& t : event.new_tokens) {
            tokens.push_back({t.id, t.logprob, uint32_t(top.size()), uint32_t(t.top.size())});
            for (const TokenLogprob& p : t.top) top.push_back({p.id, p.logprob});
        }
    }
    std::vector<qp_token> tokens;
    std::vector<qp_top> top;
};

/// Passes one event on; false cancels.
bool forward(const GenerateEvent& event, backend::Emitter& emitter) {
    emitter.cached(event.n_cached);
    if (event.kind == GenerateEvent::prefill) return emitter.prefill(event.n_done);
    if (event.new_tokens.empty() && event.text.empty()) return !emitter.cancelled();
    const TokenArrays arrays(event);
    return emitter.tokens(arrays.tokens.data(), uint32_t(arrays.tokens.size()), arrays.top.data(),
                          uint32_t(arrays.top.size()), event.text);
}

bool forward(uint64_t request, const GenerateEvent& event, backend::EngineEvents& events) {
    const TokenArrays arrays(event);
    qp_event out = make<qp_event>();
    out.n_done = event.n_done;
    out.n_prompt = event.n_prompt;
    out.n_generated = event.n_generated;
    out.n_cached = event.n_cached;
    out.stop_id = event.stop_id;
    if (!event.new_tokens.empty() || !event.text.empty()) {
        out.kind = QP_EVENT_TOKENS;
        out.n_tokens = uint32_t(arrays.tokens.size());
        out.n_top = uint32_t(arrays.top.size());
        out.tokens = arrays.tokens.data();
        out.top = arrays.top.data();
        out.text = event.text.data();
        out.text_size = event.text.size();
    }
    if (event.kind != GenerateEvent::end) return events.emit(request, out);
    // Text that was held back for a stop string is owed when a step fails.
    if (!event.text.empty()) events.emit(request, out);
    out.kind = QP_EVENT_END;
    out.n_tokens = out.n_top = 0;
    out.tokens = nullptr;
    out.top = nullptr;
    out.text = nullptr;
    out.text_size = 0;
    out.prefill_seconds = event.prefill_seconds;
    out.decode_seconds = event.decode_seconds;
    out.ignored = event.tag;
    out.finish_reason = reason_of(event.finish);
    if (event.finish == Finish::cancelled) out.status = QP_CANCELLED;
    if (event.finish == Finish::error) {
        out.status = int32_t(event.code);
        out.error = event.error.c_str();
    }
    return events.emit(request, out);
}

GenerateRequest request_of(const backend::GenerateParams& params, int32_t n_vocab) {
    GenerateRequest request;
    request.prompt.assign(params.prompt.begin(), params.prompt.end());
    request.sampling = sampling_of(params.sampling, n_vocab);
    request.stop.assign(params.stop.begin(), params.stop.end());
    request.stop_ids.assign(params.stop_ids.begin(), params.stop_ids.end());
    request.ignore_eos = params.ignore_eos;
    request.special_text = params.special_text;
    request.max_tokens = int32_t(std::min<uint32_t>(params.max_tokens, INT32_MAX));
    request.n_top = int32_t(params.n_top);
    request.tag = params.ignored;
    return request;
}

}  // namespace

void fill_info(const Decoder& decoder, const Tokenizer& tokenizer, const std::string& format, uint64_t file_bytes,
               qp_model_info& out) {
    out.n_layers = uint32_t(decoder.spec.layers.size());
    out.hidden_size = uint32_t(decoder.spec.hidden_size);
    out.n_vocab = uint32_t(decoder.spec.n_vocab);
    out.n_ctx = uint32_t(decoder.spec.max_positions);
    out.adds_bos = tokenizer.adds_bos();
    out.bos_id = tokenizer.bos_id().value_or(-1);
    out.eos_id = tokenizer.eos_id().value_or(-1);
    out.n_params = decoder.n_params();
    out.file_bytes = file_bytes;
    out.bits_per_weight = decoder.bits_per_weight(false);
    out.bits_per_weight_head = decoder.bits_per_weight(true);
    copy_text(out.format, format);
    copy_text(out.architecture, decoder.config.architecture);
    copy_text(out.tokenizer, std::string(tokenizer.kind()));
    std::string warnings;
    for (const std::string& warning : decoder.warnings) warnings += warning + "\n";
    copy_text(out.warnings, warnings);
}

PluginModel::PluginModel(std::unique_ptr<engine::Model> model, const qp_sampling& sampling, std::string format,
                         uint64_t file_bytes, ChatTemplates templates)
    : model_(std::move(model)),
      sampling_(sampling),
      format_(std::move(format)),
      file_bytes_(file_bytes),
      chat_(std::move(templates), model_->tokenizer(), model_->stop_ids()) {
    if (model_->has_weights()) scheduler_ = std::make_unique<Scheduler>(*model_);
}

Scheduler& PluginModel::scheduler() const {
    if (!scheduler_) fail(Code::failed_precondition, "the model was loaded with vocab_only: it has no weights");
    return *scheduler_;
}

void PluginModel::info(qp_model_info& out) const {
    fill_info(model_->decoder(), model_->tokenizer(), format_, file_bytes_, out);
    out.n_ctx = uint32_t(model_->ctx());
    if (!model_->has_weights()) return;
    copy_text(out.device, model_->device());
    copy_text(out.compute, name_of(model_->options().compute));
}

std::vector<int32_t> PluginModel::tokenize(std::string_view text, uint32_t flags) const {
    const Tokenizer::Bos bos = flags & QP_BOS_ON    ? Tokenizer::Bos::on
                               : flags & QP_BOS_OFF ? Tokenizer::Bos::off
                                                    : Tokenizer::Bos::automatic;
    return model_->tokenizer().encode(text, bos, (flags & QP_SPECIAL_TEXT) != 0);
}

std::string PluginModel::detokenize(backend::Ids ids, uint32_t flags) const {
    return model_->tokenizer().decode({ids.data, ids.size}, (flags & QP_SPECIAL_TEXT) != 0);
}

std::unique_ptr<backend::Detokenizer> PluginModel::detokenizer(uint32_t flags) const {
    return std::make_unique<PluginDetokenizer>(model_->tokenizer(), (flags & QP_SPECIAL_TEXT) != 0);
}

backend::Finish PluginModel::generate(const backend::GenerateParams& params, backend::Emitter& emitter) {
    backend::Finish out;
    const Finish finish = scheduler().generate(
        request_of(params, model_->n_vocab()),
        [&](const GenerateEvent& event) {
            if (event.kind != GenerateEvent::end) return forward(event, emitter);
            out.stop_id = event.stop_id;
            out.prefill_seconds = event.prefill_seconds;
            out.decode_seconds = event.decode_seconds;
            // Text that was held back for a stop string is owed when a step fails.
            return event.text.empty() || forward(event, emitter);
        },
        [&] { return emitter.cancelled(); });
    out.reason = reason_of(finish);
    return out;
}

uint64_t PluginModel::submit(const backend::GenerateParams& params) {
    return scheduler().submit(request_of(params, model_->n_vocab()));
}

uint64_t PluginModel::step(int32_t wait_ms, backend::EngineEvents& events) {
    return scheduler().step(
        wait_ms, [&](uint64_t request, const GenerateEvent& event) { return forward(request, event, events); });
}

void PluginModel::cancel(uint64_t request) { scheduler().cancel(request); }

void PluginModel::wake() {
    if (scheduler_) scheduler_->wake();
}

void PluginModel::engine_status(qp_engine_status& out) const {
    const ScheduleStatus s = scheduler().status();
    out.n_running = uint32_t(s.n_running);
    out.n_waiting = uint32_t(s.n_waiting);
    out.n_streams_max = uint32_t(s.n_streams_max);
    out.block_tokens = uint32_t(kv_block_tokens);
    out.n_blocks = uint32_t(s.blocks.total);
    out.n_blocks_used = uint32_t(s.blocks.used);
    out.n_blocks_cached = uint32_t(s.blocks.cached);
    out.n_steps = s.n_steps;
    out.n_prompt_tokens = s.n_prompt_tokens;
    out.n_cached_tokens = s.n_cached_tokens;
    out.n_generated_tokens = s.n_generated_tokens;
}

void PluginModel::score(backend::Ids ids, float* logprobs, backend::Progress& progress) {
    engine::score(
        *model_, {ids.data, ids.size}, {logprobs, ids.size - 1},
        [&](double f, const char* what) { return progress.go_on(f, what); }, [&] { return progress.cancelled(); });
}

std::unique_ptr<backend::LogitsSession> PluginModel::open_logits(std::vector<int32_t> ids) {
    return std::make_unique<PluginLogits>(*model_, std::move(ids));
}

}  // namespace quantplug::engine
