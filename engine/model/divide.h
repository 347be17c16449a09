// Layers among devices.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace quantplug::engine {

/// What a device would hold, and what it has room for.
struct DeviceLoad {
    std::vector<uint64_t> layers;  // bytes of each of the model's layers there
    uint64_t fixed = 0;            // whatever layers it has
    uint64_t room = 0;
};

/// Consecutive layers for each device, at least one, so that the fullest is as little full as it can be. Returns how
/// full that one is: above 1 it does not fit. out[i]: the device of layer first + i.
double divide_layers(std::span<const DeviceLoad> devices, size_t first, size_t n, std::span<int32_t> out);

}  // namespace quantplug::engine
