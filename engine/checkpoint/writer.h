// Writing checkpoints: complete or absent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/checkpoint/safetensors.h"

namespace quantplug::engine {

struct TensorDecl {
    std::string name;
    StoredType type = StoredType::f16;
    std::vector<int64_t> shape;
};

/// A safetensors file whose tensors are declared first and streamed then. Written under another name in the target's
/// folder, renamed by finish(); whatever ends before that leaves nothing. Not thread-safe.
class SafetensorsWriter {
 public:
    using Metadata = std::map<std::string, std::string>;

    /// resource_exhausted where the disk is full, already_exists where `path` is there.
    SafetensorsWriter(std::filesystem::path path, std::vector<TensorDecl> tensors,
                      const Metadata& metadata = {{"format", "pt"}});
    ~SafetensorsWriter();
    SafetensorsWriter(const SafetensorsWriter&) = delete;
    SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

    /// Appends to a tensor, in pieces of any size; tensors in any order. More than its bytes is an internal error.
    void write(std::string_view name, std::span<const std::byte> bytes);
    /// All tensors must be complete. Flushes to the disk and gives the file its name. Returns its size.
    uint64_t finish();

 private:
    struct Slot {
        uint64_t offset = 0, bytes = 0, written = 0;
    };
    void put(uint64_t offset, std::span<const std::byte> bytes);
    void discard() noexcept;

    std::filesystem::path path_, temporary_;
    std::unordered_map<std::string, Slot> slots_;
    uint64_t size_ = 0;
    int fd_ = -1;
};

/// A model folder that appears under its name when it is complete: made as `<out>.partial-<pid>` beside it, renamed by
/// commit(), removed otherwise.
class OutputFolder {
 public:
    /// already_exists where `out` is a file or a folder with something in it.
    explicit OutputFolder(const std::filesystem::path& out);
    ~OutputFolder();
    OutputFolder(const OutputFolder&) = delete;
    OutputFolder& operator=(const OutputFolder&) = delete;

    /// The folder to write in until commit().
    const std::filesystem::path& path() const { return temporary_; }
    void write_text(std::string_view file_name, std::string_view text);
    /// Copies the top-level regular files of a source folder that hold no tensors (*.safetensors, *.bin, *.gguf,
    /// *.index.json ...) and describe none (quantize_config.json), up to 64 MB each; files already written here stay.
    void copy_side_files(const std::filesystem::path& source);
    void commit();

 private:
    std::filesystem::path out_, temporary_;
    bool committed_ = false;
};

}  // namespace quantplug::engine
