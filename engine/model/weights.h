// A decoder's matrices and vectors: from the folder's files into a device's own layout.
#pragma once

#include <cstdint>
#include <functional>

#include "engine/model/decoder.h"
#include "engine/model/options.h"
#include "kernels/device.h"

namespace quantplug::engine {

/// Parts of the device that hold a matrix or a vector: that of its layer, the first for what comes before the layers,
/// the last for what comes after. One matrix that serves as embedding and head on different parts is on both.
struct WeightPlace {
    int32_t part = 0;
    int32_t second = -1;  // or none
    bool on(int32_t p) const { return p == part || p == second; }
};
WeightPlace place_of(const Decoder& decoder, const LinearPart& linear, int32_t n_parts);
WeightPlace place_of(const Decoder& decoder, const NormPart& norm, int32_t n_parts);

/// Tells the bytes of every matrix and vector on the selected part, its layer's number or -1: those of all layers,
/// whatever their part, and of the ends that are `part`'s.
void for_each_weight(const Decoder& decoder, const kernels::Device& device, int32_t part,
                     const std::function<void(int32_t layer, uint64_t bytes)>& tell);

/// The largest matrix or vector of the part, which is selected.
uint64_t largest_weight_bytes(const Decoder& decoder, const kernels::Device& device, int32_t part);
/// Bytes that load_weights will allocate on the part, which is selected. Saturates.
uint64_t weight_bytes(const Decoder& decoder, const kernels::Device& device, int32_t part = 0);

/// Reserves every part's room.
void reserve_weights(const Decoder& decoder, kernels::Device& device, const std::string& name);

/// Streams every matrix into the device's packer and every vector onto it, and fills the handles of decoder.spec.
/// `progress` (may be empty) false ends with CANCELLED.
void load_weights(const ModelFolder& folder, const Format& format, Decoder& decoder, kernels::Device& device,
                  const Progress& progress);

}  // namespace quantplug::engine
