#include "engine/model/rope.h"

#include <cmath>
#include <numbers>

#include "engine/base/error.h"

namespace quantplug::engine {

namespace {

double required(const std::optional<double>& value, const char* key, const std::string& type) {
    if (!value || !(*value > 0))
        fail(Code::invalid_argument, "config.json: rope type ", type, " needs a positive ", key);
    return *value;
}

/// Low frequencies are divided by `factor`, high ones kept, with a smooth passage between.
double llama3_frequency(const RopeConfig& rope, double f) {
    const double factor = required(rope.factor, "factor", rope.type);
    const double low = required(rope.low_freq_factor, "low_freq_factor", rope.type);
    const double high = required(rope.high_freq_factor, "high_freq_factor", rope.type);
    if (!(high > low)) fail(Code::invalid_argument, "config.json: rope high_freq_factor must be above low_freq_factor");
    const double original = double(rope.original_max_positions);
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength < original / high) return f;
    if (wavelength > original / low) return f / factor;
    const double smooth = (original / wavelength - low) / (high - low);
    return (1 - smooth) * f / factor + smooth * f;
}

}  // namespace

kernels::RopeSpec rope_spec(const RopeConfig& rope, int32_t head_dim) {
    const double theta = rope.theta.value_or(10000.0);
    if (!(theta > 0) || !std::isfinite(theta))
        fail(Code::invalid_argument, "config.json: rope_theta is ", theta, "; it must be positive");
    const double partial = rope.partial_rotary_factor.value_or(1.0);
    if (!(partial > 0 && partial <= 1))
        fail(Code::invalid_argument, "config.json: partial_rotary_factor is ", partial, "; it must lie in 0..1");
    const int32_t rotated = int32_t(head_dim * partial);
    if (rotated < 2 || rotated % 2 != 0)
        fail(Code::invalid_argument, "config.json: ", rotated, " of head_dim ", head_dim,
             " values are rotated; it must be an even number");

    kernels::RopeSpec spec;
    spec.inv_freq.resize(size_t(rotated) / 2);
    for (size_t t = 0; t < spec.inv_freq.size(); ++t) {
        double f = std::pow(theta, -2.0 * double(t) / rotated);
        if (rope.type == "default") {
        } else if (rope.type == "linear") {
            f /= required(rope.factor, "factor", rope.type);
        } else if (rope.type == "llama3") {
            f = llama3_frequency(rope, f);
        } else {
            fail(Code::unimplemented, "config.json: rope type ", rope.type,
                 " is not supported; default, linear and llama3 are");
        }
        spec.inv_freq[t] = float(f);
    }
    return spec;
}

}  // namespace quantplug::engine
