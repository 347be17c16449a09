// The one decoder graph: the order of block ops, written once for every device.
#pragma once

#include <functional>

#include "kernels/device.h"

namespace quantplug::engine {

/// The walk of one step over `spec`. `cancelled` is asked between layers; the walk ends early when it answers true.
kernels::Walk decoder_walk(const kernels::ModelSpec& spec, std::function<bool()> cancelled);

}  // namespace quantplug::engine
