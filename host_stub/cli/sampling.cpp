#include "host_stub/cli/sampling.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "host_stub/cli/failure.h"
#include "host_stub/cli/utf8.h"

namespace quantplug::host {
namespace {

using A = SamplingArguments;
using S = qp_sampling;

constexpr std::array kNumbers = {
    SamplingNumber{"--temp,--temperature", "temperature; 0 = greedy (default: the model's own, else 0.8)", "T", 0, 1e6,
                   &A::temperature, &S::temperature, QP_SET_TEMPERATURE, std::nullopt},
    SamplingNumber{"--top-p", "draw from the smallest set with this mass (default: the model's own, else 0.95)", "P", 0,
                   1, &A::top_p, &S::top_p, QP_SET_TOP_P, std::nullopt},
    SamplingNumber{"--min-p", "least share of the best token's probability (default: the model's own, else 0.05)", "P",
                   0, 1, &A::min_p, &S::min_p, QP_SET_MIN_P, std::nullopt},
    SamplingNumber{"--typical,--typical-p", "draw from the tokens whose surprise is nearest to the entropy; 1 = off",
                   "P", 0, 1, &A::typical_p, &S::typical_p, QP_SET_TYPICAL_P, 1.0},
    SamplingNumber{"--top-a", "least probability as a share of the best one's square; 0 = off", "A", 0, 1, &A::top_a,
                   &S::top_a, QP_SET_TOP_A, 0.0},
    SamplingNumber{"--tfs", "tail-free sampling; 1 = off", "Z", 0, 1, &A::tfs, &S::tfs, QP_SET_TFS, 1.0},
    SamplingNumber{"--top-n-sigma", "draw within N standard deviations of the best logit; 0 = off", "N", 0, 1e6,
                   &A::top_n_sigma, &S::top_n_sigma, QP_SET_TOP_N_SIGMA, 0.0},
    SamplingNumber{"--repeat-penalty,--repetition-penalty", "divides the logits of tokens that were there; 1 = off",
                   "R", 1e-6, 1e6, &A::repetition_penalty, &S::repetition_penalty, QP_SET_REPETITION_PENALTY, 1.0},
    SamplingNumber{"--frequency-penalty", "subtracted for each time that a token was there; 0 = off", "F", -1e6, 1e6,
                   &A::frequency_penalty, &S::frequency_penalty, QP_SET_FREQUENCY_PENALTY, 0.0},
    SamplingNumber{"--presence-penalty", "subtracted where a token was there; 0 = off", "P", -1e6, 1e6,
                   &A::presence_penalty, &S::presence_penalty, QP_SET_PRESENCE_PENALTY, 0.0},
};

constexpr std::array<std::pair<uint64_t, const char*>, 12> kOtherNames = {{{QP_SET_TOP_K, "--top-k"},
                                                                           {QP_SET_SEED, "--seed"},
                                                                           {QP_SET_PENALTY_RANGE, "--repeat-last-n"},
                                                                           {QP_SET_MIROSTAT, "--mirostat"},
                                                                           {QP_SET_XTC, "--xtc-probability"},
                                                                           {QP_SET_DRY, "--dry-multiplier"},
                                                                           {QP_SET_DYNATEMP, "--dynatemp-low"},
                                                                           {QP_SET_SMOOTHING, "--smoothing-factor"},
                                                                           {QP_SET_MIN_TOKENS, "--min-tokens"},
                                                                           {QP_SET_LOGIT_BIAS, "--logit-bias"},
                                                                           {QP_SET_BANNED, "--ban-tokens"},
                                                                           {QP_SET_ORDER, "--sampler-order"}}};

// Everything but the three that shape the temperature: named first, they leave those last.
constexpr const char* kTemperatureLast =
    "repetition_penalty,frequency_penalty,presence_penalty,dry,top_n_sigma,top_k,top_p,top_a,min_p,tfs,typical_p,xtc";

qp_token_bias parse_bias(const std::string& text) {
    qp_token_bias out = {-1, 0};
    const size_t equals = text.find('=');
    const char* const begin = text.data();
    const char* const end = begin + text.size();
    if (equals != std::string::npos) {
        const auto id = std::from_chars(begin, begin + equals, out.id);
        const char* value = begin + equals + 1;
        if (value != end && *value == '+') ++value;
        const auto bias = std::from_chars(value, end, out.bias);
        if (id.ec == std::errc() && id.ptr == begin + equals && out.id >= 0 && bias.ec == std::errc() &&
            bias.ptr == end && bias.ptr != value)
            return out;
    }
    throw UsageError("--logit-bias '" + printable(text) + "' is not ID=B, a token id and a number or -inf");
}

bool mirostat_on(const SamplingArguments& a) {
    return a.mirostat ? *a.mirostat == 2 : a.mirostat_tau || a.mirostat_eta;
}

void resolve_groups(const SamplingArguments& a, GenerateRequest& request) {
    if (mirostat_on(a)) request.mirostat(a.mirostat_tau.value_or(5.0), a.mirostat_eta.value_or(0.1));
    if (a.xtc_probability.value_or(0) > 0) request.xtc(*a.xtc_probability, a.xtc_threshold.value_or(0.1));
    if (a.dry_multiplier.value_or(0) > 0)
        request.dry(*a.dry_multiplier, a.dry_base.value_or(1.75), a.dry_allowed_length.value_or(2),
                    a.dry_range.value_or(-1), a.dry_breakers.value_or(std::vector<std::string>{"\n", ":", "\"", "*"}));
    if (a.dynatemp_low && a.dynatemp_high)
        request.dynatemp(*a.dynatemp_low, *a.dynatemp_high, a.dynatemp_exponent.value_or(1.0));
    if (a.smoothing_factor.value_or(0) > 0) request.smoothing(*a.smoothing_factor, a.smoothing_curve.value_or(1.0));
    if (a.min_tokens.value_or(0) > 0) request.min_tokens(*a.min_tokens);
    for (const std::string& text : a.logit_bias) {
        const qp_token_bias bias = parse_bias(text);
        request.logit_bias(bias.id, bias.bias);
    }
    for (const int32_t id : parse_ids(a.ban_tokens)) request.ban(id);
    if (a.temperature_last) request.order(kTemperatureLast);
    if (!a.order.empty()) {
        std::string order;
        for (const char c : a.order)
            if (c != ' ') order += c == '-' ? '_' : c;
        request.order(order);
    }
}

}  // namespace

std::span<const SamplingNumber> sampling_numbers() { return kNumbers; }

void resolve_sampling(const SamplingArguments& arguments, const qp_sampling& model_default, uint64_t random_seed,
                      GenerateRequest& request) {
    qp_sampling& out = request.sampling;
    const auto otherwise = [](uint64_t bit) -> std::optional<double> {
        if (bit == QP_SET_TEMPERATURE) return 0.8;
        if (bit == QP_SET_TOP_P) return 0.95;
        if (bit == QP_SET_MIN_P) return 0.05;
        return std::nullopt;
    };
    for (const SamplingNumber& number : kNumbers) {
        std::optional<double> value = otherwise(number.bit);
        if (model_default.set & number.bit) value = model_default.*number.field;
        if (arguments.*number.argument) value = arguments.*number.argument;
        if (!value || value == number.off) continue;
        out.*number.field = *value;
        out.set |= number.bit;
    }
    const int32_t model_top_k = model_default.set & QP_SET_TOP_K ? model_default.top_k : 0;
    if (const int32_t top_k = arguments.top_k.value_or(model_top_k); top_k > 0) request.top_k(top_k);
    if (arguments.penalty_range) request.penalty_range(*arguments.penalty_range);
    resolve_groups(arguments, request);
    request.seed(arguments.seed.value_or(random_seed));
}

uint64_t given_sampling(const SamplingArguments& a) {
    uint64_t mask = 0;
    for (const SamplingNumber& number : kNumbers)
        if (a.*number.argument) mask |= number.bit;
    const auto add = [&mask](bool given, uint64_t bit) { mask |= given ? bit : 0; };
    add(a.top_k.has_value(), QP_SET_TOP_K);
    add(a.seed.has_value(), QP_SET_SEED);
    add(a.penalty_range.has_value(), QP_SET_PENALTY_RANGE);
    add(mirostat_on(a), QP_SET_MIROSTAT);
    add(a.xtc_probability.has_value(), QP_SET_XTC);
    add(a.dry_multiplier.has_value(), QP_SET_DRY);
    add(a.dynatemp_low.has_value(), QP_SET_DYNATEMP);
    add(a.smoothing_factor.has_value(), QP_SET_SMOOTHING);
    add(a.min_tokens.has_value(), QP_SET_MIN_TOKENS);
    add(!a.logit_bias.empty(), QP_SET_LOGIT_BIAS);
    add(!a.ban_tokens.empty(), QP_SET_BANNED);
    add(a.temperature_last || !a.order.empty(), QP_SET_ORDER);
    return mask;
}

std::string sampling_names(uint64_t mask) {
    std::string names;
    const auto add = [&](uint64_t bit, const std::string& name) {
        if (mask & bit) names += (names.empty() ? "" : ", ") + name;
    };
    for (const SamplingNumber& number : kNumbers) {
        const std::string flags = number.flags;
        add(number.bit, flags.substr(0, flags.find(',')));
    }
    for (const auto& [bit, name] : kOtherNames) add(bit, name);
    return names;
}

}  // namespace quantplug::host
