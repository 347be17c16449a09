#include "host_stub/cli/facts.h"

#include <sys/resource.h>

#include <charconv>
#include <fstream>

namespace quantplug::host {

uint64_t peak_rss_bytes() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind("VmHWM:", 0) != 0) continue;
        const size_t digits = line.find_first_of("0123456789");
        uint64_t kilobytes = 0;
        if (digits != std::string::npos) std::from_chars(line.data() + digits, line.data() + line.size(), kilobytes);
        return kilobytes * 1024;
    }
    struct rusage usage = {};
    ::getrusage(RUSAGE_SELF, &usage);
    return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace quantplug::host
