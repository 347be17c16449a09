// What declares flags, and CLI11 with it: for the few files that do.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>

namespace quantplug::host {

/// Checks a --device value: auto, or cpu, cuda and cuda:N with commas between them.
CLI::Validator device_validator();
void add_gpu_layers(CLI::App& command, std::optional<int32_t>& gpu_layers);

}  // namespace quantplug::host
