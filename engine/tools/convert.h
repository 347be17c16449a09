// Float tensors from one stored type to another, and config.json for a folder made from another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/checkpoint/folder.h"
#include "engine/tools/sharded_writer.h"

namespace quantplug::engine {

/// F16, BF16, F32.
bool is_float(StoredType type);

/// FP32 from stored floats; stored.size() == out.size() * size_of(type).
void to_f32(StoredType type, std::span<const std::byte> stored, std::span<float> out);
/// Rounds to nearest, ties to even. False where a finite value becomes infinite.
bool from_f32(std::span<const float> values, StoredType type, std::span<std::byte> out);

/// The values of a tensor as its bytes.
template <typename T>
std::vector<std::byte> value_bytes(const std::vector<T>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    return {bytes.begin(), bytes.end()};
}

/// A matrix's bias as `count` FP16 values, zeros behind its own. Refuses values that FP16 cannot hold.
std::vector<std::byte> f16_bias(std::span<const float> bias, int64_t count, const std::string& module);

/// Streams a tensor into the writer as `type` (its own: as it is), under `name` (empty: its own). Refuses values that
/// `type` cannot hold.
void copy_tensor(const ModelFolder& folder, const TensorInfo& tensor, StoredType type, ShardedWriter& writer,
                 const std::string& name = {});

/// The text of `document`, indented; invalid UTF-8 is replaced.
std::string json_text(const Json& document);

/// Sets `dtype` and `torch_dtype` where they are, `torch_dtype` where neither is.
void set_dtype(Json& config, std::string_view name);

}  // namespace quantplug::engine
