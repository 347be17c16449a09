// generate_request.hpp - what a host asks of generate and of the engine, with the memory that it needs. C++11.
#ifndef QUANTPLUG_DETAIL_GENERATE_REQUEST_HPP
#define QUANTPLUG_DETAIL_GENERATE_REQUEST_HPP

#include <quantplug/generate.h>

#include <quantplug/common.hpp>
#include <string>
#include <vector>

namespace quantplug {

/// qp_generate_params that owns what it points to. Sampling starts with nothing set, which is greedy; each function
/// below sets one sampler.
struct GenerateRequest {
    std::vector<int32_t> prompt;
    qp_sampling sampling = make<qp_sampling>();  // the arrays below go beside it, set by their bits
    std::vector<qp_token_bias> bias;             // QP_SET_LOGIT_BIAS
    std::vector<int32_t> banned;                 // QP_SET_BANNED
    std::vector<std::string> dry_breakers;       // QP_SET_DRY
    std::string sampler_order;                   // QP_SET_ORDER
    std::vector<std::string> stop;
    std::vector<int32_t> stop_ids;
    uint32_t max_tokens = 0;
    uint32_t n_top = 0;
    uint32_t flags = 0;

    GenerateRequest& temperature(double value) { return sampling.temperature = value, set(QP_SET_TEMPERATURE); }
    GenerateRequest& top_k(int32_t value) { return sampling.top_k = value, set(QP_SET_TOP_K); }
    GenerateRequest& top_p(double value) { return sampling.top_p = value, set(QP_SET_TOP_P); }
    GenerateRequest& min_p(double value) { return sampling.min_p = value, set(QP_SET_MIN_P); }
    GenerateRequest& seed(uint64_t value) { return sampling.seed = value, set(QP_SET_SEED); }
    GenerateRequest& typical_p(double value) { return sampling.typical_p = value, set(QP_SET_TYPICAL_P); }
    GenerateRequest& top_a(double value) { return sampling.top_a = value, set(QP_SET_TOP_A); }
    GenerateRequest& tfs(double value) { return sampling.tfs = value, set(QP_SET_TFS); }
    GenerateRequest& top_n_sigma(double value) { return sampling.top_n_sigma = value, set(QP_SET_TOP_N_SIGMA); }
    GenerateRequest& min_tokens(uint32_t value) { return sampling.min_tokens = value, set(QP_SET_MIN_TOKENS); }
    GenerateRequest& repetition_penalty(double value) {
        return sampling.repetition_penalty = value, set(QP_SET_REPETITION_PENALTY);
    }
    GenerateRequest& frequency_penalty(double value) {
        return sampling.frequency_penalty = value, set(QP_SET_FREQUENCY_PENALTY);
    }
    GenerateRequest& presence_penalty(double value) {
        return sampling.presence_penalty = value, set(QP_SET_PRESENCE_PENALTY);
    }
    /// -1: all tokens, the prompt's too.
    GenerateRequest& penalty_range(int32_t value) { return sampling.penalty_range = value, set(QP_SET_PENALTY_RANGE); }
    GenerateRequest& mirostat(double tau, double eta) {
        return sampling.mirostat_tau = tau, sampling.mirostat_eta = eta, set(QP_SET_MIROSTAT);
    }
    GenerateRequest& xtc(double probability, double threshold) {
        return sampling.xtc_probability = probability, sampling.xtc_threshold = threshold, set(QP_SET_XTC);
    }
    /// `breakers`: texts that end a repeated sequence. `range`: -1 is all tokens.
    GenerateRequest& dry(double multiplier, double base, int32_t allowed_length, int32_t range,
                         const std::vector<std::string>& breakers) {
        sampling.dry_multiplier = multiplier;
        sampling.dry_base = base;
        sampling.dry_allowed_length = allowed_length;
        sampling.dry_range = range;
        dry_breakers = breakers;
        return set(QP_SET_DRY);
    }
    GenerateRequest& dynatemp(double low, double high, double exponent) {
        sampling.dynatemp_low = low;
        sampling.dynatemp_high = high;
        sampling.dynatemp_exponent = exponent;
        return set(QP_SET_DYNATEMP);
    }
    GenerateRequest& smoothing(double factor, double curve) {
        return sampling.smoothing_factor = factor, sampling.smoothing_curve = curve, set(QP_SET_SMOOTHING);
    }
    GenerateRequest& logit_bias(int32_t id, float value) {
        return bias.push_back(qp_token_bias{id, value}), set(QP_SET_LOGIT_BIAS);
    }
    GenerateRequest& ban(int32_t id) { return banned.push_back(id), set(QP_SET_BANNED); }
    /// Names of generate.h, separated by commas.
    GenerateRequest& order(const std::string& names) { return sampler_order = names, set(QP_SET_ORDER); }

 private:
    GenerateRequest& set(uint64_t bit) { return sampling.set |= bit, *this; }
};

namespace detail {

inline qp_text text_view(const std::string& text) { return qp_text{text.data(), text.size()}; }

/// The C structs over a request, which must stay as it is until they are gone.
struct BorrowedRequest {
    std::vector<qp_text> stop, dry_breakers;
    qp_sampling sampling;
    qp_generate_params params;

    explicit BorrowedRequest(const GenerateRequest& request)
        : stop(), dry_breakers(), sampling(request.sampling), params(make<qp_generate_params>()) {
        for (const std::string& text : request.stop) stop.push_back(text_view(text));
        // What the host put into qp_sampling itself stays where the vectors have nothing.
        if (!request.bias.empty()) {
            sampling.bias = request.bias.data();
            sampling.n_bias = static_cast<uint32_t>(request.bias.size());
        }
        if (!request.banned.empty()) {
            sampling.banned = request.banned.data();
            sampling.n_banned = static_cast<uint32_t>(request.banned.size());
        }
        if (!request.dry_breakers.empty()) {
            for (const std::string& text : request.dry_breakers) dry_breakers.push_back(text_view(text));
            sampling.dry_breakers = dry_breakers.data();
            sampling.n_dry_breakers = static_cast<uint32_t>(dry_breakers.size());
        }
        if (!request.sampler_order.empty()) sampling.order = request.sampler_order.c_str();
        params.flags = request.flags;
        params.prompt = request.prompt.data();
        params.n_prompt = request.prompt.size();
        params.sampling = &sampling;
        params.stop = stop.data();
        params.n_stop = static_cast<uint32_t>(stop.size());
        params.stop_ids = request.stop_ids.data();
        params.n_stop_ids = static_cast<uint32_t>(request.stop_ids.size());
        params.max_tokens = request.max_tokens;
        params.n_top = request.n_top;
    }
    BorrowedRequest(const BorrowedRequest&) = delete;
    BorrowedRequest& operator=(const BorrowedRequest&) = delete;
};

}  // namespace detail

}  // namespace quantplug

#endif
