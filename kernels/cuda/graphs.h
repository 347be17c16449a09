// Captured steps, one for each shape that a step can have.
#pragma once

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

/// The latest used graphs, the rest destroyed.
class Graphs {
 public:
    static constexpr size_t most = 96;

    Graphs() = default;
    ~Graphs() { clear(); }
    Graphs(const Graphs&) = delete;
    Graphs& operator=(const Graphs&) = delete;

    GraphHandle find(const GraphKey& key) {
        for (auto at = graphs_.begin(); at != graphs_.end(); ++at) {
            if (!(at->key == key)) continue;
            graphs_.splice(graphs_.begin(), graphs_, at);
            return at->graph;
        }
        return nullptr;
    }
    /// Takes the graph. The one that goes for it must not run: the caller has waited for all steps.
    void keep(const GraphKey& key, GraphHandle graph) {
        graphs_.push_front({key, graph});
        if (graphs_.size() <= most) return;
        destroy_graph(graphs_.back().graph);
        graphs_.pop_back();
    }
    bool full() const { return graphs_.size() >= most; }
    size_t size() const { return graphs_.size(); }
    void clear() {
        for (const Entry& entry : graphs_) destroy_graph(entry.graph);
        graphs_.clear();
    }

 private:
    struct Entry {
        GraphKey key;
        GraphHandle graph;
    };
    std::list<Entry> graphs_;
};

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
