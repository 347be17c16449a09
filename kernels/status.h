// Status of a kernel call: absl's code values; the message names the thing at fault and what to do.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "kernels/version.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

enum Code : int32_t {
    ok_code = 0,
    cancelled = 1,
    unknown = 2,
    invalid_argument = 3,
    deadline_exceeded = 4,
    not_found = 5,
    resource_exhausted = 8,
    failed_precondition = 9,
    unimplemented = 12,
    internal = 13,
    unavailable = 14,
    data_loss = 15,
};

struct Status {
    int32_t code = 0;
    std::string message;

    bool ok() const { return code == 0; }
    static Status error(int32_t code, std::string message) { return {code, std::move(message)}; }
};

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
