// The tools as the plugin interface calls them: JSON in, JSON events out.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "engine/checkpoint/json.h"
#include "engine/tools/dequantize.h"
#include "engine/tools/quantize.h"

namespace quantplug::engine {

/// One JSON object, valid for the call; false cancels.
using EmitJson = std::function<bool(const std::string& json)>;

inline constexpr const char* tool_arguments_name = "the arguments";  // in messages

/// The arguments of a tool, an object whose keys are all in `described` (qp_tool_info::arguments); others are refused
/// by name.
Json parse_tool_arguments(std::string_view arguments, std::string_view described);

/// `described`: the arguments as qp_tool_info::arguments has them; what is not in it is refused by name. Events:
/// {"event": "progress", "fraction", "what"}, {"event": "layer", "name", "bits"}, last {"event": "done",
/// "bits_per_weight", "bits_per_weight_head", "seconds", "tensors", "bytes"}.
void run_quantize(const MakeQuantizer& make, std::string_view described, std::string_view arguments_json,
                  const EmitJson& emit);

/// {"in", "out", "dtype"}; the last event has "tensors" and "bytes".
void run_dequantize(const Format& format, std::string_view arguments_json, const EmitJson& emit);
/// What run_dequantize takes, as qp_tool_info::arguments has it.
const char* dequantize_arguments();

/// {"in", "out", "dtype"}; the last event has "tensors", "bytes", "architecture" and "tokenizer".
void run_import_gguf(std::string_view arguments_json, const EmitJson& emit);
const char* import_gguf_arguments();

}  // namespace quantplug::engine
