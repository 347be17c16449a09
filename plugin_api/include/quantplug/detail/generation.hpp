// generation.hpp - the checks of a generation's parameters, once for generate and submit, and generate's call. C++17.
#ifndef QUANTPLUG_DETAIL_GENERATION_HPP
#define QUANTPLUG_DETAIL_GENERATION_HPP

#include <cmath>
#include <limits>
#include <quantplug/detail/model_handle.hpp>

namespace quantplug::backend::detail {

/// Checks the fields of a qp_sampling whose bits are set: what a model does not obey is ignored, not looked at.
class SamplingCheck {
 public:
    SamplingCheck(const ModelHandle& model, const char* hook, qp_sampling& sampling)
        : model_(model), hook_(hook), s_(sampling) {}

    void run() const {
        const double any = std::numeric_limits<double>::max();
        const double tiny = std::numeric_limits<double>::min();
        constexpr int32_t most = std::numeric_limits<int32_t>::max();
        number(QP_SET_TEMPERATURE, "temperature", s_.temperature, 0, 1e30, "0 or more");
        number(QP_SET_TOP_K, "top_k", s_.top_k, 0, most, "1 or more, or leave it unset");
        share(QP_SET_TOP_P, "top_p", s_.top_p);
        share(QP_SET_MIN_P, "min_p", s_.min_p);
        share(QP_SET_TYPICAL_P, "typical_p", s_.typical_p);
        number(QP_SET_REPETITION_PENALTY, "repetition_penalty", s_.repetition_penalty, tiny, any, "more than 0");
        number(QP_SET_FREQUENCY_PENALTY, "frequency_penalty", s_.frequency_penalty, -any, any, "a number");
        number(QP_SET_PRESENCE_PENALTY, "presence_penalty", s_.presence_penalty, -any, any, "a number");
        range(QP_SET_PENALTY_RANGE, "penalty_range", s_.penalty_range);
        share(QP_SET_TOP_A, "top_a", s_.top_a);
        share(QP_SET_TFS, "tfs", s_.tfs);
        number(QP_SET_MIROSTAT, "mirostat_tau", s_.mirostat_tau, tiny, any, "more than 0");
        share(QP_SET_MIROSTAT, "mirostat_eta", s_.mirostat_eta);
        share(QP_SET_XTC, "xtc_probability", s_.xtc_probability);
        share(QP_SET_XTC, "xtc_threshold", s_.xtc_threshold);
        number(QP_SET_DRY, "dry_multiplier", s_.dry_multiplier, 0, any, "0 or more");
        number(QP_SET_DRY, "dry_base", s_.dry_base, 1, any, "1 or more");
        number(QP_SET_DRY, "dry_allowed_length", s_.dry_allowed_length, 0, most, "0 or more");
        range(QP_SET_DRY, "dry_range", s_.dry_range);
        number(QP_SET_DYNATEMP, "dynatemp_low", s_.dynatemp_low, 0, 1e30, "0 or more");
        number(QP_SET_DYNATEMP, "dynatemp_high", s_.dynatemp_high, s_.dynatemp_low, 1e30, "dynatemp_low or more");
        number(QP_SET_DYNATEMP, "dynatemp_exponent", s_.dynatemp_exponent, tiny, any, "more than 0");
        number(QP_SET_SMOOTHING, "smoothing_factor", s_.smoothing_factor, 0, any, "0 or more");
        number(QP_SET_SMOOTHING, "smoothing_curve", s_.smoothing_curve, 1, any, "1 or more");
        number(QP_SET_TOP_N_SIGMA, "top_n_sigma", s_.top_n_sigma, 0, any, "more than 0, or leave it unset");
        // Hosts write 0 for off.
        if ((s_.set & QP_SET_TOP_K) && s_.top_k == 0) s_.set &= ~QP_SET_TOP_K;
        if ((s_.set & QP_SET_SMOOTHING) && s_.smoothing_factor == 0) s_.set &= ~QP_SET_SMOOTHING;
        if ((s_.set & QP_SET_TOP_N_SIGMA) && s_.top_n_sigma == 0) s_.set &= ~QP_SET_TOP_N_SIGMA;
        bias();
        banned();
        breakers();
        order();
    }

    /// An array whose bit is not set is not there, whatever the host left in its pointer.
    void drop_unset_arrays() const {
        if (!is_set(QP_SET_LOGIT_BIAS)) s_.bias = nullptr, s_.n_bias = 0;
        if (!is_set(QP_SET_BANNED)) s_.banned = nullptr, s_.n_banned = 0;
        if (!is_set(QP_SET_DRY)) s_.dry_breakers = nullptr, s_.n_dry_breakers = 0;
        if (!is_set(QP_SET_ORDER)) s_.order = nullptr;
    }

 private:
    bool is_set(uint64_t bit) const { return (s_.set & bit) != 0; }

    void number(uint64_t bit, const char* name, double value, double minimum, double maximum,
                const char* expected) const {
        if (is_set(bit) && !(value >= minimum && value <= maximum))
            refuse(std::string(name) + " is " + std::to_string(value) + ", give " + expected);
    }
    void share(uint64_t bit, const char* name, double value) const { number(bit, name, value, 0, 1, "0 to 1"); }
    void range(uint64_t bit, const char* name, int32_t value) const {
        number(bit, name, value, -1, std::numeric_limits<int32_t>::max(), "0 or more, or -1 for all");
    }

    void bias() const {
        if (!is_set(QP_SET_LOGIT_BIAS)) return;
        if (s_.n_bias) need(s_.bias, hook_, "sampling.bias");
        for (uint32_t i = 0; i < s_.n_bias; ++i) {
            check_id("bias", i, s_.bias[i].id);
            const float value = s_.bias[i].bias;
            if (std::isnan(value) || value == std::numeric_limits<float>::infinity())
                refuse("the bias of id " + std::to_string(s_.bias[i].id) + " is " + std::to_string(value) +
                       ", give a number or -infinity");
        }
    }
    void banned() const {
        if (!is_set(QP_SET_BANNED)) return;
        if (s_.n_banned) need(s_.banned, hook_, "sampling.banned");
        for (uint32_t i = 0; i < s_.n_banned; ++i) check_id("banned", i, s_.banned[i]);
    }
    void breakers() const {
        if (!is_set(QP_SET_DRY)) return;
        if (s_.n_dry_breakers) need(s_.dry_breakers, hook_, "sampling.dry_breakers");
        for (uint32_t i = 0; i < s_.n_dry_breakers; ++i)
            if (!s_.dry_breakers[i].data || s_.dry_breakers[i].size == 0)
                refuse("text number " + std::to_string(i) + " of dry_breakers is empty: leave it out");
    }

    void order() const {
        static constexpr std::string_view names[] = {"repetition_penalty",
                                                     "frequency_penalty",
                                                     "presence_penalty",
                                                     "dry",
                                                     "temperature",
                                                     "dynatemp",
                                                     "smoothing",
                                                     "top_n_sigma",
                                                     "top_k",
                                                     "top_p",
                                                     "top_a",
                                                     "min_p",
                                                     "tfs",
                                                     "typical_p",
                                                     "xtc"};
        if (!is_set(QP_SET_ORDER)) return;
        const std::string_view text(need(s_.order, hook_, "sampling.order"));
        uint32_t seen = 0;
        for (size_t at = 0; at <= text.size();) {
            const size_t end = std::min(text.find(',', at), text.size());
            const std::string_view name = text.substr(at, end - at);
            const auto* found = std::find(std::begin(names), std::end(names), name);
            if (found == std::end(names)) {
                std::string all;
                for (const std::string_view known : names) all.append(all.empty() ? "" : ", ").append(known);
                refuse("order names '" + std::string(name) + "', which is no sampler: there are " + all);
            }
            const uint32_t bit = 1u << (found - std::begin(names));
            if (seen & bit) refuse("order names '" + std::string(name) + "' twice: leave one out");
            seen |= bit;
            at = end + 1;
        }
    }

    void check_id(const char* argument, uint32_t index, int32_t id) const {
        if (model_.info.n_vocab && (id < 0 || static_cast<uint32_t>(id) >= model_.info.n_vocab))
            refuse("id number " + std::to_string(index) + " of '" + argument + "' is " + std::to_string(id) +
                   ", and the model has ids 0 to " + std::to_string(model_.info.n_vocab - 1));
    }
    [[noreturn]] void refuse(const std::string& what) const {
        throw Error(QP_INVALID_ARGUMENT, std::string(hook_) + ": " + what);
    }

    const ModelHandle& model_;
    const char* hook_;
    qp_sampling& s_;
};

/// What the model does not obey goes from `set` to `ignored`; the rest is checked.
inline void read_sampling(const ModelHandle& model, const qp_sampling* given, const char* hook, GenerateParams& out) {
    out.sampling = given ? copy_sized(need_sized(given, hook, "sampling")) : make<qp_sampling>();
    constexpr uint64_t known = (QP_SET_ORDER << 1) - 1;
    out.ignored = out.sampling.set & ~(known & model.model->supported_sampling());
    out.sampling.set &= ~out.ignored;
    const SamplingCheck check(model, hook, out.sampling);
    check.drop_unset_arrays();
    check.run();
}

/// Copies and checks; what the checks do not know stays off.
inline void read_generate_params(const ModelHandle& model, const qp_generate_params* given, const char* hook,
                                 GenerateParams& out) {
    const qp_generate_params in = copy_sized(need_sized(given, hook, "params"));
    check_flags(in.flags, QP_GENERATE_IGNORE_EOS | QP_GENERATE_SPECIAL_TEXT, hook);
    out.prompt = {in.prompt, static_cast<size_t>(in.n_prompt)};
    model.check_ids(out.prompt, hook, "prompt", 1);
    read_sampling(model, in.sampling, hook, out);
    if (in.n_stop) need(in.stop, hook, "stop");
    for (uint32_t i = 0; i < in.n_stop; ++i) {
        if (!in.stop[i].data || in.stop[i].size == 0)
            throw Error(QP_INVALID_ARGUMENT,
                        std::string(hook) + ": stop string number " + std::to_string(i) + " is empty: leave it out");
        out.stop.emplace_back(in.stop[i].data, static_cast<size_t>(in.stop[i].size));
    }
    if (in.n_stop_ids) need(in.stop_ids, hook, "stop_ids");
    out.stop_ids = {in.stop_ids, in.n_stop_ids};
    model.check_range(out.stop_ids, hook, "stop_ids");
    out.max_tokens = in.max_tokens;
    if (model.info.n_vocab && in.n_top > model.info.n_vocab)
        throw Error(QP_INVALID_ARGUMENT, std::string(hook) + ": n_top is " + std::to_string(in.n_top) +
                                             ", and the model has " + std::to_string(model.info.n_vocab) +
                                             " tokens: ask for fewer");
    out.n_top = in.n_top;
    out.ignore_eos = in.flags & QP_GENERATE_IGNORE_EOS;
    out.special_text = in.flags & QP_GENERATE_SPECIAL_TEXT;
}

/// A generation from the host's parameters to its final event.
struct GenerateCall {
    Emitter emitter;
    GenerateParams params;
    Finish finish;

    GenerateCall(qp_event_fn fn, void* user) noexcept : emitter(fn, user) {}

    void read(const ModelHandle& model, const qp_generate_params* given) {
        if (given && QP_HAS(given, n_prompt)) emitter.n_prompt_ = given->n_prompt;
        read_generate_params(model, given, "generate", params);
    }

    void run(ModelHandle& model) {
        emitter.unload_ = &model.cancel;
        emitter.start_ = Emitter::Clock::now();
        finish = model.model->generate(params, emitter);
        if (finish.reason == QP_FINISH_CANCELLED)
            throw Error(QP_CANCELLED, model.cancel.load() ? "generate: the model is being unloaded"
                                                          : "generate: cancelled by the callback");
        if (finish.reason != QP_FINISH_STOP && finish.reason != QP_FINISH_LENGTH)
            throw Error(QP_INTERNAL, "generate ended with finish reason " + std::to_string(finish.reason) +
                                         ": report it to the plugin's author");
        emitter.n_done_ = emitter.n_prompt_;
        end(QP_OK, "");
    }

    /// The final event, once, whatever happened; what the callback answers to it does not matter.
    void end(int32_t status, const char* message) {
        if (emitter.ended_ || !emitter.fn_) return;
        emitter.ended_ = true;
        const auto now = Emitter::Clock::now();
        const bool decoded = emitter.n_generated_ > 0;
        const auto seconds = [](auto duration) { return std::chrono::duration<double>(duration).count(); };
        qp_event event = emitter.base(QP_EVENT_END);
        event.prefill_seconds = finish.prefill_seconds >= 0
                                    ? finish.prefill_seconds
                                    : seconds((decoded ? emitter.first_tokens_ : now) - emitter.start_);
        event.decode_seconds = finish.decode_seconds >= 0 ? finish.decode_seconds
                               : decoded                  ? seconds(now - emitter.first_tokens_)
                                                          : 0.0;
        event.ignored = params.ignored;
        event.finish_reason = status == QP_OK          ? finish.reason
                              : status == QP_CANCELLED ? QP_FINISH_CANCELLED
                                                       : QP_FINISH_ERROR;
        event.stop_id = status == QP_OK ? finish.stop_id : -1;
        event.status = status;
        if (event.finish_reason == QP_FINISH_ERROR) event.error = message;
        emitter.fn_(emitter.user_, &event);
        set_default_float_state();
    }
};

}  // namespace quantplug::backend::detail

#endif
