// Rotary frequencies of a configuration.
#pragma once

#include "engine/checkpoint/config.h"
#include "kernels/model.h"

namespace quantplug::engine {

/// Types default, linear, dynamic (HunYuan's constant `alpha` too), llama3, yarn, longrope and mrope (whose three
/// positions are equal in text) by transformers' modeling_rope_utils.py; any other is refused by name, never guessed.
kernels::RopeSpec rope_spec(const RopeConfig& rope, int32_t head_dim);

}  // namespace quantplug::engine
