// Opens libquantplug_sentencepiece beside the kernel library.
#pragma once

#include "engine/sentencepiece/sentencepiece_api.h"

namespace quantplug::engine {

/// The library's functions; it stays open until the process ends. Error (failed_precondition) where it is missing or of
/// another version.
const qp_sp_functions& sentencepiece_library();

}  // namespace quantplug::engine
