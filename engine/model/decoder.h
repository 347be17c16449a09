// A folder's decoder: which tensors it is made of and how they are stored, from headers and configuration alone.
#pragma once

#include <string>
#include <vector>

#include "engine/checkpoint/config.h"
#include "engine/model/architecture.h"
#include "engine/model/format.h"
#include "kernels/model.h"

namespace quantplug::engine {

class ModelFolder;

/// One matrix of the model, and where its handle goes.
struct LinearPart {
    std::string module;          // "model.layers.0.self_attn.q_proj"
    kernels::MatrixShape shape;  // as packed
    bool quantised = false;
    uint64_t stored_bytes = 0;                                  // of all its tensors
    int32_t layer = -1;                                         // -1: embedding or head
    kernels::Matrix kernels::LayerSpec::*slot = nullptr;        // of a layer
    kernels::Matrix kernels::ModelSpec::*model_slot = nullptr;  // embedding, head
    std::string bias_tensor;                                    // plain matrices only; empty: none
};

struct NormPart {
    std::string tensor;
    int32_t size = 0;
    int32_t layer = -1;  // -1: the final norm
    kernels::NormSpec kernels::LayerSpec::*slot = nullptr;
};

struct Decoder {
    ModelConfig config;
    kernels::ModelSpec spec;  // complete but for the handles
    std::vector<LinearPart> linears;
    std::vector<NormPart> norms;
    bool tied = false;  // one matrix serves as embedding and head
    std::vector<std::string> warnings;

    uint64_t n_params() const;  // a tied matrix once
    /// Stored bits per weight of the quantised matrices of the layers, or of the head; 0 where none is quantised.
    double bits_per_weight(bool head) const;
    uint64_t largest_matrix_bytes() const;  // stored
};

/// Errors name the key or tensor at fault: an unsupported architecture, a missing tensor, a shape that does not fit.
Decoder read_decoder(const ModelFolder& folder, const Format& format);

}  // namespace quantplug::engine
