// What all parts of a running template share: the limits on its work, and the line that it is at.
#pragma once

#include <cstdint>
#include <ctime>
#include <string>

#include "engine/base/error.h"

namespace quantplug::engine::jinja {

struct Limits {
    uint64_t steps = 30'000'000;               // nodes evaluated, elements and 64-byte pieces touched: about 2 s
    uint64_t bytes = uint64_t{256} << 20;      // of values alive at a time
    uint64_t text_bytes = uint64_t{64} << 20;  // of one string, and of the prompt
    int depth = 600;                           // nested evaluations; 1 KiB of stack each, three times that under ASan
};

inline constexpr int max_value_depth = 100;  // lists in lists: what prints and compares them is recursive

class Context {
 public:
    Context(std::string name, const Limits& most, std::time_t time) : limits(most), now(time), name_(std::move(name)) {}

    const Limits limits;
    const std::time_t now;
    int line = 1;

    void step(uint64_t n = 1) {
        steps_ += n;
        if (steps_ > limits.steps) exhausted("takes too many steps");
    }
    /// Work on `bytes` bytes of text.
    void touch(size_t bytes) { step(1 + bytes / 64); }
    void grow(uint64_t bytes) {
        alive_ += bytes;
        if (alive_ > limits.bytes) exhausted("needs too much memory");
    }
    void shrink(uint64_t bytes) { alive_ -= bytes; }
    void check_text(uint64_t bytes) {
        if (bytes > limits.text_bytes) exhausted("makes too long a text");
    }

    template <typename... Parts>
    [[noreturn]] void fail(const Parts&... parts) const {
        engine::fail(Code::invalid_argument, name_, ", line ", line, ": ", parts...);
    }
    [[noreturn]] void exhausted(const char* what) const {
        engine::fail(Code::resource_exhausted, name_, ", line ", line, ": the template ", what,
                     ", its work may have no end");
    }
    const std::string& name() const { return name_; }

 private:
    std::string name_;
    uint64_t steps_ = 0, alive_ = 0;
};

/// One level deeper for as long as it lives.
class Deeper {
 public:
    Deeper(Context& context, int& depth) : depth_(depth) {
        if (++depth_ > context.limits.depth) {
            --depth_;
            context.exhausted("is nested too deeply");
        }
    }
    ~Deeper() { --depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

 private:
    int& depth_;
};

}  // namespace quantplug::engine::jinja
