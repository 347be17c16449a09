#include "engine/plugin/sampling_map.h"

#include <cmath>
#include <optional>
#include <quantplug/common.hpp>
#include <string_view>

#include "engine/base/error.h"

namespace quantplug::engine {

namespace {

constexpr uint64_t choosing = QP_SET_TOP_K | QP_SET_TOP_P | QP_SET_MIN_P | QP_SET_TYPICAL_P | QP_SET_TOP_A |
                              QP_SET_TFS | QP_SET_MIROSTAT | QP_SET_XTC | QP_SET_DYNATEMP | QP_SET_SMOOTHING |
                              QP_SET_TOP_N_SIGMA;

void require_array(const void* data, uint32_t n, const char* name) {
    if (n > 0 && !data) fail(Code::invalid_argument, name, " is null and its length is ", n, "; give the array");
}

void require_id(int32_t id, int32_t n_vocab, const char* name) {
    if (id < 0 || id >= n_vocab)
        fail(Code::invalid_argument, name, " has the token id ", id, ", and the model has ids 0 to ", n_vocab - 1);
}

}  // namespace

Sampling sampling_of(const qp_sampling& in, int32_t n_vocab) {
    Sampling out;
    const auto set = [&](uint64_t bit) { return (in.set & bit) != 0; };
    const auto take = [&](uint64_t bit, auto& field, const auto& value) {
        if (set(bit)) field = value;
    };
    if (set(choosing)) out.temperature = 1;
    take(QP_SET_TEMPERATURE, out.temperature, in.temperature);
    take(QP_SET_TOP_K, out.top_k, in.top_k);
    take(QP_SET_TOP_P, out.top_p, in.top_p);
    take(QP_SET_MIN_P, out.min_p, in.min_p);
    take(QP_SET_SEED, out.seed, in.seed);
    take(QP_SET_TYPICAL_P, out.typical_p, in.typical_p);
    take(QP_SET_REPETITION_PENALTY, out.repetition_penalty, in.repetition_penalty);
    take(QP_SET_FREQUENCY_PENALTY, out.frequency_penalty, in.frequency_penalty);
    take(QP_SET_PRESENCE_PENALTY, out.presence_penalty, in.presence_penalty);
    take(QP_SET_PENALTY_RANGE, out.penalty_range, in.penalty_range);
    take(QP_SET_TOP_A, out.top_a, in.top_a);
    take(QP_SET_TFS, out.tfs, in.tfs);
    take(QP_SET_MIROSTAT, out.mirostat_tau, in.mirostat_tau);
    take(QP_SET_MIROSTAT, out.mirostat_eta, in.mirostat_eta);
    take(QP_SET_XTC, out.xtc_probability, in.xtc_probability);
    take(QP_SET_XTC, out.xtc_threshold, in.xtc_threshold);
    take(QP_SET_DYNATEMP, out.dynatemp_low, in.dynatemp_low);
    take(QP_SET_DYNATEMP, out.dynatemp_high, in.dynatemp_high);
    take(QP_SET_DYNATEMP, out.dynatemp_exponent, in.dynatemp_exponent);
    take(QP_SET_SMOOTHING, out.smoothing_factor, in.smoothing_factor);
    take(QP_SET_SMOOTHING, out.smoothing_curve, in.smoothing_curve);
    take(QP_SET_TOP_N_SIGMA, out.top_n_sigma, in.top_n_sigma);
    take(QP_SET_MIN_TOKENS, out.min_tokens, in.min_tokens);
    if (set(QP_SET_DRY)) {
        out.dry_multiplier = in.dry_multiplier;
        out.dry_base = in.dry_base;
        out.dry_allowed_length = in.dry_allowed_length;
        out.dry_range = in.dry_range;
        require_array(in.dry_breakers, in.n_dry_breakers, "dry_breakers");
        if (in.n_dry_breakers > max_dry_breakers)
            fail(Code::invalid_argument, "there are ", in.n_dry_breakers, " dry_breakers; give at most ",
                 max_dry_breakers);
        for (uint32_t i = 0; i < in.n_dry_breakers; ++i) {
            const qp_text& text = in.dry_breakers[i];
            if (!text.data || text.size == 0 || text.size > max_dry_breaker_bytes)
                fail(Code::invalid_argument, "dry_breaker ", i, " has ", text.size, " bytes; it must have 1 to ",
                     max_dry_breaker_bytes);
            out.dry_breakers.emplace_back(text.data, size_t(text.size));
        }
    }
    if (set(QP_SET_LOGIT_BIAS)) {
        require_array(in.bias, in.n_bias, "logit_bias");
        for (uint32_t i = 0; i < in.n_bias; ++i) {
            require_id(in.bias[i].id, n_vocab, "logit_bias");
            out.bias.push_back({in.bias[i].id, in.bias[i].bias});
        }
    }
    if (set(QP_SET_BANNED)) {
        require_array(in.banned, in.n_banned, "banned");
        for (uint32_t i = 0; i < in.n_banned; ++i) {
            require_id(in.banned[i], n_vocab, "banned");
            out.banned.push_back(in.banned[i]);
        }
    }
    if (set(QP_SET_ORDER)) {
        if (!in.order) fail(Code::invalid_argument, "order is null; give sampler names, or leave it unset");
        out.order = in.order;
    }
    validate(out);
    return out;
}

qp_sampling recommended_sampling(const ModelFolder& folder) {
    const JsonObject config = folder.generation_config();
    qp_sampling out = make<qp_sampling>();
    const auto set = [&](uint64_t bit, double& field, const char* key, double least, double most, double neutral) {
        const std::optional<double> value = config.number(key);
        if (!value || !(*value >= least && *value <= most) || *value == neutral) return;
        field = *value;
        out.set |= bit;
    };
    set(QP_SET_TEMPERATURE, out.temperature, "temperature", 0, 1e6, NAN);
    set(QP_SET_TOP_P, out.top_p, "top_p", 0, 1, NAN);
    set(QP_SET_MIN_P, out.min_p, "min_p", 0, 1, NAN);
    set(QP_SET_TYPICAL_P, out.typical_p, "typical_p", 0, 1, 1);
    set(QP_SET_REPETITION_PENALTY, out.repetition_penalty, "repetition_penalty", 1e-6, 1e6, 1);
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

}  // namespace quantplug::engine
