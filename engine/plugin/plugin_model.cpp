#include "engine/plugin/plugin_model.h"

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/generate/generate.h"
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

Sampling sampling_of(const qp_sampling& in) {
    Sampling out;
    if (in.set & QP_SET_TEMPERATURE) out.temperature = in.temperature;
    // A sampler without a temperature draws from the distribution as it is.
    else if (in.set & (QP_SET_TOP_K | QP_SET_TOP_P | QP_SET_MIN_P))
        out.temperature = 1;
    if (in.set & QP_SET_TOP_K) out.top_k = in.top_k;
    if (in.set & QP_SET_TOP_P) out.top_p = in.top_p;
    if (in.set & QP_SET_MIN_P) out.min_p = in.min_p;
    if (in.set & QP_SET_SEED) out.seed = in.seed;
    return out;
}

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

/// Passes one event on; false cancels.
bool forward(const GenerateEvent& event, backend::Emitter& emitter) {
    if (event.kind == GenerateEvent::prefill) return emitter.prefill(event.n_done);
    if (event.new_tokens.empty() && event.text.empty()) return !emitter.cancelled();
    std::vector<qp_token> tokens;
    std::vector<qp_top> top;
    for (const GeneratedToken& t : event.new_tokens) {
        tokens.push_back({t.id, t.logprob, uint32_t(top.size()), uint32_t(t.top.size())});
        for (const TokenLogprob& p : t.top) top.push_back({p.id, p.logprob});
    }
    return emitter.tokens(tokens.data(), uint32_t(tokens.size()), top.data(), uint32_t(top.size()), event.text);
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

qp_sampling recommended_sampling(const ModelFolder& folder) {
    const JsonObject config = folder.generation_config();
    qp_sampling out = make<qp_sampling>();
    const auto set = [&](uint64_t bit, double& field, const std::optional<double>& value, double least, double most) {
        if (!value || !(*value >= least && *value <= most)) return;
        field = *value;
        out.set |= bit;
    };
    set(QP_SET_TEMPERATURE, out.temperature, config.number("temperature"), 0, 1e6);
    set(QP_SET_TOP_P, out.top_p, config.number("top_p"), 0, 1);
    set(QP_SET_MIN_P, out.min_p, config.number("min_p"), 0, 1);
    if (const auto k = config.integer("top_k"); k && *k > 0 && *k < INT32_MAX) {
        out.top_k = int32_t(*k);
        out.set |= QP_SET_TOP_K;
    }
    if (config.boolean("do_sample") == std::optional<bool>(false)) {
        out.temperature = 0;
        out.set |= QP_SET_TEMPERATURE;
    }
    return out;
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
    GenerateRequest request;
    request.prompt.assign(params.prompt.begin(), params.prompt.end());
    request.sampling = sampling_of(params.sampling);
    request.stop.assign(params.stop.begin(), params.stop.end());
    request.stop_ids.assign(params.stop_ids.begin(), params.stop_ids.end());
    request.ignore_eos = params.ignore_eos;
    request.special_text = params.special_text;
    request.max_tokens = int32_t(std::min<uint32_t>(params.max_tokens, INT32_MAX));
    request.n_top = int32_t(params.n_top);

    backend::Finish out;
    const Finish finish = engine::generate(
        *model_, request,
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

void PluginModel::score(backend::Ids ids, float* logprobs, backend::Progress& progress) {
    engine::score(
        *model_, {ids.data, ids.size}, {logprobs, ids.size - 1},
        [&](double f, const char* what) { return progress.go_on(f, what); }, [&] { return progress.cancelled(); });
}

std::unique_ptr<backend::LogitsSession> PluginModel::open_logits(std::vector<int32_t> ids) {
    return std::make_unique<PluginLogits>(*model_, std::move(ids));
}

}  // namespace quantplug::engine
