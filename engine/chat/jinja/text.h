// Strings of a template: bytes, and which of them came from the messages.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace quantplug::engine::jinja {

/// Bytes begin .. end-1.
struct Mark {
    size_t begin = 0, end = 0;
};

/// UTF-8. Marks are ascending and do not touch one another.
class Text {
 public:
    Text() = default;
    explicit Text(std::string bytes, bool marked = false);

    const std::string& bytes() const { return bytes_; }
    const std::vector<Mark>& marks() const { return marks_; }
    bool marked() const { return !marks_.empty(); }
    size_t size() const { return bytes_.size(); }
    bool empty() const { return bytes_.empty(); }
    /// Python's Markup (`|safe`, `|escape`): a plain string that is added to it is escaped as HTML.
    bool safe() const { return safe_; }
    Text as_safe(bool safe) const;

    void append(const Text& other);
    void append(std::string_view plain) { bytes_.append(plain); }
    Text slice(size_t begin, size_t end) const;
    /// Other bytes in the place of these (another case, escapes): marked as a whole where any of these are.
    Text with_bytes(std::string bytes) const { return Text(std::move(bytes), marked()).as_safe(safe_); }

 private:
    void mark(size_t begin, size_t end);

    std::string bytes_;
    std::vector<Mark> marks_;
    bool safe_ = false;
};

}  // namespace quantplug::engine::jinja
