// Which devices a model is computed on, and which of its layers each has.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/decoder.h"
#include "engine/model/options.h"
#include "kernels/device.h"

namespace quantplug::engine {

/// A device, split where there are several names; names[i] is that of part i.
struct Devices {
    std::unique_ptr<kernels::Device> device;
    std::vector<std::string> names;
    int32_t gpu_layers = -1;  // where the first part is the CPU and the others are not; -1: as many as fit

    bool any_gpu() const;
    bool all_gpu() const;
    int32_t max_rows() const;  // of one step
};

/// What decides the memory of steps, beside the model.
struct StepNeeds {
    int32_t positions = 0;
    kernels::KvSpec kv;
    kernels::Compute compute = kernels::Compute::standard;
    int32_t max_wanted = 0;
    uint64_t other = 0;  // of the host, beside the devices'
};

/// Divides the layers (LayerSpec::device of decoder.spec), in proportion to each device's free memory; then what every
/// part allocates.
MemoryPlan plan_parts(Devices& devices, Decoder& decoder, const StepNeeds& needs);

struct ChosenDevices {
    Devices devices;
    MemoryPlan plan;
};

/// The devices that the options name. auto: CUDA where there is a card and the model fits, the CPU otherwise, which is
/// said in one line where there is a card. UNAVAILABLE, UNIMPLEMENTED and INVALID_ARGUMENT name the device or option at
/// fault; whether a plan fits is the caller's to ask.
ChosenDevices choose_devices(Decoder& decoder, const LoadOptions& options,
                             const std::function<MemoryPlan(Devices&, const Log&)>& plan_for, const Log& log);

}  // namespace quantplug::engine
