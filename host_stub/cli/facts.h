// Small facts: fixed-size text fields of the ABI, and this process's memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

namespace quantplug::host {

/// The text of a char array of the ABI, which a careless plugin may have left without its NUL.
template <size_t N>
std::string field_text(const char (&field)[N]) {
    return std::string(field, std::find(field, field + N, '\0'));
}

/// Highest resident memory of this process so far, in bytes. VmHWM, which begins anew at exec; getrusage's ru_maxrss
/// does not: it would include what the shell or interpreter that started this process had resident.
uint64_t peak_rss_bytes();

}  // namespace quantplug::host
