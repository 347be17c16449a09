// How a Decoder is built, part by part; used by decoder*.cpp only.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/checkpoint/config.h"
#include "engine/checkpoint/folder.h"
#include "engine/model/decoder.h"

namespace quantplug::engine {

class DecoderReader {
 public:
    DecoderReader(const ModelFolder& folder, const Format& format)
        : folder_(folder), format_(format), keys_(folder.config()) {}

    Decoder read();

 private:
    // ------------------------------------------------ decoder.cpp
    void choose_architecture();
    void refuse_unread_keys() const;
    void look_for_unread_tensors();

    // ------------------------------------------------ decoder_spec.cpp: the configuration's numbers
    void shapes();
    void attention_numbers();
    void alibi();
    void constants();
    void ropes();
    void experts_numbers();
    kernels::Activation activation() const;
    kernels::Block block();
    struct LayerKind {
        bool sliding = false, rope = true, sparse = false;
        int32_t window = 0;
    };
    LayerKind kind_of(int32_t layer) const;
    double number(std::string_view key, double missing) const { return keys_.number({key}).value_or(missing); }

    // ------------------------------------------------ decoder_layers.cpp: matrices and norms
    void layer(int32_t i);
    void attention(int32_t i, const std::string& prefix);
    void dense_mlp(int32_t i, const std::string& prefix);
    void moe(int32_t i, const std::string& prefix);
    void expert(int32_t i, const std::string& prefix, int32_t expert);
    void embedding_and_head();
    void scale_by_root(const std::string& embedding);
    void positions();
    void project();

    // ------------------------------------------------ decoder_names.cpp: candidates and what is stored under them
    /// "model.layers.0." as this folder has it.
    std::string layer_prefix(int32_t i) const;
    void find_root();
    /// The folder's names of a slot, the first candidate first. `prefix` is a layer's; "" for the model's own.
    std::vector<std::string> candidates(std::string_view names, const std::string& prefix, int32_t index = -1) const;
    /// What EXL2 files call it: the first candidate. layer -1: the model's own.
    std::string split_name(std::string_view names, int32_t layer, int32_t index = -1) const;
    bool matrix_exists(const std::string& module) const;
    /// The first candidate that is stored; empty where none is.
    std::string find_matrix(std::string_view names, const std::string& prefix, int32_t index = -1) const;
    [[noreturn]] void missing(const std::vector<std::string>& modules) const;

    /// The matrix, or `columns` of it, where its whole has `stored_columns` outputs.
    LinearPart part(const std::string& module, int32_t in, int32_t stored_columns, std::vector<ColumnRange> columns,
                    bool may_be_padded = false);
    /// A slot with one name only. Fails where it is not there.
    void matrix(std::string_view names, const std::string& prefix, int32_t in, int32_t out, MatrixSlot slot,
                int32_t index = -1);
    void add(LinearPart part, MatrixSlot slot, std::string split_name);

    enum class Presence : uint8_t { required, optional };
    struct NormSlot {
        kernels::NormSpec kernels::LayerSpec::*of_layer = nullptr;
        kernels::NormSpec kernels::ModelSpec::*of_model = nullptr;
        int32_t layer = -1;
    };
    void norm(std::string_view names, const std::string& prefix, NormSlot slot, Presence presence = Presence::required);
    void head_norm(std::string_view names, const std::string& prefix, NormSlot slot, int32_t heads);
    kernels::NormSpec& spec_of(const NormSlot& slot);
    void add_norm(std::vector<std::string> tensors, int32_t size, const NormSlot& slot,
                  kernels::Vector kernels::NormSpec::*value, const std::string& split_name);

    const ModelFolder& folder_;
    const Format& format_;
    ConfigKeys keys_;
    Architecture row_{};
    bool unknown_ = false;
    float eps_ = 1e-6f;
    bool parallel_ = false, second_norm_ = true, final_norm_ = true;
    std::string root_from_, root_to_;  // how this folder's names differ from the table's
    std::string_view layers_;          // the candidate of TensorNames::layers that is there
    std::string described_;  // the module whose description is kept: parts of a fused matrix follow each other
    StoredMatrix description_;
    Decoder d_;
};

}  // namespace quantplug::engine
