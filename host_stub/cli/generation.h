// What `generate` and `chat` share: words for the end of a generation, and one prompt in many streams.
#pragma once

#include <cstdint>
#include <functional>
#include <quantplug/host.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "host_stub/cli/arguments.h"
#include "host_stub/cli/console.h"

namespace quantplug::host {

/// "stop", "length", "cancelled", "error", "none" for a QP_FINISH_*.
const char* finish_name(uint32_t reason);

/// "12 tokens in 0.50 s (24.0/s)".
std::string rate(uint64_t tokens, double seconds);

/// One warning that names the given flags that the plugin does not obey.
void warn_ignored(Console& console, const Plugin& plugin, uint64_t ignored, const SamplingArguments& sampling);

/// A stream of a batch: its ids and how it ended.
struct Stream {
    std::vector<int32_t> ids;
    qp_event end = make<qp_event>();
    std::string error;
};

/// Runs the request `n` times at once through engine/1 until all have ended; where it draws, stream i has the seed of
/// the request + i. Events of stream 0 go to `on_event` too. Ctrl-C cancels all. Throws the error of the first stream
/// that failed.
std::vector<Stream> generate_batch(const Model& model, const GenerateRequest& request, uint32_t n,
                                   const std::function<void(const qp_event&)>& on_event);

}  // namespace quantplug::host
