// A checkpoint's tensors in one safetensors file or several, written in the order in which they are declared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/checkpoint/writer.h"

namespace quantplug::engine {

/// "<stem>.safetensors", or "<stem>-00001-of-00003.safetensors" where the tensors have more bytes than
/// `max_file_bytes`. Memory: names and shapes. Not thread-safe. What is not finished leaves no file under its name.
class ShardedWriter {
 public:
    ShardedWriter(std::filesystem::path folder, std::string stem, std::vector<TensorDecl> tensors,
                  uint64_t max_file_bytes);

    /// Appends to a tensor, in pieces of any size; tensors of one file in any order, files in ascending order.
    void write(std::string_view name, std::span<const std::byte> bytes);
    /// Bytes of all files. All tensors must be complete.
    uint64_t finish();

    /// model.safetensors.index.json's text for several files, nothing for one. After finish().
    std::optional<std::string> index_json() const;

 private:
    void open(size_t file);
    std::string file_name(size_t file) const;

    std::filesystem::path folder_;
    std::string stem_;
    std::vector<std::vector<TensorDecl>> files_;
    std::map<std::string, size_t, std::less<>> file_of_;
    std::unique_ptr<SafetensorsWriter> writer_;
    size_t current_ = 0;
    uint64_t written_ = 0, tensor_bytes_ = 0;
};

/// Bytes of a declared tensor; resource_exhausted where they are no number.
uint64_t bytes_of(const TensorDecl& tensor);

}  // namespace quantplug::engine
