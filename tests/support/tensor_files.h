// Small checkpoints made and taken apart by tests.
#pragma once

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "engine/checkpoint/folder.h"
#include "engine/checkpoint/writer.h"

namespace quantplug::test {

struct Tensor {
    engine::StoredType type = engine::StoredType::f16;
    std::vector<int64_t> shape;
    std::vector<std::byte> bytes;

    template <typename T>
    std::vector<T> values() const {
        std::vector<T> out(bytes.size() / sizeof(T));
        if (!out.empty()) std::memcpy(out.data(), bytes.data(), out.size() * sizeof(T));
        return out;
    }
};
using Tensors = std::map<std::string, Tensor>;

template <typename T>
Tensor make_tensor(engine::StoredType type, std::vector<int64_t> shape, const std::vector<T>& values) {
    Tensor tensor{type, std::move(shape), std::vector<std::byte>(values.size() * sizeof(T))};
    if (!values.empty()) std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
    return tensor;
}

inline Tensors read_tensors(const engine::ModelFolder& folder) {
    Tensors out;
    for (const engine::TensorInfo& info : folder.tensors()) {
        Tensor tensor{info.type, info.shape, std::vector<std::byte>(info.bytes)};
        folder.read_tensor(info.name, tensor.bytes);
        out[info.name] = std::move(tensor);
    }
    return out;
}

inline Tensors read_tensor_file(const std::filesystem::path& path) {
    return read_tensors(engine::ModelFolder::open_file(path));
}

inline void write_tensor_file(const std::filesystem::path& path, const Tensors& tensors) {
    std::filesystem::remove(path);
    std::vector<engine::TensorDecl> declared;
    for (const auto& [name, tensor] : tensors) declared.push_back({name, tensor.type, tensor.shape});
    engine::SafetensorsWriter writer(path, declared);
    for (const auto& [name, tensor] : tensors) writer.write(name, tensor.bytes);
    writer.finish();
}

inline void write_file(const std::filesystem::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

}  // namespace quantplug::test
