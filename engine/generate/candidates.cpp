#include "engine/generate/candidates.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/generate/logprob.h"

namespace quantplug::engine {

namespace {

constexpr float lowest = std::numeric_limits<float>::lowest();

}  // namespace

float Candidates::weight_of(float distance) { return exp_one(distance); }

float Candidates::assign(std::span<const float> logits) {
    items_.resize(logits.size());
    float most = -INFINITY;
    for (size_t i = 0; i < logits.size(); ++i) {
        const float l = logits[i] == logits[i] ? logits[i] : -INFINITY;
        most = l > most ? l : most;
        items_[i] = {l, int32_t(i)};
    }
    first_ = 0;
    end_ = items_.size();
    in_id_order_ = true;
    forget_ranks();
    top_ = most;
    has_top_ = true;
    return most;
}

void Candidates::assign(std::span<const Candidate> ranked) {
    items_.assign(ranked.begin(), ranked.end());
    first_ = 0;
    end_ = items_.size();
    in_id_order_ = false;
    forget_ranks();
    sorted_ = split_ = end_;
}

void Candidates::settle() {
    size_t n = 0;
    for (const Candidate& c : all())
        if (c.logit > -INFINITY && ++n > few) return;
    while (extend()) {
    }
}

void Candidates::forget_ranks() {
    sorted_ = split_ = first_;
    width_ = 0;
    has_top_ = has_mass_ = has_mean_ = false;
}

void Candidates::changed(bool keeps_order) {
    size_t sorted = sorted_;
    forget_ranks();
    if (!keeps_order || sorted == first_) return;
    // Rounding made equal what was not: equals are ranked anew, those of the last rank with what comes after it.
    if (const float last = items_[sorted - 1].logit; sorted < end_)
        while (sorted > first_ && items_[sorted - 1].logit == last) --sorted;
    const auto begin = items_.begin() + ptrdiff_t(first_), end = items_.begin() + ptrdiff_t(sorted);
    if (!std::is_sorted(begin, end, ranks_before)) std::sort(begin, end, ranks_before);
    sorted_ = split_ = sorted;
}

float Candidates::top() {
    if (has_top_) return top_;
    if (sorted_ > first_) {
        top_ = items_[first_].logit;
    } else {
        top_ = -INFINITY;
        for (const Candidate& c : all()) top_ = c.logit > top_ ? c.logit : top_;
    }
    has_top_ = true;
    return top_;
}

size_t Candidates::count() {
    size_t n = 0;
    for (const Candidate& c : all()) n += c.logit > -INFINITY;
    return n;
}

void Candidates::sums(bool with_mean) {
    settle();
    const float most = top();
    double total = 0, weighted = 0;
    float x[exp_block_size], w[exp_block_size];
    const std::span<const Candidate> items = all();
    for (size_t i = 0; i < items.size(); i += exp_block_size) {
        const size_t n = std::min(exp_block_size, items.size() - i);
        if (n == exp_block_size)
            for (size_t j = 0; j < exp_block_size; ++j) x[j] = items[i + j].logit - most;
        else
            for (size_t j = 0; j < exp_block_size; ++j) x[j] = j < n ? items[i + j].logit - most : -INFINITY;
        exp_block(x, w);
        total += sum_block(w);
        if (!with_mean) continue;
        // -infinity times a weight of zero is no number.
        for (size_t j = 0; j < exp_block_size; ++j) x[j] = w[j] > 0 ? x[j] * w[j] : 0;
        weighted += sum_block(x);
    }
    mass_ = total;
    has_mass_ = true;
    if (!with_mean) return;
    mean_ = weighted / total;
    has_mean_ = true;
}

double Candidates::mass() {
    if (!has_mass_) sums(false);
    return mass_;
}

double Candidates::mean_logit() {
    if (!has_mean_) sums(true);
    return mean_;
}

/// Moves the next band of the rest before split_; false if there is no rest.
bool Candidates::split_band() {
    const size_t split = split_;
    while (split_ == split) {
        if (split_ == end_) return false;
        // e^-5 of the most probable one, then e^-10, ...: a few passes find what has any mass.
        width_ = width_ == 0 ? 5 : 2 * width_;
        const bool rest = width_ > 100;
        const float least = rest ? lowest : std::max(lowest, top() - width_);
        in_id_order_ = false;
        for (size_t i = split_; i < end_; ++i)
            if (items_[i].logit >= least) std::swap(items_[i], items_[split_++]);
        if (rest) end_ = split_;  // what is left is -infinity
    }
    return true;
}

bool Candidates::extend() {
    if (sorted_ == split_ && !split_band()) return false;
    const auto begin = items_.begin() + ptrdiff_t(sorted_);
    const auto end = items_.begin() + ptrdiff_t(split_);
    const ptrdiff_t some = std::max<ptrdiff_t>(256, ptrdiff_t(sorted_ - first_));
    auto sorted_end = end;
    if (end - begin > 2 * some) {
        sorted_end = begin + some;
        std::nth_element(begin, sorted_end, end, ranks_before);
    }
    std::sort(begin, sorted_end, ranks_before);
    sorted_ = size_t(sorted_end - items_.begin());
    return true;
}

bool Candidates::has(size_t rank) {
    while (first_ + rank >= sorted_)
        if (!extend()) return false;
    return true;
}

void Candidates::keep_best() {
    const std::span<Candidate> items = all();
    std::iter_swap(items.begin(), std::min_element(items.begin(), items.end(), ranks_before));
    end_ = sorted_ = split_ = first_ + 1;
    in_id_order_ = false;
    has_mass_ = has_mean_ = false;
}

void Candidates::keep(size_t n) {
    if (!has(n)) return;  // there are not more
    end_ = sorted_ = split_ = first_ + n;
    has_mass_ = has_mean_ = false;
}

double Candidates::mass_of(size_t begin, size_t end) {
    double sum = 0;
    for (size_t i = begin; i < end; ++i) sum += double(weight(items_[i]));
    return sum;
}

/// Behind the fewest first ones with at least this mass, at least one. What lies before is not sorted, but the last of
/// it has the lowest rank; behind all where rounding leaves their mass short of it.
size_t Candidates::reach(double need) {
    double sum = 0;
    size_t at = first_;
    while (at < sorted_) {
        sum += double(weight(items_[at++]));
        if (sum >= need) return at;
    }
    // Whole bands, unsorted; in the one where the mass is reached, halves.
    size_t end = split_;
    while (true) {
        if (at == end) {
            if (!split_band()) {
                while (extend()) {
                }
                return end_;
            }
            end = split_;
        }
        const double band = mass_of(at, end);
        if (sum + band >= need) break;
        sum += band;
        at = end;
    }
    while (end - at > 32) {
        const size_t middle = at + (end - at) / 2;
        std::nth_element(items_.begin() + ptrdiff_t(at), items_.begin() + ptrdiff_t(middle),
                         items_.begin() + ptrdiff_t(end), ranks_before);
        const double half = mass_of(at, middle);
        if (sum + half >= need) {
            end = middle;
        } else {
            sum += half;
            at = middle;
        }
    }
    std::sort(items_.begin() + ptrdiff_t(at), items_.begin() + ptrdiff_t(end), ranks_before);
    while (at < end) {
        sum += double(weight(items_[at++]));
        if (sum >= need) break;
    }
    return at;
}

void Candidates::keep_mass(double share) {
    settle();
    const size_t at = reach(share * mass());
    end_ = split_ = at;
    sorted_ = std::min(sorted_, at);
    has_mass_ = has_mean_ = false;
}

void Candidates::keep_from(float least) {
    if (sorted_ > first_ && items_[sorted_ - 1].logit < least) {
        size_t n = sorted_ - first_;
        while (n > 1 && items_[first_ + n - 1].logit < least) --n;
        end_ = sorted_ = split_ = first_ + n;
    } else {
        in_id_order_ = false;
        split_ = sorted_;
        for (size_t i = sorted_; i < end_; ++i)
            if (items_[i].logit >= least) std::swap(items_[i], items_[split_++]);
        end_ = split_;
    }
    has_mass_ = has_mean_ = false;
}

void Candidates::drop_first(size_t n) {
    first_ += n;
    in_id_order_ = false;
    has_top_ = has_mass_ = has_mean_ = false;
    width_ = 0;
    split_ = sorted_;
}

void Candidates::keep_typical(double mass_share) {
    settle();
    // Surprise minus entropy is mean_logit - logit: the ranks are those of the logits' distances from their mean.
    const double mean = mean_logit(), need = mass_share * mass();
    const float most = top();
    if (!nearest_) nearest_ = std::make_unique<Candidates>();
    Candidates& nearest = *nearest_;
    nearest.items_.clear();
    for (size_t i = first_; i < end_; ++i)
        if (items_[i].logit > -INFINITY)
            nearest.items_.push_back({float(-std::abs(double(items_[i].logit - most) - mean)), int32_t(i)});
    nearest.first_ = 0;
    nearest.end_ = nearest.items_.size();
    nearest.forget_ranks();
    kept_.clear();
    double sum = 0;
    for (size_t rank = 0; nearest.has(rank); ++rank) {
        kept_.push_back(items_[size_t(nearest[rank].id)]);
        sum += double(weight_of(kept_.back().logit - most));
        if (sum >= need) break;
    }
    items_.swap(kept_);
    first_ = 0;
    end_ = items_.size();
    in_id_order_ = false;
    forget_ranks();
}

const Candidate& Candidates::draw(double u, double* probability) {
    settle();
    size_t at = reach(u * mass());
    while (!(weight(items_[at - 1]) > 0)) --at;  // rounding may lead behind the last one
    *probability = double(weight(items_[at - 1])) / mass();
    return items_[at - 1];
}

}  // namespace quantplug::engine
