// The tokens that can still be drawn, sorted only as far as somebody looks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace quantplug::engine {

struct Candidate {
    float logit = 0;
    int32_t id = 0;
};

/// The order of ranks.
inline bool ranks_before(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

/// Ranks by falling logit, ties to the lower id. A candidate has a finite logit; -infinity is none. Sampling needs the
/// few first of 100,000 and more, so that ranks are found band by band: a pass over the rest splits off the next band
/// of logits, which alone is sorted. Sums of up to `few` candidates go by rank: the same bits whether they were cut
/// from a whole row or given as a list. Memory is kept from one assign to the next.
class Candidates {
 public:
    static constexpr size_t few = 256;

    /// The index of each value becomes its id. NaN counts as -infinity. Returns the largest value, which may be
    /// infinite: then nothing else here may be used.
    float assign(std::span<const float> logits);
    /// In their ranks, all finite, at least one.
    void assign(std::span<const Candidate> ranked);
    /// What is summed in the order of all() is summed by rank where there are few.
    void settle();

    // ---- changes of the logits. `all` is in no order, but as long as in_id_order() id i is at i.
    bool in_id_order() const { return in_id_order_; }
    std::span<Candidate> all() { return {items_.data() + first_, end_ - first_}; }
    /// After logits changed: by a function that keeps their order, or by anything.
    void changed(bool keeps_order);

    float top();          // the largest logit; -infinity if there is no candidate
    size_t count();       // candidates
    double mass();        // sum of exp(logit - top)
    double mean_logit();  // of logit - top under the distribution
    float weight(const Candidate& c) { return weight_of(c.logit - top()); }

    // ---- ranks
    bool has(size_t rank);  // finds ranks up to this one; false if there are fewer candidates
    const Candidate& operator[](size_t rank) const { return items_[first_ + rank]; }  // after has(rank)

    // ---- truncations. At least one candidate must be left.
    void keep_best();
    void keep(size_t n);                   // the first n
    void keep_mass(double share);          // the fewest most probable ones with at least this share of the mass
    void keep_from(float least);           // those with at least this logit
    void drop_first(size_t n);             // after has(n)
    void keep_typical(double mass_share);  // those nearest to mean_logit() with at least this share of the mass

    /// Draws with u in 0..1 by falling logit, and gives the probability of what was drawn.
    const Candidate& draw(double u, double* probability);

 private:
    static float weight_of(float distance);
    void forget_ranks();
    void sums(bool with_mean);
    double mass_of(size_t begin, size_t end);
    size_t reach(double need);
    bool split_band();
    bool extend();

    std::vector<Candidate> items_;
    size_t first_ = 0, end_ = 0;
    size_t sorted_ = 0;  // [first_, sorted_) has its ranks
    size_t split_ = 0;   // [sorted_, split_) comes before all of [split_, end_)
    float width_ = 0;    // distance from the top that split_ is at; 0: no band was split off yet
    bool in_id_order_ = false;
    bool has_top_ = false, has_mass_ = false, has_mean_ = false;
    float top_ = 0;
    double mass_ = 0, mean_ = 0;
    std::unique_ptr<Candidates> nearest_;  // keep_typical's ranks, by distance
    std::vector<Candidate> kept_;
};

}  // namespace quantplug::engine
