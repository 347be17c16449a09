// Lines from a file descriptor as they come.
#pragma once

#include <string>

namespace quantplug::host {

/// A terminal or a pipe that is read line by line. Reads ahead: give it the descriptor for good.
class LineReader {
 public:
    enum class Got { kLine, kEnd, kInterrupted };

    explicit LineReader(int fd) : fd_(fd) {}

    /// The next line without its line feed; the text after the last one is a line too, unless it is empty. Throws Error
    /// where the descriptor cannot be read, or a line is longer than 16 MiB.
    Got next(std::string& line);

    /// The same for a line that goes on in the next where it ends in a backslash, which becomes a line feed.
    Got next_joined(std::string& text);

 private:
    int fd_;
    bool end_ = false;
    std::string buffer_;
    size_t scanned_ = 0;  // bytes of the buffer without a line feed
};

}  // namespace quantplug::host
