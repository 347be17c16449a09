// What the program writes: its result to stdout, everything else to stderr.
#pragma once

#include <chrono>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace quantplug::host {

/// Any thread may call any function.
class Console {
 public:
    /// `verbosity`: -1 quiet (errors only), 0 warnings, 1 info, 2 debug. `progress`: draw bars even where stderr is no
    /// terminal.
    void configure(int verbosity, bool progress, bool json);
    bool json() const { return json_; }
    int verbosity() const { return verbosity_; }

    /// To stdout, at once and whole. Throws BrokenPipe where the reader has gone, Error where the disk is full.
    void write_text(std::string_view text);
    /// One JSON document and a line feed, always valid UTF-8: other bytes become U+FFFD, numbers that JSON does not
    /// have become null.
    void write_json(const nlohmann::json& document);

    /// A line on stderr, unless it is more than the verbosity asks for. `level` is a QP_LOG_* of host.h.
    void log(int level, std::string_view text);
    /// Part of a human's view of the result (a timing line): stderr, not with -q.
    void note(std::string_view text);
    void error(std::string_view sentence);
    /// What stands before a person's input: stderr, no line feed.
    void ask(std::string_view text);

    /// Draws a bar (fraction 0..1), at most ten times a second.
    void progress(double fraction, std::string_view what);
    void end_progress();

 private:
    void line(std::string_view text);  // under mutex_

    std::mutex mutex_;
    int verbosity_ = 0;
    bool json_ = false;
    bool bars_ = false;
    bool terminal_ = false;
    bool bar_shown_ = false;
    int last_percent_ = -1;
    std::chrono::steady_clock::time_point last_bar_{};
};

/// A progress bar that goes with its scope.
class ProgressBar {
 public:
    explicit ProgressBar(Console& console) : console_(console) {}
    ~ProgressBar() { console_.end_progress(); }
    ProgressBar(const ProgressBar&) = delete;
    ProgressBar& operator=(const ProgressBar&) = delete;
    void update(double fraction, std::string_view what) { console_.progress(fraction, what); }

 private:
    Console& console_;
};

}  // namespace quantplug::host
