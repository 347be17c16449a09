// Writes a float32 matrix as a NumPy .npy file, row by row.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <span>

namespace quantplug::host {

/// Format 1.0 of numpy.lib.format, little-endian, C order. The file appears under its name when all rows are written;
/// until then it is
/// `<path>.part`, which goes with the object. Throws quantplug::Error that names the file.
class NpyWriter {
 public:
    NpyWriter(const std::filesystem::path& path, uint64_t n_rows, uint64_t n_columns);
    ~NpyWriter();
    NpyWriter(const NpyWriter&) = delete;
    NpyWriter& operator=(const NpyWriter&) = delete;

    void write_row(std::span<const float> row);  // (n_columns)
    void finish();

 private:
    [[noreturn]] void fail() const;
    void write(const void* data, size_t size);

    std::filesystem::path path_, part_;
    std::FILE* file_;
    uint64_t rows_left_, n_columns_;
};

}  // namespace quantplug::host
