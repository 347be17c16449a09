// Sampling flags over the model's own defaults.
#pragma once

#include <cstdint>
#include <quantplug/host.hpp>
#include <span>
#include <string>

#include "host_stub/cli/arguments.h"

namespace quantplug::host {

/// A sampler of one number: its flag, its range, and the value that is off (no value: always on where it is given).
struct SamplingNumber {
    const char* flags;  // "--typical,--typical-p"
    const char* help;
    const char* type;
    double minimum, maximum;
    std::optional<double> SamplingArguments::*argument;
    double qp_sampling::*field;
    uint64_t bit;
    std::optional<double> off;
};
std::span<const SamplingNumber> sampling_numbers();

/// Sets the request's sampling, key by key: the flag, else what the model's files recommend (`model_default`), else
/// temperature 0.8, top-p 0.95, min-p 0.05; everything else is off unless named. A flag with the value that means off
/// (--top-k 0, --repeat-penalty 1) sets nothing. Without --seed the seed is `random_seed`: it is always set, so that a
/// run can be repeated. Throws UsageError for texts that are no ids or biases.
void resolve_sampling(const SamplingArguments& arguments, const qp_sampling& model_default, uint64_t random_seed,
                      GenerateRequest& request);

/// QP_SET_* of the flags that were given.
uint64_t given_sampling(const SamplingArguments& arguments);

/// "--top-k, --min-p" for a mask of QP_SET_*.
std::string sampling_names(uint64_t mask);

/// Whether every token is the most probable one.
inline bool is_greedy(const qp_sampling& sampling) {
    return (sampling.set & QP_SET_TEMPERATURE) != 0 && sampling.temperature == 0;
}

}  // namespace quantplug::host
