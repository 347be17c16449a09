#include "engine/model/divide.h"

#include <algorithm>
#include <limits>

namespace quantplug::engine {

double divide_layers(std::span<const DeviceLoad> devices, size_t first, size_t n, std::span<int32_t> out) {
    constexpr double never = std::numeric_limits<double>::infinity();
    const size_t n_devices = devices.size();
    // best[d][i]: the fullest of devices 0 .. d that share the first i layers; from[d][i]: where d begins.
    std::vector<std::vector<double>> best(n_devices, std::vector<double>(n + 1, never));
    std::vector<std::vector<size_t>> from(n_devices, std::vector<size_t>(n + 1, 0));
    for (size_t d = 0; d < n_devices; ++d) {
        const double room = double(std::max<uint64_t>(1, devices[d].room));
        std::vector<double> sums(n + 1, 0);
        for (size_t i = 0; i < n; ++i) sums[i + 1] = sums[i] + double(devices[d].layers[first + i]);
        for (size_t end = d + 1; end + (n_devices - 1 - d) <= n; ++end) {
            for (size_t begin = d; begin < end; ++begin) {
                const double before = d > 0 ? best[d - 1][begin] : begin == 0 ? 0 : never;
                const double own = (double(devices[d].fixed) + sums[end] - sums[begin]) / room;
                const double fullest = std::max(before, own);
                if (fullest < best[d][end]) {
                    best[d][end] = fullest;
                    from[d][end] = begin;
                }
            }
        }
    }
    size_t end = n;
    for (size_t d = n_devices; d-- > 0;) {
        for (size_t i = from[d][end]; i < end; ++i) out[i] = int32_t(d);
        end = from[d][end];
    }
    return best[n_devices - 1][n];
}

}  // namespace quantplug::engine
