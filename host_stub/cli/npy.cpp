#include "host_stub/cli/npy.h"

#include <bit>
#include <cerrno>
#include <cstring>
#include <quantplug/common.hpp>
#include <string>

namespace quantplug::host {

static_assert(std::endian::native == std::endian::little, "'<f4' is written as the floats lie in memory");

NpyWriter::NpyWriter(const std::filesystem::path& path, uint64_t n_rows, uint64_t n_columns)
    : path_(path), part_(path.string() + ".part"), rows_left_(n_rows), n_columns_(n_columns) {
    file_ = std::fopen(part_.c_str(), "wb");
    if (!file_) fail();
    std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(n_rows) + ", " +
                         std::to_string(n_columns) + "), }";
    // Magic (6), version (2), length (2), header: together a multiple of 64, the header ending in a line feed.
    const size_t unpadded = 10 + header.size() + 1;
    header += std::string((64 - unpadded % 64) % 64, ' ') + '\n';
    const auto size = static_cast<uint16_t>(header.size());
    write("\x93NUMPY\x01\x00", 8);
    write(&size, sizeof size);
    write(header.data(), header.size());
}

NpyWriter::~NpyWriter() {
    if (!file_) return;
    std::fclose(file_);
    std::error_code ignored;
    std::filesystem::remove(part_, ignored);
}

void NpyWriter::fail() const {
    throw Error(QP_RESOURCE_EXHAUSTED, path_.string() + " cannot be written: " + std::strerror(errno));
}

void NpyWriter::write(const void* data, size_t size) {
    if (std::fwrite(data, 1, size, file_) != size) fail();
}

void NpyWriter::write_row(std::span<const float> row) {
    if (rows_left_ == 0 || row.size() != n_columns_)
        throw Error(QP_INTERNAL, path_.string() + " cannot be written: a row too many, or of another size");
    write(row.data(), row.size_bytes());
    --rows_left_;
}

void NpyWriter::finish() {
    if (rows_left_ != 0) throw Error(QP_INTERNAL, path_.string() + " cannot be written: rows are missing");
    std::FILE* file = file_;
    file_ = nullptr;
    const bool written = std::fclose(file) == 0;
    if (written && std::rename(part_.c_str(), path_.c_str()) == 0) return;
    const int problem = errno;
    std::error_code ignored;
    std::filesystem::remove(part_, ignored);
    errno = problem;
    fail();
}

}  // namespace quantplug::host
