#include "exl2_backend/exl2_format.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string_view>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/tools/code_bits.h"
#include "exl2_backend/layout.h"
#include "kernels/half.h"

namespace quantplug::exl2 {

using engine::Code;
using engine::fail;
using engine::ModelFolder;
using engine::StoredType;
using engine::TensorInfo;

namespace {

constexpr std::string_view weight_suffix = ".q_weight";

bool is_float(StoredType type) {
    return type == StoredType::f16 || type == StoredType::bf16 || type == StoredType::f32;
}

/// The first 2-D `.weight`, or null.
const TensorInfo* first_plain_matrix(const ModelFolder& folder) {
    for (const TensorInfo& tensor : folder.tensors())
        if (tensor.shape.size() == 2 && tensor.name.ends_with(".weight")) return &tensor;
    return nullptr;
}

/// config.json's vocabulary, 0 where it says none.
int64_t vocabulary(const ModelFolder& folder) {
    const engine::JsonObject config = folder.config();
    for (const char* key : {"text_config.vocab_size", "vocab_size"})
        if (const auto value = config.integer(key)) return *value;
    return 0;
}

/// Scales (G, n_out) of one matrix: RN16((c+1)^2 * RN16(q_scale_max / 256)).
std::vector<uint16_t> read_scales(const ModelFolder& folder, const Layout& layout, int32_t n_out) {
    const size_t n_groups = layout.groups.size(), n_words = size_t(layout.n) / 8;
    const std::vector<uint16_t> maxima = folder.read_values<uint16_t>(layout.q_scale_max->name);
    const std::vector<uint32_t> codes = folder.read_values<uint32_t>(layout.q_scale->name);
    std::vector<uint16_t> scales(n_groups * size_t(n_out));
    for (size_t g = 0; g < n_groups; ++g) {
        if ((maxima[g] & 0x7c00u) == 0x7c00u)
            fail(Code::invalid_argument, where(folder, *layout.q_scale_max), ": the scale of group ", g,
                 " is NaN or infinite; download the file again or convert the model again");
        const float unit = kernels::f16_to_f32(kernels::f32_to_f16(kernels::f16_to_f32(maxima[g]) / 256.0f));
        std::array<uint16_t, 16> by_code;
        for (size_t c = 0; c < 16; ++c) by_code[c] = kernels::f32_to_f16(float((c + 1) * (c + 1)) * unit);
        for (size_t n = 0; n < size_t(n_out); ++n)
            scales[g * size_t(n_out) + n] = by_code[(codes[g * n_words + n / 8] >> (4 * (n % 8))) & 15u];
    }
    return scales;
}

/// What read_codes needs, kept alive by the source.
struct Codes {
    std::vector<Group> groups;
    std::vector<uint32_t> words;  // (R, n_stored)
    int64_t n_stored = 0, n_out = 0;

    kernels::Status read(int32_t row0, int32_t rows, uint8_t* out) const {
        const auto next = std::upper_bound(groups.begin(), groups.end(), row0,
                                           [](int32_t row, const Group& g) { return row < g.row0; });
        if (row0 < 0 || rows < 0 || next == groups.begin())
            return kernels::Status::error(kernels::invalid_argument,
                                          engine::concat("codes of rows ", row0, " .. do not exist"));
        const Group& group = *(next - 1);
        if (rows > group.row0 + group.rows - row0)
            return kernels::Status::error(
                kernels::invalid_argument,
                engine::concat("codes of rows ", row0, " .. ", row0 + rows - 1, " were asked for across two groups"));
        for (int32_t r = 0; r < rows; ++r)
            engine::get_code_row(engine::stream_bits(group.bits, row0 - group.row0 + r),
                                 words.data() + group.start * n_stored, n_stored,
                                 {out + int64_t(r) * n_out, size_t(n_out)});
        return {};
    }
};

std::vector<kernels::QuantGroup> kernel_groups(const std::vector<Group>& groups) {
    std::vector<kernels::QuantGroup> out;
    out.reserve(groups.size());
    for (const Group& group : groups) out.push_back({group.bits, group.rows});
    return out;
}

}  // namespace

engine::Probe Exl2Format::probe(const ModelFolder& folder) const {
    if (folder.has_suffix(weight_suffix)) return {90, "exl2", ""};
    if (std::string reason = engine::unsupported_format(folder); !reason.empty()) return {0, "", reason};
    if (folder.has_suffix(".qweight"))
        return {0, "",
                engine::concat(folder.name(),
                               " holds GPTQ matrices (.qweight) and no EXL2 ones (.q_weight): use the gptq backend")};
    const TensorInfo* matrix = first_plain_matrix(folder);
    if (!matrix)
        return {0, "",
                engine::concat(folder.name(), " holds neither EXL2 matrices (.q_weight) nor plain ones (.weight)")};
    if (!is_float(matrix->type))
        return {0, "",
                engine::concat(where(folder, *matrix), " is ", matrix->describe(),
                               ", where a plain folder has F16, BF16 or F32")};
    return {50, "plain", ""};
}

bool Exl2Format::has(const ModelFolder& folder, const std::string& module) const {
    return folder.has(module + std::string(weight_suffix));
}

std::vector<engine::StoredModule> Exl2Format::modules(const ModelFolder& folder) const {
    const int64_t n_vocab = vocabulary(folder);
    std::vector<engine::StoredModule> out;
    for (const TensorInfo& tensor : folder.tensors()) {
        if (!tensor.name.ends_with(weight_suffix)) continue;
        const std::string module = tensor.name.substr(0, tensor.name.size() - weight_suffix.size());
        const TensorInfo& inverse =
            folder.tensor(module + ".q_invperm", std::array<int64_t, 1>{-1}, std::array{StoredType::i32});
        int64_t n = tensor.shape.size() == 2 ? tensor.shape[1] : 0;
        if (inverse.shape[0] > INT32_MAX || n <= 0 || n > INT32_MAX)
            fail(Code::invalid_argument, where(folder, tensor), " is ", tensor.describe(), " with ", inverse.shape[0],
                 " inputs, which is no size of a matrix; download the file again");
        // Only a head is padded: to the next multiple of 32.
        const bool in_layer = module.find("layers.") != std::string::npos;
        if (!in_layer && n_vocab > 0 && n_vocab <= n && n - n_vocab < 32) n = n_vocab;
        out.push_back({module, int32_t(inverse.shape[0]), int32_t(n)});
    }
    return out;
}

engine::StoredMatrix Exl2Format::describe(const ModelFolder& folder, const std::string& module, int32_t in_features,
                                          int32_t out_features) const {
    const Layout layout = read_layout(folder, module, in_features, out_features);
    engine::StoredMatrix out;
    out.shape.in_features = in_features;
    out.shape.out_features = out_features;
    out.shape.groups = kernel_groups(layout.groups);
    out.shape.has_perm = !read_perm(folder, layout).empty();
    out.shape.has_bias = layout.bias != nullptr;
    out.stored_bytes = layout.bytes;
    return out;
}

kernels::QuantSource Exl2Format::open(const ModelFolder& folder, const std::string& module, int32_t in_features,
                                      int32_t out_features) const {
    const Layout layout = read_layout(folder, module, in_features, out_features);
    kernels::QuantSource source;
    source.in_features = in_features;
    source.out_features = out_features;
    source.groups = kernel_groups(layout.groups);
    source.perm = read_perm(folder, layout);
    source.scales = read_scales(folder, layout, out_features);
    if (layout.bias) {
        source.bias = folder.read_f32(layout.bias->name, layout.n);
        source.bias.resize(size_t(out_features));
    }
    auto codes = std::make_shared<Codes>();
    codes->groups = layout.groups;
    codes->words = folder.read_values<uint32_t>(layout.q_weight->name);
    codes->n_stored = layout.n;
    codes->n_out = out_features;
    source.read_codes = [codes](int32_t row0, int32_t rows, uint8_t* out) { return codes->read(row0, rows, out); };
    return source;
}

std::unique_ptr<engine::Format> make_format() { return std::make_unique<Exl2Format>(); }

}  // namespace quantplug::exl2
