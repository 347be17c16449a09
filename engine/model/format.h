// What a backend is: the reader of one quantised format. Everything above it is the engine's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/matrix.h"

namespace quantplug::engine {

class ModelFolder;

/// A quantised matrix as the folder stores it, from headers alone.
struct StoredMatrix {
    kernels::MatrixShape shape;
    uint64_t stored_bytes = 0;  // all its tensors: codes, scales, zero points, group tables, row order, bias
};

struct Probe {
    int32_t score = 0;   // 0: no; 90: this format; 50: a plain folder that it can also read
    std::string format;  // "exl2", "gptq", "plain"
    std::string reason;  // score 0: one sentence, naming what was found instead
};

/// A quantised matrix and its size as the folder's own tensors give it.
struct StoredModule {
    std::string name;                           // "model.layers.0.self_attn.q_proj"
    int32_t in_features = 0, out_features = 0;  // what describe and open accept
};

class Format {
 public:
    virtual ~Format() = default;

    /// "exl2", "gptq".
    virtual const char* name() const = 0;

    virtual Probe probe(const ModelFolder& folder) const = 0;

    /// Whether the matrix `module` ("model.layers.0.self_attn.q_proj") is stored quantised.
    virtual bool has(const ModelFolder& folder, const std::string& module) const = 0;

    /// Every quantised matrix of the folder, sorted by name, whatever the architecture.
    virtual std::vector<StoredModule> modules(const ModelFolder&) const { return {}; }

    /// Checks everything that headers tell; in_features and out_features are what the architecture expects. Errors name
    /// the tensor.
    virtual StoredMatrix describe(const ModelFolder& folder, const std::string& module, int32_t in_features,
                                  int32_t out_features) const = 0;

    /// The matrix itself. Holds at most this matrix's own tensors in memory; the source keeps what it needs alive.
    virtual kernels::QuantSource open(const ModelFolder& folder, const std::string& module, int32_t in_features,
                                      int32_t out_features) const = 0;
};

}  // namespace quantplug::engine
