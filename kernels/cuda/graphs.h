// Captured steps, one for each shape that a step can have.
#pragma once

#include <algorithm>
#include <cstdint>
#include <list>

#include "kernels/cuda/runtime.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// All that a captured step has by value; what else varies lies in device memory.
struct GraphKey {
    const void* spec = nullptr;  // of ModelSpec::layers
    uint32_t kv = 0;
    int32_t rows = 0, wanted = 0, n_candidates = 0, n_sampled = 0;
    bool prefix = false;  // dummies among the rows
    bool folded = false;  // norms
    bool operator==(const GraphKey&) const = default;
};

/// The latest used graphs, the rest destroyed. A shape is captured when it comes for the second time: its first step
/// runs kernel by kernel, so that nothing is loaded onto the device while a stream is captured.
class Graphs {
 public:
    static constexpr size_t most = 96;

    Graphs() = default;
    ~Graphs() { clear(); }
    Graphs(const Graphs&) = delete;
    Graphs& operator=(const Graphs&) = delete;

    struct Entry {
        GraphKey key;
        GraphHandle graph;  // null: seen once
    };
    /// Null where the shape comes for the first time; then it is noted. The entry lives until the next call.
    Entry* find(const GraphKey& key) {
        for (auto at = graphs_.begin(); at != graphs_.end(); ++at) {
            if (!(at->key == key)) continue;
            graphs_.splice(graphs_.begin(), graphs_, at);
            return &graphs_.front();
        }
        graphs_.push_front({key, nullptr});
        return nullptr;
    }
    /// More than there should be: the caller waits for all steps, then calls trim.
    bool full() const { return graphs_.size() > most; }
    void trim() {
        for (; full(); graphs_.pop_back())
            if (graphs_.back().graph) destroy_graph(graphs_.back().graph);
    }
    size_t size() const {
        return size_t(std::count_if(graphs_.begin(), graphs_.end(), [](const Entry& e) { return e.graph != nullptr; }));
    }
    void clear() {
        for (const Entry& entry : graphs_)
            if (entry.graph) destroy_graph(entry.graph);
        graphs_.clear();
    }

 private:
    std::list<Entry> graphs_;
};

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
