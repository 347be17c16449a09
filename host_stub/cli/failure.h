// How a command ends early. A refusal or failure is quantplug::Error: exit code 1 and `error: <sentence>`.
#pragma once

#include <quantplug/common.hpp>
#include <stdexcept>

namespace quantplug::host {

/// Ends the command with exit code 2.
class UsageError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// The reader of stdout has gone: the program ends with exit code 1 and without a word.
class BrokenPipe : public std::runtime_error {
 public:
    BrokenPipe() : std::runtime_error("standard output was closed by its reader") {}
};

}  // namespace quantplug::host
