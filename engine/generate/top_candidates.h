// The best candidates of a row of which the rest is known by its sum alone.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "engine/generate/candidates.h"

namespace quantplug::engine {

/// What a truncation or a draw would make of the whole row, as far as that can be told. Sums are intervals that hold
/// what Candidates computes of the row, with all its rounding; a set is its certain first ranks, possible further ones
/// and possibly some of the rest. Steps are applied while it is uncertain; a certain set goes on as Candidates.
class TopCandidates {
 public:
    /// `ranked`: the first ones by rank, finite. `n_rest`: at most so many come after them. `log_sum`: ln sum exp of
    /// all.
    void assign(std::vector<Candidate>& ranked, size_t n_rest, double log_sum);

    /// Exactly items() can be drawn.
    bool certain() const { return known_ && !has_rest_ && certain_end_ == end_; }
    std::span<const Candidate> items() const { return {items_.data() + first_, end_ - first_}; }

    float top() const { return items_[first_].logit; }
    struct Mass {
        double low, high;  // of the sum of exp(logit - top)
    };
    Mass mass() const;

    void scale(float factor);  // all logits
    void keep(size_t n);       // the first n
    void keep_mass(double share);
    void keep_from(float low, float high);  // at least a logit that lies between
    void drop_first(size_t n) { first_ += n; }

    /// How many of the first ones have at least this share of the mass; -1: cannot be told.
    int count_above(double share) const;
    /// What u draws by falling logit; null: cannot be told.
    const Candidate* draw(double u) const;

 private:
    double weight(size_t i) const;  // exp(logit - top)
    double rest_scale() const;      // of the sum of the rest, which is relative to the first item
    void give_up_last_rank();

    std::vector<Candidate> items_;
    size_t first_ = 0, certain_end_ = 0, end_ = 0;
    bool known_ = false;
    bool has_rest_ = false;  // only where all items are possible
    double n_rest_ = 0, rest_low_ = 0, rest_high_ = 0;
};

}  // namespace quantplug::engine
