// Folders with something wrong in them, and the sentence that refuses them.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/model/format.h"
#include "tests/support/data.h"
#include "tests/support/tensor_files.h"

namespace quantplug::test {

/// What describe, or else open, says; "" where both accept the matrix, "not an engine::Error: ..." for any other
/// exception.
inline std::string refusal(const engine::Format& format, const Tensors& tensors, int32_t k, int32_t n,
                           const std::string& config = "") {
    const TempDir dir;
    write_tensor_file(dir.path() / "model.safetensors", tensors);
    if (!config.empty()) write_file(dir.path() / "quantize_config.json", config);
    try {
        const auto folder = engine::ModelFolder::open(dir.path());
        format.describe(folder, "m", k, n);
        format.open(folder, "m", k, n);
    } catch (const engine::Error& error) {
        return error.what();
    } catch (const std::exception& error) {
        return std::string("not an engine::Error: ") + error.what();
    }
    return "";
}

/// A tensor of another type with the same number of bytes per value, or of another shape.
inline Tensor retyped(Tensor tensor, engine::StoredType type) {
    tensor.bytes.resize(tensor.bytes.size() / engine::size_of(tensor.type) * engine::size_of(type));
    tensor.type = type;
    return tensor;
}
inline Tensor reshaped(Tensor tensor, std::vector<int64_t> shape) {
    uint64_t bytes = engine::size_of(tensor.type);
    for (const int64_t size : shape) bytes *= uint64_t(size);
    tensor.bytes.resize(bytes);
    tensor.shape = std::move(shape);
    return tensor;
}

}  // namespace quantplug::test
