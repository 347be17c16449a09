#include "engine/generate/top_candidates.h"

#include <algorithm>
#include <cmath>

#include "engine/generate/logprob.h"

namespace quantplug::engine {

namespace {

// A sum of single-precision exponentials in blocks of 64, against another order of the same ones: 5e-7.
constexpr double sum_error = 1e-6;
// Of the device's ln sum exp, beside its own rounding to single precision.
constexpr double log_sum_error = 2e-5;
// Weights below e^-87 count as nothing: all of a vocabulary together.
constexpr double lost = 1e-30;

/// Relative error of weights whose logits lie within 100 of this one: two roundings of each.
double weight_error(float logit) { return 2.4e-7 * (std::abs(double(logit)) + 100) + sum_error; }

}  // namespace

double TopCandidates::weight(size_t i) const { return double(exp_one(items_[i].logit - top())); }

double TopCandidates::rest_scale() const { return std::exp(double(items_[0].logit) - double(top())); }

void TopCandidates::assign(std::vector<Candidate>& ranked, size_t n_rest, double log_sum) {
    items_.swap(ranked);
    first_ = 0;
    certain_end_ = end_ = items_.size();
    known_ = !items_.empty();
    has_rest_ = n_rest > 0;
    n_rest_ = double(n_rest);
    rest_low_ = rest_high_ = 0;
    if (!known_ || !has_rest_) return;
    double sum = 0;
    for (size_t i = 0; i < end_; ++i) sum += weight(i);
    const double all = std::exp(log_sum - double(top())), error = log_sum_error + weight_error(float(log_sum));
    rest_low_ = std::max(0.0, all * (1 - error) - sum - lost);
    // No more than all of them with the last one's weight.
    rest_high_ = std::min(std::max(0.0, all * (1 + error) - sum), n_rest_ * weight(end_ - 1) * (1 + error)) + lost;
}

TopCandidates::Mass TopCandidates::mass() const {
    Mass out{0, 0};
    for (size_t i = first_; i < end_; ++i) {
        out.high += weight(i);
        if (i < certain_end_) out.low = out.high;
    }
    if (has_rest_) {
        out.low += rest_low_ * rest_scale();
        out.high += rest_high_ * rest_scale();
    }
    out.low *= 1 - sum_error;
    out.high *= 1 + sum_error;
    return out;
}

/// With d <= last the distances of the rest to the first logit and x = exp(d): the sum of x^factor lies between that of
/// n equal ones and that of as many as there can be with the last one's weight.
void TopCandidates::scale(float factor) {
    const double f = double(factor), last = double(items_.back().logit) - double(items_[0].logit);
    const double from_last = std::exp((f - 1) * last);
    const auto of_equals = [&](double sum) { return n_rest_ * std::pow(sum / n_rest_, f); };
    for (Candidate& c : items_) c.logit *= factor;
    if (has_rest_) {
        const double low = f >= 1 ? of_equals(rest_low_) : rest_low_ * from_last;
        const double high = f >= 1 ? rest_high_ * from_last : of_equals(rest_high_);
        const double error = weight_error(items_[0].logit);
        rest_low_ = std::max(0.0, low * (1 - error) - lost);
        rest_high_ = high * (1 + error) + lost;
    }
    // Rounding made equal what was not: the set is cut by the ranks of before, and the rest may have such too.
    if (!std::is_sorted(items_.begin(), items_.end(), ranks_before)) {
        known_ = known_ && certain_end_ == end_;
        std::sort(items_.begin(), items_.end(), ranks_before);
    }
    if (has_rest_) give_up_last_rank();
}

void TopCandidates::give_up_last_rank() {
    const float last = items_.back().logit;
    const bool was_certain = certain_end_ == end_;
    double sum = 0;
    size_t n = items_.size();
    while (n > first_ && items_[n - 1].logit == last) sum += weight(--n) / rest_scale();
    if (n == first_) {
        known_ = false;
        return;
    }
    n_rest_ += double(items_.size() - n);
    if (was_certain) rest_low_ += sum * (1 - sum_error);
    rest_high_ += sum * (1 + sum_error);
    items_.resize(n);
    end_ = n;
    certain_end_ = std::min(certain_end_, n);
}

void TopCandidates::keep(size_t n) {
    if (n <= items_.size() - first_) {
        end_ = std::min(end_, first_ + n);
        certain_end_ = std::min(certain_end_, first_ + n);
        has_rest_ = false;
    } else {
        rest_low_ = 0;
    }
}

void TopCandidates::keep_from(float low, float high) {
    size_t possible = first_, certain = first_;
    while (possible < end_ && items_[possible].logit >= low) ++possible;
    while (certain < certain_end_ && items_[certain].logit >= high) ++certain;
    if (possible < items_.size()) has_rest_ = false;
    end_ = possible;
    certain_end_ = certain;
    rest_low_ = 0;
}

void TopCandidates::keep_mass(double share) {
    const Mass all = mass();
    double sum = 0;
    size_t certain = 0, possible = 0;
    for (size_t i = first_; i < end_ && possible == 0; ++i) {
        sum += weight(i);
        if (certain == 0 && sum >= share * all.low) certain = i + 1;
        if (sum >= share * all.high) possible = i + 1;
    }
    if (certain > 0) certain_end_ = std::min(certain_end_, certain);
    rest_low_ = 0;
    if (possible == 0) return;
    end_ = possible;
    has_rest_ = false;
}

int TopCandidates::count_above(double share) const {
    const Mass all = mass();
    int n = 0;
    for (size_t i = first_; i < end_; ++i) {
        if (weight(i) < share * all.low) return n;
        if (weight(i) < share * all.high || i >= certain_end_) return -1;
        ++n;
    }
    return has_rest_ ? -1 : n;
}

const Candidate* TopCandidates::draw(double u) const {
    if (!known_) return nullptr;
    const Mass all = mass();
    double sum = 0;
    for (size_t i = first_; i < certain_end_; ++i) {
        sum += weight(i);
        if (sum < u * all.low) continue;
        return sum >= u * all.high ? &items_[i] : nullptr;
    }
    return nullptr;
}

}  // namespace quantplug::engine
