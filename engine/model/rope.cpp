#include "engine/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/base/error.h"

namespace quantplug::engine {

namespace {

/// Frequencies of one set of rotated dimensions, in double until the end.
class Frequencies {
 public:
    Frequencies(const RopeConfig& rope, double theta, int32_t rotated)
        : rope_(rope), theta_(theta), rotated_(rotated), f_(size_t(rotated) / 2) {
        for (size_t t = 0; t < f_.size(); ++t) f_[t] = std::pow(theta, -2.0 * double(t) / rotated);
    }

    void linear() {
        const double factor = required(rope_.factor, "factor");
        for (double& f : f_) f /= factor;
    }

    /// Low frequencies are divided by `factor`, high ones kept, with a smooth passage between.
    void llama3() {
        const double factor = required(rope_.factor, "factor");
        const double low = required(rope_.low_freq_factor, "low_freq_factor");
        const double high = required(rope_.high_freq_factor, "high_freq_factor");
        if (!(high > low))
            fail(Code::invalid_argument, "config.json: rope high_freq_factor must be above low_freq_factor");
        const double original = double(rope_.original_max_positions);
        for (double& f : f_) {
            const double wavelength = 2 * std::numbers::pi / f;
            if (wavelength < original / high) continue;
            if (wavelength > original / low) {
                f /= factor;
                continue;
            }
            const double smooth = (original / wavelength - low) / (high - low);
            f = (1 - smooth) * f / factor + smooth * f;
        }
    }

    /// YaRN (Peng et al. 2023, section 3.4): dimensions that turn more than beta_fast times within the original length
    /// are kept, those below beta_slow are interpolated, with a ramp between.
    void yarn() {
        const double factor = required(rope_.factor, "factor");
        const double original = double(rope_.original_max_positions);
        const auto turns_at = [&](double turns) {
            return rotated_ * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(theta_));
        };
        double low = turns_at(rope_.beta_fast.value_or(32)), high = turns_at(rope_.beta_slow.value_or(1));
        if (rope_.truncate.value_or(true)) {
            low = std::floor(low);
            high = std::ceil(high);
        }
        low = std::max(low, 0.0);
        high = std::min(high, double(rotated_ - 1));
        if (low == high) high += 0.001;
        for (size_t t = 0; t < f_.size(); ++t) {
            const double k = std::clamp((double(t) - low) / (high - low), 0.0, 1.0);
            f_[t] = k * f_[t] / factor + (1 - k) * f_[t];
        }
    }

    double yarn_scale() const {
        if (rope_.attention_factor) return *rope_.attention_factor;
        const double factor = required(rope_.factor, "factor");
        const auto grown = [&](double a) { return factor <= 1 ? 1.0 : 0.1 * a * std::log(factor) + 1.0; };
        const double a = rope_.mscale.value_or(0), b = rope_.mscale_all_dim.value_or(0);
        return a != 0 && b != 0 ? grown(a) / grown(b) : grown(1);
    }

    /// Each frequency by its own factor.
    std::vector<float> divided(const std::vector<double>& factors, const char* key) const {
        if (factors.size() != f_.size())
            fail(Code::invalid_argument, "config.json: rope ", key, " has ", factors.size(), " values where ",
                 f_.size(), " frequencies are rotated");
        std::vector<float> out(f_.size());
        for (size_t t = 0; t < f_.size(); ++t) {
            if (!(factors[t] > 0))
                fail(Code::invalid_argument, "config.json: rope ", key, " holds ", factors[t],
                     ", expected positive numbers");
            out[t] = float(f_[t] / factors[t]);
        }
        return out;
    }

    double longrope_scale() const {
        if (rope_.attention_factor) return *rope_.attention_factor;
        const double original = double(rope_.original_max_positions);
        const double factor = rope_.factor.value_or(double(rope_.max_positions) / original);
        return factor <= 1 || original <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(original));
    }

    std::vector<float> values() const { return {f_.begin(), f_.end()}; }

    double required(const std::optional<double>& value, const char* key) const {
        if (!value || !(*value > 0))
            fail(Code::invalid_argument, "config.json: rope type ", rope_.type, " needs a positive ", key);
        return *value;
    }

 private:
    const RopeConfig& rope_;
    double theta_;
    int32_t rotated_;
    std::vector<double> f_;
};

}  // namespace

kernels::RopeSpec rope_spec(const RopeConfig& rope, int32_t head_dim) {
    double theta = rope.theta.value_or(10000.0);
    if (!(theta > 0) || !std::isfinite(theta))
        fail(Code::invalid_argument, "config.json: rope_theta is ", theta, "; it must be positive");
    const double partial = rope.partial_rotary_factor.value_or(1.0);
    if (!(partial > 0 && partial <= 1))
        fail(Code::invalid_argument, "config.json: partial_rotary_factor is ", partial, "; it must lie in 0..1");
    const int32_t rotated = int32_t(head_dim * partial);
    if (rotated < 2 || rotated % 2 != 0)
        fail(Code::invalid_argument, "config.json: ", rotated, " of head_dim ", head_dim,
             " values are rotated; it must be an even number");
    const bool by_alpha = rope.type == "dynamic" && rope.alpha && *rope.alpha > 0;
    if (rope.type == "dynamic" && rotated == 2)
        fail(Code::unimplemented, "config.json: rope type dynamic over 2 rotated values is not supported");
    if (by_alpha) theta *= std::pow(*rope.alpha, double(rotated) / (rotated - 2));

    Frequencies frequencies(rope, theta, rotated);
    kernels::RopeSpec spec;
    if (rope.type == "longrope") {
        spec.inv_freq = frequencies.divided(rope.short_factor, "short_factor");
        spec.long_inv_freq = frequencies.divided(rope.long_factor, "long_factor");
        spec.length_limit = int32_t(std::min<int64_t>(rope.original_max_positions, INT32_MAX));
        spec.scale = float(frequencies.longrope_scale());
        return spec;
    }
    if (rope.type == "default" || rope.type == "mrope" || by_alpha) {
    } else if (rope.type == "linear") {
        frequencies.linear();
    } else if (rope.type == "dynamic") {
        spec.length_limit = int32_t(std::min<int64_t>(rope.max_positions, INT32_MAX));
        spec.theta = theta;
        spec.factor = frequencies.required(rope.factor, "factor");
    } else if (rope.type == "llama3") {
        frequencies.llama3();
    } else if (rope.type == "yarn") {
        frequencies.yarn();
        spec.scale = float(frequencies.yarn_scale());
    } else {
        fail(Code::unimplemented, "config.json: rope type ", rope.type,
             " is not supported; default, linear, dynamic, llama3, yarn, longrope and mrope are");
    }
    if (!std::isfinite(spec.scale) || !(spec.scale > 0))
        fail(Code::invalid_argument, "config.json: the rope's attention_factor is ", spec.scale,
             ", expected a positive number");
    spec.inv_freq = frequencies.values();
    return spec;
}

}  // namespace quantplug::engine
