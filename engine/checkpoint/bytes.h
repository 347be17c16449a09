// Where parsers read from: a file or memory, by offset. Nothing is mapped: a file truncated while mapped is a SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace quantplug::engine {

class ByteSource {
 public:
    virtual ~ByteSource() = default;

    virtual uint64_t size() const = 0;
    /// What messages call it: a file's path.
    virtual const std::string& name() const = 0;
    /// Fills `out` from `offset`. data_loss where the source ends before, or the disk fails. Callable from any thread.
    virtual void read(uint64_t offset, std::span<std::byte> out) const = 0;
};

/// Borrowed bytes as a source.
class MemoryBytes final : public ByteSource {
 public:
    MemoryBytes(std::span<const std::byte> bytes, std::string name) : bytes_(bytes), name_(std::move(name)) {}
    uint64_t size() const override { return bytes_.size(); }
    const std::string& name() const override { return name_; }
    void read(uint64_t offset, std::span<std::byte> out) const override;

 private:
    std::span<const std::byte> bytes_;
    std::string name_;
};

}  // namespace quantplug::engine
