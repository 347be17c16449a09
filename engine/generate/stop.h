// Text of a generation as far as it is certain: what may still become a stop string is held back.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quantplug::engine {

class StopFilter {
 public:
    explicit StopFilter(std::vector<std::string> stops);

    /// Takes new text; returns what may be shown. After a stop string (see stopped) nothing more comes.
    std::string push(std::string_view text);

    /// What was held back, at an end that is no stop string.
    std::string finish();

    bool stopped() const { return stopped_; }

 private:
    std::vector<std::string> stops_;
    std::string held_;  // at most the longest stop string
    bool stopped_ = false;
};

}  // namespace quantplug::engine
