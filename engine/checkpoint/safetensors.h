// The safetensors container: 8 bytes of header length, a JSON header, tensor data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/checkpoint/bytes.h"

namespace quantplug::engine {

enum class StoredType : uint8_t {
    boolean,
    u8,
    i8,
    f8_e4m3,
    f8_e5m2,
    u16,
    i16,
    f16,
    bf16,
    u32,
    i32,
    f32,
    u64,
    i64,
    f64,
    unknown,  // TensorInfo::type_name says which; can be listed, not read
};

/// Bytes of one value; 0 for `unknown`.
uint64_t size_of(StoredType type);
/// The container's own spelling: "F16". "?" for `unknown`.
std::string_view name_of(StoredType type);
StoredType stored_type(std::string_view name);

struct TensorInfo {
    std::string name;
    StoredType type = StoredType::unknown;
    std::string type_name;       // as in the file: "F16"
    std::vector<int64_t> shape;  // outermost first; empty: one value
    uint64_t offset = 0;         // of the data, from the start of the file
    uint64_t bytes = 0;

    /// Values: the product of the shape (checked when the header was read).
    uint64_t count() const;
    /// "F16 [49152, 576]"
    std::string describe() const;
};

struct SafetensorsHeader {
    std::vector<TensorInfo> tensors;              // in file order
    std::map<std::string, std::string> metadata;  // "__metadata__"
};

/// Reads and checks a header: its length against the file and a limit of 100 MB; every tensor's range inside the file,
/// its length equal to shape times type, no overlap, no name twice. data_loss for truncated files, invalid_argument for
/// wrong ones; Git-LFS pointers and empty files are said as such.
SafetensorsHeader read_safetensors_header(const ByteSource& source);

/// An open file and its header.
class SafetensorsFile {
 public:
    static SafetensorsFile open(const std::filesystem::path& path);
    SafetensorsFile(std::unique_ptr<ByteSource> source);

    const std::string& name() const { return source_->name(); }
    uint64_t size() const { return source_->size(); }
    const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
    const std::map<std::string, std::string>& metadata() const { return header_.metadata; }

    /// Bytes `offset` .. of a tensor of this file. Unknown types are refused by name.
    void read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const;

 private:
    std::unique_ptr<ByteSource> source_;
    SafetensorsHeader header_;
};

}  // namespace quantplug::engine
