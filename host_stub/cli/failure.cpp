#include "host_stub/cli/failure.h"

#include <array>

namespace quantplug::host {

const char* status_name(int32_t code) {
    static constexpr std::array<const char*, 16> kNames = {
        "OK",                "CANCELLED",          "UNKNOWN",             "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED", "NOT_FOUND",          "ALREADY_EXISTS",      "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",             "OUT_OF_RANGE",
        "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",         "DATA_LOSS"};
    return code >= 0 && static_cast<size_t>(code) < kNames.size() ? kNames[static_cast<size_t>(code)] : "UNKNOWN";
}

}  // namespace quantplug::host
