#include "engine/model/memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <string>

namespace quantplug::engine {

namespace {

std::optional<uint64_t> number(const std::string& text) {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end == text.data()) return std::nullopt;  // "max"
    return value;
}

std::optional<uint64_t> number_in(const std::string& path) {
    std::ifstream in(path);
    std::string word;
    if (!(in >> word)) return std::nullopt;
    return number(word);
}

/// Value of `key` in a file of "key value" lines, times `unit`.
std::optional<uint64_t> field(const std::string& path, const std::string& key, uint64_t unit) {
    std::ifstream in(path);
    std::string name;
    while (in >> name) {
        std::string value;
        if (!(in >> value)) return std::nullopt;
        if (name == key) {
            const auto n = number(value);
            return n ? std::optional<uint64_t>(*n * unit) : std::nullopt;
        }
        in.ignore(1 << 20, '\n');
    }
    return std::nullopt;
}

/// Every group on the path can carry a limit of its own; page cache that can be dropped does not count as used.
void cgroup_limits(const std::string& mount, std::string group, bool v2, uint64_t& least) {
    while (true) {
        const std::string dir = mount + group;
        const auto limit = number_in(dir + (v2 ? "/memory.max" : "/memory.limit_in_bytes"));
        const auto used = number_in(dir + (v2 ? "/memory.current" : "/memory.usage_in_bytes"));
        if (limit && used && *limit < (uint64_t(1) << 60)) {
            const uint64_t cache =
                field(dir + "/memory.stat", v2 ? "inactive_file" : "total_inactive_file", 1).value_or(0);
            const uint64_t busy = *used - std::min(*used, cache);
            least = std::min(least, *limit - std::min(*limit, busy));
        }
        if (group.empty() || group == "/") return;
        group.erase(group.rfind('/'));
    }
}

}  // namespace

uint64_t available_memory() {
    uint64_t least = UINT64_MAX;
    if (const auto available = field("/proc/meminfo", "MemAvailable:", 1024)) least = std::min(least, *available);

    std::ifstream groups("/proc/self/cgroup");  // "0::/path" (v2), "N:memory:/path" (v1)
    std::string line;
    while (std::getline(groups, line)) {
        if (line.rfind("0::", 0) == 0)
            cgroup_limits("/sys/fs/cgroup", line.substr(3), true, least);
        else if (const size_t at = line.find(":memory:"); at != std::string::npos)
            cgroup_limits("/sys/fs/cgroup/memory", line.substr(at + 8), false, least);
    }

    rlimit address{};
    if (getrlimit(RLIMIT_AS, &address) == 0 && address.rlim_cur != RLIM_INFINITY) {
        const uint64_t used = number_in("/proc/self/statm").value_or(0) * uint64_t(sysconf(_SC_PAGESIZE));
        least = std::min(least, uint64_t(address.rlim_cur) - std::min(uint64_t(address.rlim_cur), used));
    }
    return least == UINT64_MAX ? 0 : least;
}

uint64_t resident_memory() { return field("/proc/self/status", "VmRSS:", 1024).value_or(0); }

}  // namespace quantplug::engine
