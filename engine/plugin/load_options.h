// The load options of every backend that is built on the engine.
#pragma once

#include <cstdint>
#include <quantplug/backend.hpp>

#include "engine/model/model.h"

namespace quantplug::engine {

/// Option number `index`; false past the end.
bool load_option(uint32_t index, qp_option_info& out);

engine::LoadOptions parse_load_options(const backend::LoadOptions& options);

const char* name_of(kernels::Compute compute);

}  // namespace quantplug::engine
