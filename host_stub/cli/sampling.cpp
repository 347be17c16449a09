#include "host_stub/cli/sampling.h"

#include <array>
#include <quantplug/common.hpp>
#include <utility>

namespace quantplug::host {
namespace {

template <class T>
void resolve(qp_sampling& out, T qp_sampling::*field, uint64_t bit, const std::optional<T>& flag,
             const qp_sampling& model_default, const std::optional<T>& otherwise) {
    std::optional<T> value = otherwise;
    if (model_default.set & bit) value = model_default.*field;
    if (flag) value = flag;
    if (!value) return;
    out.*field = *value;
    out.set |= bit;
}

}  // namespace

qp_sampling resolve_sampling(const SamplingArguments& arguments, const qp_sampling& model_default,
                             uint64_t random_seed) {
    qp_sampling out = make<qp_sampling>();
    resolve<double>(out, &qp_sampling::temperature, QP_SET_TEMPERATURE, arguments.temperature, model_default, 0.8);
    resolve<int32_t>(out, &qp_sampling::top_k, QP_SET_TOP_K, arguments.top_k, model_default, std::nullopt);
    resolve<double>(out, &qp_sampling::top_p, QP_SET_TOP_P, arguments.top_p, model_default, 0.95);
    resolve<double>(out, &qp_sampling::min_p, QP_SET_MIN_P, arguments.min_p, model_default, 0.05);
    resolve<uint64_t>(out, &qp_sampling::seed, QP_SET_SEED, arguments.seed, make<qp_sampling>(), random_seed);
    // 0 is how a person switches it off; the ABI's off is "not set".
    if (out.top_k == 0) out.set &= ~QP_SET_TOP_K;
    return out;
}

uint64_t given_sampling(const SamplingArguments& arguments) {
    return (arguments.temperature ? QP_SET_TEMPERATURE : 0) | (arguments.top_k ? QP_SET_TOP_K : 0) |
           (arguments.top_p ? QP_SET_TOP_P : 0) | (arguments.min_p ? QP_SET_MIN_P : 0) |
           (arguments.seed ? QP_SET_SEED : 0);
}

std::string sampling_names(uint64_t mask) {
    static constexpr std::array<std::pair<uint64_t, const char*>, 5> kNames = {{{QP_SET_TEMPERATURE, "--temp"},
                                                                                {QP_SET_TOP_K, "--top-k"},
                                                                                {QP_SET_TOP_P, "--top-p"},
                                                                                {QP_SET_MIN_P, "--min-p"},
                                                                                {QP_SET_SEED, "--seed"}}};
    std::string names;
    for (const auto& [bit, name] : kNames)
        if (mask & bit) names += (names.empty() ? "" : ", ") + std::string(name);
    return names;
}

}  // namespace quantplug::host
