// The measurement as the plugin interface calls it.
#pragma once

#include <string_view>

#include "engine/model/format.h"
#include "engine/tools/quantize_json.h"

namespace quantplug::engine {

const char* bench_arguments();

/// Events: progress, {"event": "row", ...} for each row as it is done, last {"event": "done", "rows", "limits",
/// "cuda": [{"device", "gb_per_s"}], "cpu", "device"}.
void run_bench(const Format& format, std::string_view arguments_json, const EmitJson& emit);

}  // namespace quantplug::engine
