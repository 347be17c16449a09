// What the machine and the process's limits leave.
#pragma once

#include <cstdint>

namespace quantplug::engine {

/// Bytes that this process can still allocate: the least of MemAvailable, what the cgroups on its path leave (v2
/// memory.max, v1 memory.limit_in_bytes) and the address-space limit. 0 = unknown.
uint64_t available_memory();

/// Resident bytes of this process now (VmRSS). 0 = unknown.
uint64_t resident_memory();

}  // namespace quantplug::engine
