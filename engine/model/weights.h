// A decoder's matrices and vectors: from the folder's files into a device's own layout.
#pragma once

#include <cstdint>
#include <functional>

#include "engine/model/decoder.h"
#include "kernels/device.h"

namespace quantplug::engine {

/// Bytes that load_weights will allocate on the device. Saturates.
uint64_t weight_bytes(const Decoder& decoder, const kernels::Device& device);

/// Streams every matrix into the device's packer and every vector onto it, and fills the handles of decoder.spec.
/// `progress` (may be empty) false ends with CANCELLED.
void load_weights(const ModelFolder& folder, const Format& format, Decoder& decoder, kernels::Device& device,
                  const std::function<bool(double fraction, const char* what)>& progress);

}  // namespace quantplug::engine
