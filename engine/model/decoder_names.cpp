// Which of a slot's candidate names a folder has, and what is stored under it.
#include <algorithm>
#include <array>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"
#include "engine/model/decoder_reader.h"

namespace quantplug::engine {

namespace {

constexpr std::array plain_types = {StoredType::f16, StoredType::bf16, StoredType::f32};

/// How writers change the front of every name: multimodal wrappers (the original, GPTQModel 7), and models saved
/// without their head's class.
struct Root {
    std::string_view from, to;
};
constexpr std::array<Root, 6> roots{{{"", ""},
                                     {"", "language_model."},
                                     {"model.", "model.language_model."},
                                     {"", "model.language_model."},
                                     {"transformer.", ""},
                                     {"model.", ""}}};

std::string renamed(std::string_view name, std::string_view from, std::string_view to) {
    if (!name.starts_with(from)) return {};
    return std::string(to) + std::string(name.substr(from.size()));
}

std::vector<std::string_view> split(std::string_view names) {
    std::vector<std::string_view> out;
    while (!names.empty()) {
        const size_t bar = std::min(names.find('|'), names.size());
        out.push_back(names.substr(0, bar));
        names.remove_prefix(std::min(bar + 1, names.size()));
    }
    return out;
}

kernels::DType dtype_of(StoredType type) {
    return type == StoredType::f32    ? kernels::DType::f32
           : type == StoredType::bf16 ? kernels::DType::bf16
                                      : kernels::DType::f16;
}

bool has_tensor_below(const ModelFolder& folder, const std::string& prefix) {
    const auto& tensors = folder.tensors();
    const auto found = std::lower_bound(tensors.begin(), tensors.end(), prefix,
                                        [](const TensorInfo& t, const std::string& name) { return t.name < name; });
    return found != tensors.end() && found->name.starts_with(prefix);
}

}  // namespace

void DecoderReader::find_root() {
    layers_ = split(row_.names->layers).front();
    for (const Root& root : roots)
        for (const std::string_view layers : split(row_.names->layers)) {
            const std::string prefix = renamed(layers, root.from, root.to);
            if (prefix.empty() || !has_tensor_below(folder_, prefix + ".0.")) continue;
            root_from_ = root.from;
            root_to_ = root.to;
            layers_ = layers;
            return;
        }
}

std::string DecoderReader::layer_prefix(int32_t i) const {
    return concat(renamed(layers_, root_from_, root_to_), ".", i, ".");
}

std::vector<std::string> DecoderReader::candidates(std::string_view names, const std::string& prefix,
                                                   int32_t index) const {
    std::vector<std::string> out;
    for (const std::string_view name : split(names)) {
        std::string full = prefix.empty() ? renamed(name, root_from_, root_to_) : prefix + std::string(name);
        if (const size_t at = full.find("{}"); at != std::string::npos) full.replace(at, 2, std::to_string(index));
        if (!full.empty()) out.push_back(std::move(full));
    }
    if (!prefix.empty()) return out;
    // GPTQModel writes the head on top of a wrapper whose text model lies deeper.
    for (const std::string_view name : split(names))
        if (std::find(out.begin(), out.end(), name) == out.end()) out.emplace_back(name);
    return out;
}

std::string DecoderReader::split_name(std::string_view names, int32_t layer, int32_t index) const {
    const auto rooted = [&](std::string_view name) {
        std::string out = renamed(name, root_from_, root_to_);
        return out.empty() ? std::string(name) : out;
    };
    std::string name(split(names).front());
    if (const size_t at = name.find("{}"); at != std::string::npos) name.replace(at, 2, std::to_string(index));
    if (layer < 0) return rooted(name);
    return concat(rooted(split(row_.names->layers).front()), ".", layer, ".", name);
}

bool DecoderReader::matrix_exists(const std::string& module) const {
    return format_.has(folder_, module) || folder_.has(module + ".weight");
}

std::string DecoderReader::find_matrix(std::string_view names, const std::string& prefix, int32_t index) const {
    for (std::string& name : candidates(names, prefix, index))
        if (matrix_exists(name)) return std::move(name);
    return {};
}

void DecoderReader::missing(const std::vector<std::string>& modules) const {
    std::string names;
    for (const std::string& module : modules) names += concat(names.empty() ? "" : " or ", "\"", module, ".weight\"");
    fail(Code::not_found, folder_.name(), " has no tensor ", names, ": the model is incomplete");
}

LinearPart DecoderReader::part(const std::string& module, int32_t in, int32_t stored_columns,
                               std::vector<ColumnRange> columns, bool may_be_padded) {
    LinearPart p;
    p.module = module;
    p.quantised = format_.has(folder_, module);
    if (p.quantised) {
        if (may_be_padded)
            for (const StoredModule& stored : format_.modules(folder_))
                if (stored.name == module && stored.out_features > stored_columns) {
                    columns = {{0, stored_columns}};
                    stored_columns = stored.out_features;
                    break;
                }
        if (described_ != module || description_.shape.out_features != stored_columns) {
            description_ = format_.describe(folder_, module, in, stored_columns);
            described_ = module;
        }
        p.shape = description_.shape;
        p.stored_bytes = description_.stored_bytes;
    } else {
        p.transposed = stored_transposed(row_, module);
        p.tensor = module + ".weight";
        const std::array<int64_t, 2> shape{p.transposed ? in : -1, p.transposed ? -1 : in};
        const TensorInfo& t = folder_.tensor(p.tensor, shape, plain_types);
        const int64_t found = t.shape[p.transposed ? 1 : 0];
        if (found < stored_columns || (!may_be_padded && found != stored_columns))
            fail(Code::invalid_argument, folder_.file_of(t), ": tensor ", t.name, " has ", found,
                 " outputs where config.json asks for ", stored_columns);
        p.shape.dtype = dtype_of(t.type);
        p.stored_bytes = t.bytes;
        if (const TensorInfo* bias = folder_.find(module + ".bias")) {
            const std::array<int64_t, 1> size{may_be_padded ? -1 : stored_columns};
            folder_.tensor(bias->name, size, plain_types);
            if (bias->shape[0] < stored_columns)
                fail(Code::invalid_argument, folder_.file_of(*bias), ": tensor ", bias->name, " has ", bias->shape[0],
                     " values where config.json asks for ", stored_columns);
            p.bias_tensor = bias->name;
            p.shape.has_bias = true;
            p.stored_bytes += bias->bytes;
        }
    }
    int32_t count = 0;
    for (const ColumnRange& range : columns) count += range.count;
    p.shape.in_features = in;
    p.shape.out_features = columns.empty() ? stored_columns : count;
    if (!columns.empty()) p.stored_bytes = uint64_t(double(p.stored_bytes) * double(count) / double(stored_columns));
    p.stored_columns = stored_columns;
    p.columns = std::move(columns);
    return p;
}

void DecoderReader::add(LinearPart part, MatrixSlot slot, std::string split_name) {
    part.layer = slot.layer;
    part.slot = slot;
    part.split_name = std::move(split_name);
    d_.linears.push_back(std::move(part));
}

void DecoderReader::matrix(std::string_view names, const std::string& prefix, int32_t in, int32_t out, MatrixSlot slot,
                           int32_t index) {
    const std::string module = find_matrix(names, prefix, index);
    const std::vector<std::string> all = candidates(names, prefix, index);
    if (module.empty()) missing(all);
    add(part(module, in, out, {}), slot, split_name(names, slot.layer, index));
}

kernels::NormSpec& DecoderReader::spec_of(const NormSlot& slot) {
    return slot.of_model ? d_.spec.*slot.of_model : d_.spec.layers[size_t(slot.layer)].*slot.of_layer;
}

void DecoderReader::add_norm(std::vector<std::string> tensors, int32_t size, const NormSlot& slot,
                             kernels::Vector kernels::NormSpec::*value, const std::string& split_name) {
    NormPart p;
    p.tensors = std::move(tensors);
    p.size = size;
    p.layer = slot.layer;
    p.of_layer = slot.of_layer;
    p.of_model = slot.of_model;
    p.value = value;
    const bool plus_one = row_.norm == NormRule::rms_plus_one || row_.norm == NormRule::layer_plus_one;
    p.added = plus_one && value == &kernels::NormSpec::weight ? 1.0f : 0.0f;
    p.n_params = uint64_t(size);
    p.split_name = split_name;
    d_.norms.push_back(std::move(p));
}

void DecoderReader::norm(std::string_view names, const std::string& prefix, NormSlot slot, Presence presence) {
    const bool rms = row_.norm == NormRule::rms || row_.norm == NormRule::rms_plus_one;
    std::string module;
    const std::vector<std::string> all = candidates(names, prefix);
    if (row_.norm != NormRule::layer_bare) {
        for (const std::string& name : all)
            if (module.empty() && folder_.has(name + ".weight")) module = name;
        if (module.empty() && presence == Presence::optional) return;
        if (module.empty()) missing(all);
    }
    kernels::NormSpec& spec = spec_of(slot);
    spec.kind = rms ? kernels::NormSpec::rms : kernels::NormSpec::layer;
    spec.eps = eps_;
    if (module.empty()) return;
    const std::array<int64_t, 1> shape{d_.spec.hidden_size};
    const std::string own_name = split_name(names, slot.layer);
    folder_.tensor(module + ".weight", shape, plain_types);
    add_norm({module + ".weight"}, int32_t(shape[0]), slot, &kernels::NormSpec::weight, own_name + ".weight");
    if (rms || !folder_.has(module + ".bias")) return;
    folder_.tensor(module + ".bias", shape, plain_types);
    add_norm({module + ".bias"}, int32_t(shape[0]), slot, &kernels::NormSpec::bias, own_name + ".bias");
}

void DecoderReader::head_norm(std::string_view names, const std::string& prefix, NormSlot slot, int32_t heads) {
    const int32_t d = d_.spec.head_dim, all_heads = heads * d;
    const bool one_a_head = names.find("{}") != std::string_view::npos;
    const std::vector<std::string> all = candidates(names, prefix, 0);
    std::string module;
    for (const std::string& name : all)
        if (module.empty() && folder_.has(name + ".weight")) module = name;
    if (module.empty()) {
        if (row_.qk_norm == QkNormRule::optional) return;
        missing(all);
    }
    kernels::NormSpec& spec = spec_of(slot);
    const bool rms = row_.norm == NormRule::rms || row_.norm == NormRule::rms_plus_one;
    spec.kind = rms ? kernels::NormSpec::rms : kernels::NormSpec::layer;
    spec.eps = eps_;
    if (one_a_head) {
        std::vector<std::string> tensors;
        const std::array<int64_t, 1> shape{d};
        for (int32_t head = 0; head < heads; ++head) {
            tensors.push_back(candidates(names, prefix, head).front() + ".weight");
            folder_.tensor(tensors.back(), shape, plain_types);
        }
        add_norm(std::move(tensors), all_heads, slot, &kernels::NormSpec::weight,
                 split_name(names, slot.layer, 0) + ".weight");
        return;
    }
    for (const bool is_bias : {false, true}) {
        const std::string name = module + (is_bias ? ".bias" : ".weight");
        if (is_bias && (rms || !folder_.has(name))) continue;
        const TensorInfo& t = folder_.tensor(name);
        const bool each = t.count() == uint64_t(all_heads) &&
                          (t.shape.size() == 1 || (t.shape.size() == 2 && t.shape[0] == heads && t.shape[1] == d));
        if (!each || row_.qk_norm == QkNormRule::full) {
            const std::array<int64_t, 1> shape{row_.qk_norm == QkNormRule::full ? all_heads : d};
            folder_.tensor(name, shape, plain_types);
        } else {
            folder_.tensor(name, t.shape, plain_types);
        }
        add_norm({name}, int32_t(t.count()), slot, is_bias ? &kernels::NormSpec::bias : &kernels::NormSpec::weight,
                 split_name(names, slot.layer, 0) + (is_bias ? ".bias" : ".weight"));
        // EXL2 repeats the norm of one head; the model has it once.
        if (row_.qk_norm == QkNormRule::required || row_.qk_norm == QkNormRule::after_rope)
            d_.norms.back().n_params = uint64_t(d);
    }
}

}  // namespace quantplug::engine
