#include "host_stub/cli/console.h"

#include <quantplug/host.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "host_stub/cli/failure.h"
#include "host_stub/cli/utf8.h"

namespace quantplug::host {
namespace {

constexpr int kBarWidth = 24;
constexpr std::string_view kClearLine = "\r\x1b[K";

// False where stderr cannot be written: there is nobody left to tell.
bool write_all(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t n = ::write(fd, text.data(), text.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return false;
        text.remove_prefix(static_cast<size_t>(n));
    }
    return true;
}

}  // namespace

void Console::configure(int verbosity, bool progress, bool json) {
    const std::lock_guard lock(mutex_);
    verbosity_ = verbosity;
    json_ = json;
    terminal_ = ::isatty(STDERR_FILENO) == 1;
    bars_ = progress || (terminal_ && verbosity >= 0);
}

void Console::write_text(std::string_view text) {
    const std::lock_guard lock(mutex_);
    if (bar_shown_) write_all(STDERR_FILENO, kClearLine);
    bar_shown_ = false;
    if (write_all(STDOUT_FILENO, text)) return;
    if (errno == EPIPE) throw BrokenPipe();
    throw Error(QP_RESOURCE_EXHAUSTED, std::string("standard output cannot be written: ") + std::strerror(errno));
}

void Console::write_json(const nlohmann::json& document) {
    write_text(document.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

void Console::line(std::string_view text) {
    std::string out;
    if (bar_shown_) out += kClearLine;
    bar_shown_ = false;
    out += printable(text);
    out += '\n';
    write_all(STDERR_FILENO, out);
}

void Console::log(int level, std::string_view text) {
    const std::lock_guard lock(mutex_);
    if (level > verbosity_ + QP_LOG_WARNING) return;
    const char* prefix = level <= QP_LOG_ERROR ? "error: " : level == QP_LOG_WARNING ? "warning: " : "";
    line(prefix + std::string(text));
}

void Console::note(std::string_view text) {
    const std::lock_guard lock(mutex_);
    if (verbosity_ >= 0) line(text);
}

void Console::error(std::string_view sentence) {
    const std::lock_guard lock(mutex_);
    line("error: " + std::string(sentence));
}

void Console::ask(std::string_view text) {
    const std::lock_guard lock(mutex_);
    write_all(STDERR_FILENO, text);
}

void Console::progress(double fraction, std::string_view what) {
    const std::lock_guard lock(mutex_);
    if (!bars_) return;
    const double share = std::isfinite(fraction) ? std::clamp(fraction, 0.0, 1.0) : 0.0;
    const int percent = static_cast<int>(share * 100.0);
    const auto now = std::chrono::steady_clock::now();
    if (!terminal_) {
        // In a log file: a line per five percent.
        if (last_percent_ >= 0 && percent / 5 == last_percent_ / 5) return;
        last_percent_ = percent;
        line(std::to_string(percent) + "% " + std::string(what));
        return;
    }
    if (bar_shown_ && now - last_bar_ < std::chrono::milliseconds(100)) return;
    last_bar_ = now;
    const int filled = static_cast<int>(share * kBarWidth);
    std::string bar(kClearLine);
    bar +=
        '[' + std::string(static_cast<size_t>(filled), '#') + std::string(static_cast<size_t>(kBarWidth - filled), ' ');
    bar += "] " + std::to_string(percent) + "% " + printable(what.substr(0, 48));
    bar_shown_ = write_all(STDERR_FILENO, bar);
}

void Console::end_progress() {
    const std::lock_guard lock(mutex_);
    if (bar_shown_) write_all(STDERR_FILENO, kClearLine);
    bar_shown_ = false;
    last_percent_ = -1;
}

}  // namespace quantplug::host
