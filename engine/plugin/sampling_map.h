// Sampling between the ABI's struct, generation_config.json and the engine.
#pragma once

#include <quantplug/generate.h>

#include "engine/checkpoint/folder.h"
#include "engine/generate/sampling.h"

namespace quantplug::engine {

/// Every QP_SET_* that a Sampler obeys.
inline constexpr uint64_t supported_sampling_mask = (QP_SET_ORDER << 1) - 1;

/// Copies what `in.set` names, arrays and texts too. Where a sampler that chooses among tokens is set and temperature
/// is not, temperature is 1: the distribution as it is; penalties alone leave it at 0, the most probable token.
/// INVALID_ARGUMENT names the value that is out of range, ids of n_vocab and above included.
Sampling sampling_of(const qp_sampling& in, int32_t n_vocab);

/// generation_config.json: temperature, top_k, top_p, min_p, typical_p and repetition_penalty as far as they are valid
/// and not neutral; temperature 0 where do_sample is false.
qp_sampling recommended_sampling(const ModelFolder& folder);

}  // namespace quantplug::engine
