// common.hpp - what host.hpp and backend.hpp share: the exception, sized structs, text that is cut at a character's
// edge. C++11.
#ifndef QUANTPLUG_COMMON_HPP
#define QUANTPLUG_COMMON_HPP

#include <quantplug/error.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace quantplug {

/// A status other than QP_OK, and its sentence.
class Error : public std::runtime_error {
 public:
    Error(int32_t code, const std::string& message) : std::runtime_error(message), code_(code) {}
    int32_t code() const noexcept { return code_; }

 private:
    int32_t code_;
};

/// "INVALID_ARGUMENT" for QP_INVALID_ARGUMENT; "code out of range" for a number that is no status.
inline const char* code_name(int32_t code) noexcept {
    static constexpr const char* names[] = {
        "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
        "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
        "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
        "DATA_LOSS"};
    return code >= QP_OK && code <= QP_DATA_LOSS ? names[code] : "code out of range";
}

/// A zeroed struct of the ABI with its struct_size.
template <class T>
T make() noexcept {
    static_assert(std::is_standard_layout<T>::value, "a struct of the ABI");
    T out;
    std::memset(&out, 0, sizeof out);
    out.struct_size = static_cast<uint32_t>(sizeof out);
    return out;
}

/// A copy of a struct of any size: fields beyond its struct_size are zero, fields that this header does not know are
/// dropped.
template <class T>
T copy_sized(const T* in) noexcept {
    T out = make<T>();
    std::memcpy(&out, in, in->struct_size < sizeof out ? in->struct_size : sizeof out);
    out.struct_size = static_cast<uint32_t>(sizeof out);
    return out;
}

/// Writes `in` into a struct of the caller's: as far as its struct_size goes, and the struct_size stays.
template <class T>
void fill_sized(T* out, const T& in) noexcept {
    const uint32_t size = out->struct_size;
    std::memcpy(out, &in, size < sizeof in ? size : sizeof in);
    out->struct_size = size;
}

/// Bytes of the UTF-8 character at `text`, 0 where there is no valid one (overlong forms and surrogates are none).
inline size_t utf8_length(const char* text, size_t size) noexcept {
    const unsigned char* c = reinterpret_cast<const unsigned char*>(text);
    if (size == 0) return 0;
    if (c[0] < 0x80) return 1;
    const size_t n = c[0] < 0xc2 ? 0 : c[0] < 0xe0 ? 2 : c[0] < 0xf0 ? 3 : c[0] < 0xf5 ? 4 : 0;
    if (n == 0 || n > size) return 0;
    const unsigned char low = c[0] == 0xe0 ? 0xa0 : c[0] == 0xf0 ? 0x90 : 0x80;
    const unsigned char high = c[0] == 0xed ? 0x9f : c[0] == 0xf4 ? 0x8f : 0xbf;
    if (c[1] < low || c[1] > high) return 0;
    for (size_t i = 2; i < n; ++i)
        if (c[i] < 0x80 || c[i] > 0xbf) return 0;
    return n;
}

/// Copies text into `capacity` bytes with a NUL: cut at a character's edge, a byte that is not UTF-8 becomes '?'.
inline void copy_text(char* out, size_t capacity, const char* text, size_t size) noexcept {
    if (capacity == 0) return;
    size_t at = 0;
    for (size_t i = 0; i < size;) {
        const size_t n = utf8_length(text + i, size - i);
        const size_t width = n ? n : 1;
        if (at + width >= capacity) break;
        if (n)
            std::memcpy(out + at, text + i, n);
        else
            out[at] = '?';
        at += width;
        i += width;
    }
    out[at] = '\0';
}

/// The same for a field of fixed size: copy_text(info.format, "exl2").
template <size_t N>
void copy_text(char (&out)[N], const std::string& text) noexcept {
    copy_text(out, N, text.data(), text.size());
}

/// Writes a failure into the caller's qp_error, which may be null or shorter than this header's.
inline void set_error(qp_error* error, int32_t code, const char* text, size_t size) noexcept {
    if (!error || !QP_HAS(error, code)) return;
    error->code = code;
    const size_t header = static_cast<size_t>(error->message - reinterpret_cast<char*>(error));
    const size_t known = error->struct_size < sizeof *error ? error->struct_size : sizeof *error;
    copy_text(error->message, known - header, text, size);
}

}  // namespace quantplug

#endif
