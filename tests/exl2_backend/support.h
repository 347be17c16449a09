#pragma once

#include "tests/support/decoding.h"

namespace quantplug::test {

inline Tensors as_module(const Tensors& golden, const std::string& module) {
    return with_prefix(golden, module, {"q_weight", "q_groups", "q_scale", "q_scale_max", "q_invperm", "bias"});
}

}  // namespace quantplug::test
