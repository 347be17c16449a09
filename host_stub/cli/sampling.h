// Sampling flags over the model's own defaults.
#pragma once

#include <quantplug/generate.h>

#include <cstdint>
#include <string>

#include "host_stub/cli/arguments.h"

namespace quantplug::host {

/// Key by key: the flag, else what the model's files recommend (`model_default`), else temperature 0.8, top-p 0.95,
/// min-p 0.05; top-k is off unless named. Without --seed the seed is `random_seed`: it is always set, so that a run can
/// be repeated.
qp_sampling resolve_sampling(const SamplingArguments& arguments, const qp_sampling& model_default,
                             uint64_t random_seed);

/// QP_SET_* of the flags that were given.
uint64_t given_sampling(const SamplingArguments& arguments);

/// "--top-k, --min-p" for a mask of QP_SET_*.
std::string sampling_names(uint64_t mask);

}  // namespace quantplug::host
