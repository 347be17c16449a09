#include "engine/model/decoder.h"

#include <algorithm>
#include <set>
#include <string_view>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"
#include "engine/model/decoder_reader.h"

namespace quantplug::engine {

namespace {

std::string known_names() {
    std::string names;
    for (const Architecture& a : architectures) {
        if (!names.empty()) names += ", ";
        names += a.name;
    }
    return names;
}

/// The class of text_config's model_type, for wrappers of any text model.
std::string_view text_architecture(const JsonObject& config, const Architecture& wrapper) {
    const auto text = config.object("text_config");
    const std::string type = text ? text->string("model_type").value_or("") : "";
    if (type.empty()) return wrapper.text_architecture;
    if (type == "llama") return "LlamaForCausalLM";
    if (type == "mistral" || type == "ministral") return "MistralForCausalLM";
    if (type == "qwen2") return "Qwen2ForCausalLM";
    if (type == "qwen3") return "Qwen3ForCausalLM";
    if (type == "gemma") return "GemmaForCausalLM";
    if (type == "gemma2") return "Gemma2ForCausalLM";
    if (type == "phi3") return "Phi3ForCausalLM";
    fail(Code::unimplemented, text->where("model_type"), " is ", type, ", which is not supported under ", wrapper.name);
}

}  // namespace

Decoder DecoderReader::read() {
    choose_architecture();
    find_root();
    if (unknown_ &&
        (find_matrix(row_.names->q, layer_prefix(0)).empty() || find_matrix(row_.names->gate, layer_prefix(0)).empty()))
        fail(Code::unimplemented, folder_.name(), ": architecture ", d_.config.architecture, " is not supported; ",
             known_names(), " are");
    shapes();
    for (int32_t i = 0; i < int32_t(d_.config.n_layers); ++i) layer(i);
    if (final_norm_) norm(row_.names->final_norm, "", {.of_model = &kernels::ModelSpec::final_norm});
    if (!row_.names->embedding_norm.empty())
        norm(row_.names->embedding_norm, "", {.of_model = &kernels::ModelSpec::embedding_norm});
    embedding_and_head();
    positions();
    project();
    look_for_unread_tensors();
    d_.architecture = row_;
    return std::move(d_);
}

void DecoderReader::choose_architecture() {
    const std::string name = architecture_name(folder_.config());
    if (const RefusedArchitecture* refused = find_refused_architecture(name))
        fail(Code::unimplemented, folder_.name(), ": architecture ", name, " is not supported: it has ",
             refused->reason, "; use a program made for it");
    const Architecture* known = find_architecture(name);
    if (known) {
        row_ = *known;
        if (!row_.text_architecture.empty()) {
            row_ = *find_architecture(text_architecture(folder_.config(), *known));
            row_.defaults = known->defaults;
        }
    }
    d_.config = read_model_config(folder_, row_.defaults);
    if (known) return;
    unknown_ = true;
    row_ = architectures[0];
    refuse_unread_keys();
    d_.warnings.push_back(
        concat("architecture ", name, " is not known; its tensors have Llama's names and are read as Llama"));
}

/// A key that changes the computation of some architecture means that this one is no Llama either.
void DecoderReader::refuse_unread_keys() const {
    for (const std::string_view key :
         {"embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling", "scale_emb",
          "scale_depth", "logit_scale", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
          "clip_qkv", "no_rope_layers", "q_lora_rank", "kv_lora_rank"})
        if (const JsonObject* level = keys_.value_of(key))
            fail(Code::unimplemented, folder_.name(), ": architecture ", d_.config.architecture,
                 " is not supported: Llama has no ", level->where(key));
}

/// Of an architecture that is not known, a tensor that Llama does not have means another computation: no guess. Of a
/// known one it is told: files carry masks, frequencies and parts that are not computed here.
void DecoderReader::look_for_unread_tensors() {
    const std::string first = layer_prefix(0), layers = first.substr(0, first.size() - 2);
    std::set<std::string, std::less<>> read;  // tensors, and modules with all that belongs to them
    for (const NormPart& n : d_.norms) read.insert(n.tensors.begin(), n.tensors.end());
    for (const LinearPart& l : d_.linears) {
        read.insert(l.module + ".");
        read.insert(l.tensor);
    }
    for (const TensorInfo& t : folder_.tensors()) {
        if (!t.name.starts_with(layers) || t.name.ends_with(".rotary_emb.inv_freq")) continue;
        const std::string module = t.name.substr(0, t.name.rfind('.') + 1);
        if (read.contains(t.name) || read.contains(module)) continue;
        if (unknown_)
            fail(Code::unimplemented, folder_.name(), ": architecture ", d_.config.architecture,
                 " is not supported: Llama has no tensor ", t.name);
        if (!t.name.ends_with("weight")) continue;
        d_.warnings.push_back(concat("tensor ", printable(t.name), " is not read: architecture ",
                                     d_.config.architecture, " has none of that name"));
        return;
    }
}

kernels::Matrix& MatrixSlot::in(kernels::ModelSpec& spec) const {
    if (of_model) return spec.*of_model;
    kernels::LayerSpec& l = spec.layers[size_t(layer)];
    if (of_layer) return l.*of_layer;
    if (of_moe) return l.moe.*of_moe;
    kernels::Mlp& mlp = expert < 0 ? l.moe.shared : l.moe.experts[size_t(expert)];
    return mlp.*of_mlp;
}

kernels::Vector& NormPart::in(kernels::ModelSpec& spec) const {
    kernels::NormSpec& norm = of_model ? spec.*of_model : spec.layers[size_t(layer)].*of_layer;
    return norm.*value;
}

uint64_t Decoder::n_params() const {
    uint64_t n = 0;
    std::set<std::string_view> whole;  // a matrix that serves twice counts once
    for (const LinearPart& l : linears) {
        if (l.layer < 0 && !whole.insert(l.module).second) continue;
        n += uint64_t(l.shape.in_features) * uint64_t(l.shape.out_features);
        if (l.shape.has_bias) n += uint64_t(l.shape.out_features);
    }
    for (const NormPart& p : norms) n += p.n_params;
    return n;
}

double Decoder::bits_per_weight(bool head) const {
    double bits = 0, weights = 0;
    for (const LinearPart& l : linears) {
        if (!l.quantised || (l.layer < 0) != head) continue;
        bits += 8.0 * double(l.stored_bytes);
        weights += double(l.shape.in_features) * double(l.shape.out_features);
    }
    return weights > 0 ? bits / weights : 0;
}

uint64_t Decoder::largest_matrix_bytes() const {
    uint64_t largest = 0;
    for (const LinearPart& l : linears) {
        if (!l.quantised && !l.transposed) continue;
        const double share = l.stored_columns > 0 ? double(l.shape.out_features) / l.stored_columns : 1;
        largest = std::max(largest, uint64_t(double(l.stored_bytes) / share));
    }
    return largest;
}

Decoder read_decoder(const ModelFolder& folder, const Format& format) { return DecoderReader(folder, format).read(); }

}  // namespace quantplug::engine
