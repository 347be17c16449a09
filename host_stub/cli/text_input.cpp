#include "host_stub/cli/text_input.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "host_stub/cli/failure.h"
#include "host_stub/cli/interrupt.h"

namespace quantplug::host {
namespace {

constexpr size_t kPiece = 1 << 16;
constexpr size_t kMaxBytes = size_t{1} << 30;  // a device like /dev/zero has no end

}  // namespace

std::string read_text(const std::string& path) {
    const bool standard = path == "-";
    const std::string name = standard ? "standard input" : path;
    const int fd = standard ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw Error(QP_NOT_FOUND, name + " cannot be opened: " + std::strerror(errno));
    struct Close {
        int fd;
        ~Close() {
            if (fd > STDIN_FILENO) ::close(fd);
        }
    } const close{fd};
    std::string text;
    for (;;) {
        const size_t old_size = text.size();
        if (old_size > kMaxBytes)
            throw Error(QP_RESOURCE_EXHAUSTED, name + " is longer than 1 GiB; give a shorter text");
        text.resize(old_size + kPiece);
        const ssize_t n = ::read(fd, text.data() + old_size, kPiece);
        const int problem = n < 0 ? errno : 0;
        text.resize(old_size + static_cast<size_t>(n > 0 ? n : 0));
        if (n == 0) return text;
        if (n > 0) continue;
        if (problem == EINTR && !interrupted()) continue;
        if (problem == EINTR) throw Error(QP_CANCELLED, "interrupted while reading " + name);
        throw Error(QP_UNKNOWN, name + " cannot be read: " + std::strerror(problem));
    }
}

std::string text_argument(bool has_text, const std::string& text, const std::string& file, const std::string& what) {
    if (has_text && !file.empty()) throw UsageError("give the input once: " + what);
    if (has_text) return text;
    if (!file.empty()) return read_text(file);
    if (::isatty(STDIN_FILENO) == 1) throw UsageError("there is no input: give " + what);
    return read_text("-");
}

std::vector<std::string_view> split_lines(std::string_view text) {
    std::vector<std::string_view> lines;
    while (!text.empty()) {
        const size_t end = text.find('\n');
        lines.push_back(text.substr(0, end));
        text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    }
    return lines;
}

}  // namespace quantplug::host
