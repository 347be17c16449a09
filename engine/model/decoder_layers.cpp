// The matrices and norms of layers, embedding and head.
#include <array>
#include <cmath>

#include "engine/base/error.h"
#include "engine/model/decoder_reader.h"
#include "kernels/half.h"

namespace quantplug::engine {

namespace {

using kernels::LayerSpec;
using kernels::Mlp;
using kernels::ModelSpec;
using kernels::MoeSpec;

constexpr int64_t baichuan2_vocab = 125696;

/// Columns of q, k and v in one fused matrix.
struct FusedColumns {
    std::vector<ColumnRange> q, k, v;
};
FusedColumns fused_columns(bool grouped, int32_t heads, int32_t kv_heads, int32_t d) {
    const int32_t q = heads * d, kv = kv_heads * d;
    if (!grouped) return {{{0, q}}, {{q, kv}}, {{q + kv, kv}}};
    FusedColumns out;
    const int32_t group = heads / kv_heads;
    for (int32_t j = 0; j < kv_heads; ++j) {
        const int32_t first = j * (group + 2) * d;
        out.q.push_back({first, group * d});
        out.k.push_back({first + group * d, d});
        out.v.push_back({first + (group + 1) * d, d});
    }
    return out;
}

}  // namespace

void DecoderReader::layer(int32_t i) {
    LayerSpec& spec = d_.spec.layers[size_t(i)];
    const TensorNames& names = *row_.names;
    const LayerKind kind = kind_of(i);
    spec.block = block();
    spec.window = kind.window;
    spec.rope = !kind.rope || d_.spec.ropes.empty() ? -1 : kind.sliding && d_.spec.ropes.size() > 1 ? 1 : 0;
    spec.activation = activation();
    const std::string prefix = layer_prefix(i);
    if (spec.block == kernels::Block::post) {
        norm(names.n1, prefix, {.of_layer = &LayerSpec::attention_post_norm, .layer = i});
        norm(names.n2, prefix, {.of_layer = &LayerSpec::mlp_post_norm, .layer = i});
    } else {
        if (!names.n1.empty()) norm(names.n1, prefix, {.of_layer = &LayerSpec::attention_norm, .layer = i});
        if (!names.p1.empty()) norm(names.p1, prefix, {.of_layer = &LayerSpec::attention_post_norm, .layer = i});
        if (!names.n2.empty() && second_norm_) norm(names.n2, prefix, {.of_layer = &LayerSpec::mlp_norm, .layer = i});
        if (!names.p2.empty()) norm(names.p2, prefix, {.of_layer = &LayerSpec::mlp_post_norm, .layer = i});
    }
    attention(i, prefix);
    if (kind.sparse)
        moe(i, prefix);
    else
        dense_mlp(i, prefix);
}

void DecoderReader::attention(int32_t i, const std::string& prefix) {
    const TensorNames& names = *row_.names;
    const ModelSpec& s = d_.spec;
    const int32_t q = s.n_heads * s.head_dim, kv = s.n_kv_heads * s.head_dim;  // at most 2^23, by shapes()
    const MatrixSlot q_slot{.of_layer = &LayerSpec::q, .layer = i}, k_slot{.of_layer = &LayerSpec::k, .layer = i},
        v_slot{.of_layer = &LayerSpec::v, .layer = i};
    const std::string fused = find_matrix(names.q, prefix).empty() ? find_matrix(names.qkv, prefix) : "";
    if (fused.empty()) {
        if (find_matrix(names.q, prefix).empty() && !names.qkv.empty()) {
            std::vector<std::string> all = candidates(names.q, prefix);
            for (std::string& name : candidates(names.qkv, prefix)) all.push_back(std::move(name));
            missing(all);
        }
        matrix(names.q, prefix, s.hidden_size, q, q_slot);
        matrix(names.k, prefix, s.hidden_size, kv, k_slot);
        matrix(names.v, prefix, s.hidden_size, kv, v_slot);
    } else {
        FusedColumns columns = fused_columns(row_.grouped_qkv, s.n_heads, s.n_kv_heads, s.head_dim);
        add(part(fused, s.hidden_size, q + 2 * kv, std::move(columns.q)), q_slot, split_name(names.q, i));
        add(part(fused, s.hidden_size, q + 2 * kv, std::move(columns.k)), k_slot, split_name(names.k, i));
        add(part(fused, s.hidden_size, q + 2 * kv, std::move(columns.v)), v_slot, split_name(names.v, i));
    }
    if (row_.qk_norm != QkNormRule::none) {
        head_norm(names.q_norm, prefix, {.of_layer = &LayerSpec::q_norm, .layer = i}, s.n_heads);
        head_norm(names.k_norm, prefix, {.of_layer = &LayerSpec::k_norm, .layer = i}, s.n_kv_heads);
        d_.spec.layers[size_t(i)].qk_norm_full = row_.qk_norm == QkNormRule::full;
        d_.spec.layers[size_t(i)].qk_norm_after_rope = row_.qk_norm == QkNormRule::after_rope;
    }
    matrix(names.o, prefix, q, s.hidden_size, {.of_layer = &LayerSpec::o, .layer = i});
}

void DecoderReader::dense_mlp(int32_t i, const std::string& prefix) {
    const TensorNames& names = *row_.names;
    const int32_t hidden = d_.spec.hidden_size, inner = d_.spec.intermediate_size;
    const MatrixSlot gate{.of_layer = &LayerSpec::gate, .layer = i}, up{.of_layer = &LayerSpec::up, .layer = i};
    const std::string fused = find_matrix(names.up, prefix).empty() ? find_matrix(names.gate_up, prefix) : "";
    if (!fused.empty()) {
        add(part(fused, hidden, 2 * inner, {{0, inner}}), gate, split_name(names.gate, i));
        add(part(fused, hidden, 2 * inner, {{inner, inner}}), up, split_name(names.up, i));
    } else {
        if (!names.gate.empty()) matrix(names.gate, prefix, hidden, inner, gate);
        matrix(names.up, prefix, hidden, inner, up);
    }
    matrix(names.down, prefix, inner, hidden, {.of_layer = &LayerSpec::down, .layer = i});
}

void DecoderReader::moe(int32_t i, const std::string& prefix) {
    const TensorNames& names = *row_.names;
    const ModelSpec& s = d_.spec;
    MoeSpec& spec = d_.spec.layers[size_t(i)].moe;
    spec.experts.resize(size_t(s.n_experts));
    spec.top_k = int32_t(*keys_.integer({"num_experts_per_tok", "ffn_config.moe_top_k"}));  // experts_numbers() checked
    spec.renormalise = row_.moe == MoeRule::mixtral ||
                       (row_.moe == MoeRule::qwen && keys_.boolean({"norm_topk_prob"}).value_or(false)) ||
                       (row_.moe == MoeRule::dbrx && !keys_.is_null("ffn_config.moe_normalize_expert_weights"));
    matrix(names.router, prefix, s.hidden_size, s.n_experts, {.of_moe = &MoeSpec::router, .layer = i});
    for (int32_t e = 0; e < s.n_experts; ++e) expert(i, prefix, e);
    if (s.shared_intermediate_size == 0) return;
    const int32_t inner = s.shared_intermediate_size;
    matrix(names.shared_expert_gate, prefix, s.hidden_size, inner, {.of_mlp = &Mlp::gate, .layer = i});
    matrix(names.shared_expert_up, prefix, s.hidden_size, inner, {.of_mlp = &Mlp::up, .layer = i});
    matrix(names.shared_expert_down, prefix, inner, s.hidden_size, {.of_mlp = &Mlp::down, .layer = i});
    matrix(names.shared_gate, prefix, s.hidden_size, 1, {.of_moe = &MoeSpec::shared_gate, .layer = i});
}

void DecoderReader::expert(int32_t i, const std::string& prefix, int32_t e) {
    const TensorNames& names = *row_.names;
    const int32_t hidden = d_.spec.hidden_size, inner = d_.spec.expert_intermediate_size;
    const auto add_one = [&](std::string_view name, std::string_view stacked, bool is_down,
                             kernels::Matrix Mlp::*slot) {
        const int32_t in = is_down ? inner : hidden, out = is_down ? hidden : inner;
        const MatrixSlot where{.of_mlp = slot, .layer = i, .expert = e};
        const std::string stack = prefix + std::string(stacked);
        if (stacked.empty() || !folder_.has(stack) || !find_matrix(name, prefix, e).empty())
            return matrix(name, prefix, in, out, where, e);
        const std::array<int64_t, 2> shape{int64_t(d_.spec.n_experts) * inner, hidden};
        constexpr std::array types = {StoredType::f16, StoredType::bf16, StoredType::f32};
        const TensorInfo& t = folder_.tensor(stack, shape, types);
        LinearPart p;
        // What a converter calls it: the name of one expert's module beside the stack's.
        p.module = candidates(name, prefix, e).back();
        p.tensor = stack;
        p.shape.in_features = in;
        p.shape.out_features = p.stored_columns = out;
        p.shape.dtype = t.type == StoredType::f32    ? kernels::DType::f32
                        : t.type == StoredType::bf16 ? kernels::DType::bf16
                                                     : kernels::DType::f16;
        p.stored_bytes = t.bytes / uint64_t(d_.spec.n_experts);
        p.transposed = is_down;
        p.first_row = int64_t(e) * inner;
        add(std::move(p), where, split_name(name, i, e));
    };
    add_one(names.expert_gate, names.stacked_gate, false, &Mlp::gate);
    add_one(names.expert_up, names.stacked_up, false, &Mlp::up);
    add_one(names.expert_down, names.stacked_down, true, &Mlp::down);
}

/// Whatever tie_word_embeddings says, the tensors decide: a stored head wins, and either stands in for the other.
void DecoderReader::embedding_and_head() {
    const TensorNames& names = *row_.names;
    const int32_t width = d_.spec.embedding_size > 0 ? d_.spec.embedding_size : d_.spec.hidden_size;
    std::string embedding = find_matrix(names.embedding, ""), head = find_matrix(names.head, "");
    if (embedding.empty() && head.empty())
        fail(Code::not_found, folder_.name(), ": neither ", candidates(names.embedding, "").back(), ".weight nor ",
             candidates(names.head, "").back(), " is there; the checkpoint is incomplete");
    // An EXL2 writer has divided the rows already.
    const bool divides = (row_.norm_head == NormHeadRule::always ||
                          (row_.norm_head == NormHeadRule::baichuan && d_.config.n_vocab == baichuan2_vocab)) &&
                         keys_.boolean({"norm_head"}).value_or(true) &&
                         !(std::string_view(format_.name()) == "exl2" && format_.has(folder_, head));
    d_.tied = embedding.empty() != head.empty() && !divides;
    d_.embedding_name = split_name(names.embedding, -1);
    d_.head_name = split_name(names.head, -1);
    if (!d_.tied && head.empty()) head = embedding;
    if (!d_.tied && embedding.empty()) embedding = head;
    if (row_.constants == ConstantsRule::gemma) scale_by_root(embedding.empty() ? head : embedding);
    if (!embedding.empty())
        add(part(embedding, width, d_.spec.n_vocab, {}, true), {.of_model = &ModelSpec::embedding}, d_.embedding_name);
    if (!head.empty()) {
        add(part(head, width, d_.spec.n_vocab, {}, true), {.of_model = &ModelSpec::head}, d_.head_name);
        LinearPart& p = d_.linears.back();
        p.unit_columns = divides;
        if (divides && p.quantised)
            fail(Code::unimplemented, folder_.name(), ": ", head,
                 " is quantised and its rows are to be divided by their norms, which is not supported; quantise the "
                 "model with a plain head");
    }
}

/// Gemma's normaliser, rounded to the type in which the embedding is stored, as a model of that type computes it.
void DecoderReader::scale_by_root(const std::string& embedding) {
    const float root = float(std::sqrt(double(d_.spec.hidden_size)));
    const TensorInfo* t = folder_.find(embedding + ".weight");
    if (t && t->type == StoredType::f32)
        d_.spec.embedding_scale = root;
    else if (t && t->type == StoredType::bf16)
        d_.spec.embedding_scale = kernels::bf16_to_f32(kernels::f32_to_bf16(root));
    else
        d_.spec.embedding_scale = kernels::f16_to_f32(kernels::f32_to_f16(root));
}

void DecoderReader::positions() {
    const TensorNames& names = *row_.names;
    if (names.positions.empty()) return;
    const std::string module = find_matrix(names.positions, "");
    if (module.empty()) missing(candidates(names.positions, ""));
    const TensorInfo& t = folder_.tensor(module + ".weight");
    const int64_t rows = t.shape.empty() ? 0 : t.shape[0];
    if (rows <= row_.position_offset || rows > (1 << 24))
        fail(Code::invalid_argument, folder_.file_of(t), ": tensor ", t.name, " is ", t.describe(),
             ", which holds no positions");
    add(part(module, d_.spec.hidden_size, int32_t(rows), {}), {.of_model = &ModelSpec::positions},
        split_name(names.positions, -1));
    d_.spec.position_offset = row_.position_offset;
    d_.position_limit = int32_t(rows) - row_.position_offset;
    d_.spec.max_positions = std::min(d_.spec.max_positions, d_.position_limit);
}

void DecoderReader::project() {
    if (d_.spec.embedding_size == 0) return;
    const TensorNames& names = *row_.names;
    matrix(names.project_in, "", d_.spec.embedding_size, d_.spec.hidden_size, {.of_model = &ModelSpec::project_in});
    matrix(names.project_out, "", d_.spec.hidden_size, d_.spec.embedding_size, {.of_model = &ModelSpec::project_out});
}

}  // namespace quantplug::engine
