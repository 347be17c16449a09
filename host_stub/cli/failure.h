// A refusal or failure of the program: one sentence and a status code of the ABI.
#pragma once

#include <quantplug/base.h>

#include <stdexcept>
#include <string>

namespace quantplug::host {

/// Ends the command with exit code 1 and `error: <sentence>`.
class Failure : public std::runtime_error {
 public:
    Failure(int32_t code, const std::string& sentence) : std::runtime_error(sentence), code_(code) {}
    int32_t code() const { return code_; }   // QP_*

 private:
    int32_t code_;
};

/// Ends the command with exit code 2.
class UsageError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// The reader of stdout has gone: the program ends without a word.
class BrokenPipe : public std::runtime_error {
 public:
    BrokenPipe() : std::runtime_error("standard output was closed by its reader") {}
};

/// "INVALID_ARGUMENT" for QP_INVALID_ARGUMENT, and so on.
const char* status_name(int32_t code);

}  // namespace quantplug::host
