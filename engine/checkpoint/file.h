// A regular file, open for reading by offset.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "engine/checkpoint/bytes.h"

namespace quantplug::engine {

class File final : public ByteSource {
 public:
    /// Follows symbolic links. not_found where nothing is there, invalid_argument for folders, pipes and devices.
    static File open(const std::filesystem::path& path);

    File(File&& other) noexcept;
    File& operator=(File&& other) noexcept;
    ~File() override;

    uint64_t size() const override { return size_; }
    const std::string& name() const override { return name_; }
    void read(uint64_t offset, std::span<std::byte> out) const override;

 private:
    File(int fd, uint64_t size, std::string name) : fd_(fd), size_(size), name_(std::move(name)) {}

    int fd_ = -1;
    uint64_t size_ = 0;
    std::string name_;
};

/// A whole small file; resource_exhausted where it is larger than `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, uint64_t max_bytes);

/// Well-formed UTF-8 throughout.
bool is_utf8(std::string_view text);

/// Text from a file, fit for a message: one line, printable ASCII and whole UTF-8 kept, at most `max_bytes`.
std::string printable(std::string_view text, size_t max_bytes = 120);

}  // namespace quantplug::engine
