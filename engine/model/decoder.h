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

/// Columns first .. first + count - 1 of a matrix: outputs.
struct ColumnRange {
    int32_t first = 0, count = 0;
    bool operator==(const ColumnRange&) const = default;
};

/// The handle of a ModelSpec that a matrix becomes: one of the four pointers is set.
struct MatrixSlot {
    kernels::Matrix kernels::ModelSpec::*of_model = nullptr;
    kernels::Matrix kernels::LayerSpec::*of_layer = nullptr;
    kernels::Matrix kernels::MoeSpec::*of_moe = nullptr;
    kernels::Matrix kernels::Mlp::*of_mlp = nullptr;  // of an expert
    int32_t layer = -1;                               // -1: the model's own
    int32_t expert = -1;                              // -1: the shared expert

    kernels::Matrix& in(kernels::ModelSpec& spec) const;
};

/// One matrix of the model: a stored matrix, or columns of one.
struct LinearPart {
    std::string module;          // that stores it: "model.layers.0.self_attn.q_proj", "...self_attn.qkv_proj"
    kernels::MatrixShape shape;  // of the part, as packed
    bool quantised = false;
    uint64_t stored_bytes = 0;  // of all its tensors; of a cut matrix, its share
    int32_t layer = -1;         // -1: embedding, head and what else is the model's
    MatrixSlot slot;
    std::string split_name;  // the module's name in EXL2 files

    // Where the values lie.
    int32_t stored_columns = 0;        // outputs of the stored matrix
    std::vector<ColumnRange> columns;  // that this part is; empty: all
    std::string tensor, bias_tensor;   // plain matrices; no bias: empty
    bool transposed = false;           // plain: (in, out)
    int64_t first_row = 0;             // plain: of the tensor, an expert's place in a stack
    bool unit_columns = false;         // every output's weights are divided by their L2 norm
    bool projection() const { return layer >= 0 && !slot.of_moe; }  // what converters quantise
};

/// Values of a norm's weight or bias.
struct NormPart {
    std::vector<std::string> tensors;  // one, or one a head
    int32_t size = 0;                  // values of all
    int32_t layer = -1;                // -1: the model's own
    kernels::NormSpec kernels::LayerSpec::*of_layer = nullptr;
    kernels::NormSpec kernels::ModelSpec::*of_model = nullptr;
    kernels::Vector kernels::NormSpec::*value = nullptr;
    float added = 0;         // to every value: 1 where files hold w and the norm multiplies by 1 + w
    uint64_t n_params = 0;   // size, or that of one head where a file repeats it
    std::string split_name;  // of the first tensor in EXL2 files

    kernels::Vector& in(kernels::ModelSpec& spec) const;
};

struct Decoder {
    ModelConfig config;
    Architecture architecture;
    kernels::ModelSpec spec;  // complete but for the handles
    std::vector<LinearPart> linears;
    std::vector<NormPart> norms;
    bool tied = false;                      // one matrix serves as embedding and head
    std::string embedding_name, head_name;  // their modules in EXL2 files, stored or not
    int32_t position_limit = 0;             // positions that the model has at all (learned ones); 0: any number
    std::vector<std::string> warnings;

    uint64_t n_params() const;  // a tied matrix once
    /// Stored bits per weight of the quantised matrices of the layers, or of the head; 0 where none is quantised.
    double bits_per_weight(bool head) const;
    /// Of stored matrices that are held whole while they are packed.
    uint64_t largest_matrix_bytes() const;
};

/// Errors name the key or tensor at fault: an unsupported architecture, a missing tensor, a shape that does not fit.
Decoder read_decoder(const ModelFolder& folder, const Format& format);

}  // namespace quantplug::engine
