// Flags of the ABI's tokenizer hooks from command-line values.
#pragma once

#include <quantplug/tokenize.h>

#include <cstdint>

#include "host_stub/cli/arguments.h"

namespace quantplug::host {

inline uint32_t tokenize_flags(Bos bos, bool special) {
    const uint32_t flags = bos == Bos::kOn ? QP_BOS_ON : bos == Bos::kOff ? QP_BOS_OFF : QP_BOS_AUTO;
    return flags | (special ? QP_SPECIAL_TEXT : 0u);
}

}  // namespace quantplug::host
