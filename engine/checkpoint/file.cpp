#include "engine/checkpoint/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "engine/base/error.h"

namespace quantplug::engine {

namespace {

std::string error_text(int error) { return std::generic_category().message(error); }

void check_range(const ByteSource& source, uint64_t offset, uint64_t count) {
    if (offset > source.size() || count > source.size() - offset)
        fail(Code::data_loss, source.name(), " has ", source.size(), " bytes, but bytes ", offset, " to ",
             offset + count, " were asked for: the file is truncated, download it again");
}

}  // namespace

void MemoryBytes::read(uint64_t offset, std::span<std::byte> out) const {
    check_range(*this, offset, out.size());
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
}

File File::open(const std::filesystem::path& path) {
    const std::string name = path.string();
    int fd = -1;
    // O_NONBLOCK: opening a pipe without a writer would wait for ever.
    do fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        const int error = errno;
        struct stat link {};
        if (error == ENOENT && ::lstat(path.c_str(), &link) == 0)
            fail(Code::not_found, name, " is a symbolic link to a file that does not exist: download the model again");
        const Code code = error == ENOENT || error == ENOTDIR  ? Code::not_found
                          : error == EMFILE || error == ENFILE ? Code::resource_exhausted
                          : error == ENXIO                     ? Code::invalid_argument
                                                               : Code::failed_precondition;
        fail(code, "cannot open ", name, ": ", error_text(error));
    }
    File file(fd, 0, name);
    struct stat status {};
    if (::fstat(fd, &status) != 0) fail(Code::data_loss, "cannot inspect ", name, ": ", error_text(errno));
    if (S_ISDIR(status.st_mode)) fail(Code::invalid_argument, name, " is a folder where a file is expected");
    if (!S_ISREG(status.st_mode)) fail(Code::invalid_argument, name, " is not a regular file (a pipe or a device)");
    file.size_ = uint64_t(status.st_size);
    return file;
}

File::File(File&& other) noexcept : fd_(other.fd_), size_(other.size_), name_(std::move(other.name_)) {
    other.fd_ = -1;
}

File& File::operator=(File&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(size_, other.size_);
    std::swap(name_, other.name_);
    return *this;
}

File::~File() {
    if (fd_ >= 0) ::close(fd_);
}

void File::read(uint64_t offset, std::span<std::byte> out) const {
    check_range(*this, offset, out.size());
    size_t done = 0;
    while (done < out.size()) {
        // One read returns at most 2 GB.
        const size_t piece = std::min(out.size() - done, size_t{1} << 30);
        const ssize_t got = ::pread(fd_, out.data() + done, piece, off_t(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            fail(Code::data_loss, "reading ", name_, " at byte ", offset + done, " failed: ", error_text(errno));
        if (got == 0)
            fail(Code::data_loss, name_, " ends at byte ", offset + done, ", it was ", size_,
                 " bytes long when opened: the file was truncated while in use");
        done += size_t(got);
    }
}

std::string read_text_file(const std::filesystem::path& path, uint64_t max_bytes) {
    const File file = File::open(path);
    if (file.size() > max_bytes)
        fail(Code::resource_exhausted, file.name(), " has ", file.size(), " bytes, more than the ", max_bytes,
             " that such a file may have");
    std::string text(file.size(), '\0');
    file.read(0, std::as_writable_bytes(std::span(text)));
    return text;
}

namespace {

/// Length of the well-formed UTF-8 sequence at text[i], or 0.
size_t utf8_length(std::string_view text, size_t i) {
    const auto byte = [&](size_t k) { return uint8_t(text[k]); };
    const uint8_t lead = byte(i);
    const size_t length = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (length == 1) return 1;
    if (lead < 0xc2 || lead > 0xf4 || i + length > text.size()) return 0;
    for (size_t k = 1; k < length; ++k)
        if ((byte(i + k) & 0xc0) != 0x80) return 0;
    const uint8_t second = byte(i + 1);
    if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) || (lead == 0xf0 && second < 0x90) ||
        (lead == 0xf4 && second > 0x8f))
        return 0;
    return length;
}

}  // namespace

bool is_utf8(std::string_view text) {
    for (size_t i = 0; i < text.size();) {
        const size_t length = utf8_length(text, i);
        if (length == 0) return false;
        i += length;
    }
    return true;
}

std::string printable(std::string_view text, size_t max_bytes) {
    std::string out;
    for (size_t i = 0; i < text.size();) {
        const size_t length = utf8_length(text, i);
        if (out.size() + std::max<size_t>(length, 1) > max_bytes) return out + "...";
        const bool control = length == 1 && (uint8_t(text[i]) < 0x20 || text[i] == 0x7f);
        if (length == 0 || control)
            out += '?';
        else
            out.append(text, i, length);
        i += std::max<size_t>(length, 1);
    }
    return out;
}

}  // namespace quantplug::engine
