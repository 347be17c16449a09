#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "kernels/threads/pool.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace {

struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
};

// The file's text, at most 64 KB; empty where it cannot be read.
std::string read_text(const std::string& path) {
    const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "re"));
    std::string text;
    if (!file) return text;
    char buffer[4096];
    while (text.size() < 65536) {
        const size_t got = std::fread(buffer, 1, sizeof buffer, file.get());
        if (got == 0) break;
        text.append(buffer, got);
    }
    return text;
}

// Whole processors of a quota, 0 where there is none. Rounded down: a thread more than the quota is throttled with all
// the others.
int32_t processors(long long quota, long long period) {
    if (quota <= 0 || period <= 0) return 0;
    return int32_t(std::clamp<long long>(quota / period, 1, 1 << 20));
}

int32_t quota_v2(const std::string& folder) {
    const std::string text = read_text(folder + "/cpu.max");  // "max 100000" or "150000 100000"
    long long quota = 0, period = 0;
    return std::sscanf(text.c_str(), "%lld %lld", &quota, &period) == 2 ? processors(quota, period) : 0;
}

int32_t quota_v1(const std::string& folder) {
    const std::string quota = read_text(folder + "/cpu.cfs_quota_us"),
                      period = read_text(folder + "/cpu.cfs_period_us");
    return quota.empty() || period.empty() ? 0 : processors(std::atoll(quota.c_str()), std::atoll(period.c_str()));
}

int32_t smaller(int32_t a, int32_t b) { return a == 0 ? b : b == 0 ? a : std::min(a, b); }

// The smallest quota from the process's group up to the root: a parent's limit binds its children.
template <class Quota>
int32_t smallest_quota(const std::string& root, std::string group, Quota quota) {
    int32_t least = quota(root);
    while (group.size() > 1) {
        least = smaller(least, quota(root + group));
        group.resize(group.rfind('/'));
    }
    return least;
}

}  // namespace

int32_t physical_cores(const char* sys) {
    std::set<std::pair<long, long>> cores;
    int missing = 0;  // in a row: offline processors leave gaps in the numbers
    for (int cpu = 0; missing < 64; ++cpu) {
        const std::string folder = std::string(sys) + "/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
        const std::string core = read_text(folder + "core_id");
        if (core.empty()) {
            ++missing;
            continue;
        }
        missing = 0;
        cores.emplace(std::atol(read_text(folder + "physical_package_id").c_str()), std::atol(core.c_str()));
    }
    return int32_t(cores.size());
}

int32_t cgroup_quota(const char* sys, const char* proc) {
    const std::string root = std::string(sys) + "/fs/cgroup";
    const std::string groups = read_text(std::string(proc) + "/self/cgroup");
    int32_t least = 0;
    for (size_t begin = 0; begin < groups.size();) {  // lines "id:controllers:/path"
        const size_t end = std::min(groups.find('\n', begin), groups.size());
        const std::string line = groups.substr(begin, end - begin);
        begin = end + 1;
        const size_t first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos || line.compare(second + 1, 1, "/") != 0) continue;
        std::string controllers(",");
        controllers.append(line, first + 1, second - first - 1).append(",");
        const std::string group = line.substr(second + 1);
        if (controllers == ",,") {
            least = smaller(least, smallest_quota(root, group, quota_v2));
        } else if (controllers.find(",cpu,") != std::string::npos) {
            least = smaller(least, smallest_quota(root + "/cpu", group, quota_v1));
        }
    }
    return least;
}

int32_t default_threads() {
    int32_t threads = physical_cores("/sys");
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        threads = smaller(threads, CPU_COUNT(&set));
    } else {
        threads = smaller(threads, int32_t(std::max(0L, sysconf(_SC_NPROCESSORS_ONLN))));
    }
    return std::max(1, smaller(threads, cgroup_quota("/sys", "/proc")));
}

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
