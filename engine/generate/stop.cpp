#include "engine/generate/stop.h"

#include <algorithm>

#include "engine/base/error.h"

namespace quantplug::engine {

StopFilter::StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {
    for (const std::string& stop : stops_)
        if (stop.empty()) fail(Code::invalid_argument, "a stop string is empty; leave it out");
}

std::string StopFilter::push(std::string_view text) {
    if (stopped_) return {};
    held_ += text;

    // The earliest stop string ends the text.
    size_t first = std::string::npos;
    for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
    if (first != std::string::npos) {
        stopped_ = true;
        std::string out = held_.substr(0, first);
        held_.clear();
        return out;
    }

    // Hold back the longest tail that begins a stop string.
    size_t keep = 0;
    for (const std::string& stop : stops_)
        for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n)
            if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) keep = n;
    // A character is shown whole: the cut moves left over its continuation bytes.
    size_t cut = held_.size() - keep;
    while (cut > 0 && cut < held_.size() && (static_cast<unsigned char>(held_[cut]) & 0xc0) == 0x80) --cut;
    std::string out = held_.substr(0, cut);
    held_.erase(0, cut);
    return out;
}

std::string StopFilter::finish() {
    std::string out;
    if (!stopped_) out.swap(held_);
    return out;
}

}  // namespace quantplug::engine
