// What declares flags, and CLI11 with it: for the few files that do.
#pragma once

#include <CLI/CLI.hpp>

namespace quantplug::host {

/// Checks a --device value: auto, cpu, cuda or cuda:N.
CLI::Validator device_validator();

}  // namespace quantplug::host
