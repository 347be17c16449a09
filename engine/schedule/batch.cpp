// One step of a scheduler: who is admitted, which rows are computed, and what becomes of the results.
#include <algorithm>

#include "engine/schedule/scheduler.h"
#include "engine/schedule/stream.h"

namespace quantplug::engine {

namespace {

constexpr int32_t block_tokens = kv_block_tokens;
constexpr int32_t least_prompt_rows = 8;  // of a step, however many streams decode

size_t blocks_of(int64_t n_tokens) { return size_t((n_tokens + block_tokens - 1) / block_tokens); }

}  // namespace

std::optional<int64_t> Scheduler::key_of(const Stream& s, int32_t first, int32_t last) const {
    const auto key = [&](int32_t position) {
        return model_.rope_key(position, std::max(s.generation.n_prompt(), position + 1));
    };
    // Lengths rise with the position and keys with the length, the path changes once, where the prompt ends: equal at
    // both ends is equal throughout.
    const int64_t at_first = key(first);
    return at_first == key(last) ? std::optional(at_first) : std::nullopt;
}

void Scheduler::extend_from_cache(Stream& s) {
    const std::span<const int32_t> ids = s.generation.ids();
    const int32_t most = int32_t(ids.size()) - 1;  // the last id is computed: its logits are wanted
    if (!s.publishes || s.n_computed != s.n_published * block_tokens || s.blocks.size() != size_t(s.n_published))
        return;
    const int32_t before = s.n_computed;
    while (s.n_computed + block_tokens <= most) {
        const auto key = key_of(s, s.n_computed, s.n_computed + block_tokens - 1);
        if (!key) break;
        s.blocks.reserve(s.blocks.size() + 1);
        const auto found = pool_.acquire(s.node, *key, ids.subspan(size_t(s.n_computed), size_t(block_tokens)));
        if (!found) break;
        s.blocks.push_back(found->block);
        s.node = found->node;
        s.n_computed += block_tokens;
        ++s.n_published;
    }
    const int32_t rest = std::min(most - s.n_computed, block_tokens - 1);
    if (rest > 0) {
        s.blocks.reserve(s.blocks.size() + 1);
        const auto key = key_of(s, s.n_computed, s.n_computed + rest - 1);
        const auto tail = key ? pool_.take_tail(s.node, *key, ids.subspan(size_t(s.n_computed), size_t(rest)))
                              : std::optional<BlockPool::Tail>();
        if (tail) {
            s.blocks.push_back(tail->block);
            s.n_computed += tail->n_tokens;
        }
    }
    s.n_taken += s.n_computed - before;
    counters_.n_cached_tokens += uint64_t(s.n_computed - before);
}

void Scheduler::admit() {
    while (!waiting_.empty() && running_.size() < n_streams_) {
        const StreamPtr s = waiting_.front();
        size_t owed = 0;  // blocks that the others were admitted for and have not taken
        for (const StreamPtr& r : running_) owed += r->n_reserved - std::min(r->n_reserved, r->blocks.size());
        extend_from_cache(*s);
        const int64_t n = int64_t(s->generation.ids().size());
        const int64_t reserve = std::clamp<int64_t>(s->generation.n_left() - 1, 0, reserve_tokens_);
        const BlockPool::Counts counts = pool_.counts();
        const size_t room = size_t(counts.free + counts.cached) + s->blocks.size();
        // The first is admitted with room for its prompt alone: nobody else's end would bring more.
        const bool fits = running_.empty() ? blocks_of(n) <= room : blocks_of(n + reserve) + owed <= room;
        if (!fits) {
            counters_.n_cached_tokens -= uint64_t(s->n_computed);
            release(*s);
            return;
        }
        s->n_reserved = blocks_of(n + reserve);
        running_.push_back(s);
        s->running = true;
        waiting_.pop_front();
        s->generation.start();
    }
}

/// Whether another prompt of this step computes the next block of this one.
bool Scheduler::waits_for_prefix(const Stream& s, const std::vector<StreamPtr>& earlier) const {
    const std::span<const int32_t> ids = s.generation.ids();
    if (!s.publishes || s.n_computed != s.n_published * block_tokens ||
        s.n_computed + block_tokens >= int32_t(ids.size()))
        return false;
    const std::span<const int32_t> next = ids.subspan(size_t(s.n_computed), size_t(block_tokens));
    const auto key = key_of(s, s.n_computed, s.n_computed + block_tokens - 1);
    return std::any_of(earlier.begin(), earlier.end(), [&](const StreamPtr& e) {
        const std::span<const int32_t> theirs = e->generation.ids();
        return e->publishes && e->node == s.node && e->n_published == s.n_published &&
               theirs.size() >= size_t(s.n_computed + block_tokens) && key &&
               key_of(*e, s.n_computed, s.n_computed + block_tokens - 1) == key &&
               std::equal(next.begin(), next.end(), theirs.begin() + s.n_computed);
    });
}

Scheduler::Batch Scheduler::plan() {
    Batch batch;
    std::vector<StreamPtr> prompts;
    for (const StreamPtr& s : running_) {
        if (s->n_undelivered >= max_undelivered) continue;
        extend_from_cache(*s);
        if (s->n_left() > 1) {
            if (waits_for_prefix(*s, prompts)) continue;
            prompts.push_back(s);
        }
        batch.push_back({.stream = s});
    }

    // One row for each that decodes, equal shares of the rest for the prompts, what is left over to the oldest.
    const int32_t n_prompts = int32_t(prompts.size()), n_decode = int32_t(batch.size()) - n_prompts;
    int32_t room =
        std::min(std::max(model_.prefill_rows() - n_decode, least_prompt_rows), model_.max_step_rows() - n_decode);
    const int32_t share = room / std::max(n_prompts, 1);
    for (Item& item : batch) {
        const int32_t left = item.stream->n_left();
        item.rows = left == 1 ? 1 : std::min(left, share);
        if (left > 1) room -= item.rows;
    }
    for (Item& item : batch) {
        const int32_t more = std::min(item.stream->n_left() - item.rows, room);
        item.rows += more;
        room -= more;
    }

    for (Item& item : batch) {
        const StreamPtr& s = item.stream;
        // A younger one may have given its place up for an older one meanwhile.
        if (!s->running || !grow(s, s->n_computed + item.rows)) item.rows = 0;
        item.wants = item.rows == s->n_left();
    }
    batch.erase(std::remove_if(batch.begin(), batch.end(), [](const Item& item) { return item.rows == 0; }),
                batch.end());
    return batch;
}

/// False where the stream itself had to go.
bool Scheduler::grow(const StreamPtr& s, int32_t n_tokens) {
    const size_t wanted = blocks_of(n_tokens);
    while (s->running && s->blocks.size() < wanted && !pool_.allocate(wanted - s->blocks.size(), s->blocks))
        preempt(running_.back());
    return s->running;
}

/// The stream goes back to the head of the queue; what it computed stays in the cache as long as there is room.
void Scheduler::preempt(const StreamPtr& s) {
    release(*s);
    s->running = false;
    waiting_.push_front(s);
    running_.pop_back();
    ++counters_.n_preempted;
}

/// The step after one that is not answered yet: null unless all that runs decodes greedily in it, and nobody waits for
/// a stream that is free.
std::unique_ptr<Scheduler::Flight> Scheduler::plan_ahead(const Flight& flight) {
    if (!style_.ahead || (!waiting_.empty() && running_.size() < n_streams_)) return nullptr;
    size_t n_running = 0;
    for (const Item& item : flight.batch) {
        const Stream& s = *item.stream;
        if (!s.running) continue;
        const bool decodes = item.rows == 1 && item.wants && s.n_computed >= s.generation.n_prompt();
        // Neither step's event may be one too many.
        if (!decodes || !s.generation.is_greedy() || s.n_undelivered + 2 > max_undelivered) return nullptr;
        ++n_running;
    }
    if (n_running != running_.size()) return nullptr;
    auto next = std::make_unique<Flight>();
    next->ahead = true;
    for (size_t i = 0; i < flight.batch.size(); ++i) {
        const StreamPtr& s = flight.batch[i].stream;
        if (!s->running || s->generation.n_left() < 2) continue;  // its last token comes with the answers
        const size_t wanted = blocks_of(s->n_computed + 2);
        if (s->blocks.size() < wanted && !pool_.allocate(wanted - s->blocks.size(), s->blocks)) return nullptr;
        next->batch.push_back({.stream = s, .rows = 1, .wants = true});
        next->tokens.push_back(kernels::chosen_before(int32_t(i)));
    }
    return next->batch.empty() ? nullptr : std::move(next);
}

void Scheduler::commit(Flight& flight) {
    ++counters_.n_steps;
    counters_.n_ahead += flight.ahead;
    for (Item& item : flight.batch) {
        const StreamPtr& s = item.stream;
        counters_.n_candidates += item.tried;
        counters_.n_repeated += item.repeated;
        if (!s->running) continue;  // it ended while its row was computed
        if (item.done) {
            const int32_t n_prompt = s->generation.n_prompt();
            counters_.n_prompt_tokens += uint64_t(std::clamp(n_prompt - s->n_computed, 0, item.rows));
            s->n_computed += item.rows;
            s->n_taken = 0;
            publish(*s);
        } else if (item.code != Code::cancelled) {
            s->generation.stop(Finish::error, item.code, std::move(item.error));
        }
        if (item.progress) send(s, std::move(*item.progress));
        if (item.token) {
            send(s, std::move(*item.token));
            ++counters_.n_generated_tokens;
        }
        if (s->generation.finished()) end(s);
    }
}

void Scheduler::publish(Stream& s) {
    const std::span<const int32_t> ids = s.generation.ids();
    while (s.publishes && (s.n_published + 1) * block_tokens <= s.n_computed) {
        const int32_t first = s.n_published * block_tokens;
        const auto key = key_of(s, first, first + block_tokens - 1);
        if (!key) {
            s.publishes = false;
            break;
        }
        int32_t& block = s.blocks[size_t(s.n_published)];
        const BlockPool::Found found =
            pool_.publish(s.node, *key, ids.subspan(size_t(first), size_t(block_tokens)), block);
        block = found.block;
        s.node = found.node;
        ++s.n_published;
    }
}

/// All its blocks go back, the last one as a tail; the stream stands at its beginning.
void Scheduler::release(Stream& s) {
    const int32_t first = s.n_published * block_tokens;
    if (s.publishes && s.n_computed > first && s.n_computed < first + block_tokens)
        if (const auto key = key_of(s, first, s.n_computed - 1))
            pool_.publish_tail(s.node, *key, s.generation.ids().subspan(size_t(first), size_t(s.n_computed - first)),
                               s.blocks[size_t(s.n_published)]);
    pool_.release(s.blocks);
    s.blocks.clear();
    s.n_computed = s.n_published = s.n_taken = 0;
    s.node = BlockPool::root;
    s.publishes = true;
    s.n_reserved = 0;
}

}  // namespace quantplug::engine
