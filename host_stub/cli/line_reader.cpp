#include "host_stub/cli/line_reader.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <quantplug/common.hpp>

#include "host_stub/cli/interrupt.h"

namespace quantplug::host {

LineReader::Got LineReader::next(std::string& line) {
    constexpr size_t most = size_t{1} << 24;
    for (;;) {
        const size_t feed = buffer_.find('\n', scanned_);
        if (feed != std::string::npos || (end_ && !buffer_.empty())) {
            line = buffer_.substr(0, feed);
            buffer_.erase(0, feed == std::string::npos ? feed : feed + 1);
            scanned_ = 0;
            if (!line.empty() && line.back() == '\r') line.pop_back();
            return Got::kLine;
        }
        if (end_) return Got::kEnd;
        scanned_ = buffer_.size();
        if (scanned_ > most) throw Error(QP_RESOURCE_EXHAUSTED, "a line of the input is longer than 16 MiB; split it");
        if (interrupted()) return Got::kInterrupted;
        std::array<char, 1 << 14> piece;
        const ssize_t n = ::read(fd_, piece.data(), piece.size());
        if (n > 0) buffer_.append(piece.data(), static_cast<size_t>(n));
        if (n == 0) end_ = true;
        if (n < 0 && errno != EINTR)
            throw Error(QP_UNKNOWN, std::string("the input cannot be read: ") + std::strerror(errno));
    }
}

LineReader::Got LineReader::next_joined(std::string& text) {
    text.clear();
    for (std::string line;;) {
        const Got got = next(line);
        if (got == Got::kInterrupted || (got == Got::kEnd && text.empty())) return got;
        if (got == Got::kEnd) line.clear();
        const bool goes_on = !line.empty() && line.back() == '\\';
        if (goes_on) line.back() = '\n';
        text += line;
        if (!goes_on) return Got::kLine;
    }
}

}  // namespace quantplug::host
