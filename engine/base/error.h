// Errors inside the engine and the backends are exceptions; the plugin's barrier turns them into a status and a
// sentence.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace quantplug::engine {

/// absl's code values, as plugin_api/include/quantplug/base.h has them.
enum class Code : int32_t {
    cancelled = 1,
    unknown = 2,
    invalid_argument = 3,
    deadline_exceeded = 4,
    not_found = 5,
    already_exists = 6,
    resource_exhausted = 8,
    failed_precondition = 9,
    out_of_range = 11,
    unimplemented = 12,
    internal = 13,
    unavailable = 14,
    data_loss = 15,
};

/// The message is one sentence that names the file, key, tensor or value at fault and what to do.
class Error : public std::runtime_error {
 public:
    Error(Code code, const std::string& message) : std::runtime_error(message), code_(code) {}
    Code code() const { return code_; }

 private:
    Code code_;
};

/// Joins anything printable: concat("tensor ", name, " has ", n, " dimensions").
template <typename... Parts>
std::string concat(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

template <typename... Parts>
[[noreturn]] void fail(Code code, const Parts&... parts) {
    throw Error(code, concat(parts...));
}

}  // namespace quantplug::engine
