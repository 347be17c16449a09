#include "gptq_backend/gptq_format.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string_view>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/tools/code_bits.h"
#include "gptq_backend/config.h"
#include "gptq_backend/layout.h"
#include "gptq_backend/zeros.h"
#include "kernels/half.h"

namespace quantplug::gptq {

using engine::Code;
using engine::fail;
using engine::ModelFolder;
using engine::StoredType;
using engine::TensorInfo;

namespace {

constexpr std::string_view weight_suffix = ".qweight";

std::string module_of(const TensorInfo& qweight) {
    return qweight.name.substr(0, qweight.name.size() - weight_suffix.size());
}

/// Zero points of the groups that have rows, empty where all are 2^(bits-1).
std::vector<uint8_t> select_zeros(const std::vector<uint8_t>& stored, const Layout& layout, const RowOrder& order) {
    const size_t n = size_t(layout.n);
    std::vector<uint8_t> zeros;
    zeros.reserve(order.groups.size() * n);
    for (const int32_t group : order.stored_group)
        zeros.insert(zeros.end(), stored.begin() + std::ptrdiff_t(size_t(group) * n),
                     stored.begin() + std::ptrdiff_t((size_t(group) + 1) * n));
    const uint8_t middle = uint8_t(1u << (layout.bits - 1));
    if (std::all_of(zeros.begin(), zeros.end(), [&](uint8_t zero) { return zero == middle; })) zeros.clear();
    return zeros;
}

/// Scales of the groups that have rows, as FP16 bits.
std::vector<uint16_t> read_scales(const ModelFolder& folder, const Layout& layout, const RowOrder& order) {
    const std::vector<float> stored = folder.read_f32(layout.scales->name);
    const size_t n = size_t(layout.n);
    std::vector<uint16_t> scales;
    scales.reserve(order.groups.size() * n);
    for (const int32_t group : order.stored_group)
        for (size_t column = 0; column < n; ++column) {
            const float value = stored[size_t(group) * n + column];
            const uint16_t half = kernels::f32_to_f16(value);
            if ((half & 0x7c00u) == 0x7c00u)
                fail(Code::invalid_argument, where(folder, *layout.scales), ": the scale ", value, " of group ", group,
                     ", column ", column, " does not fit FP16; quantise the model again");
            scales.push_back(half);
        }
    return scales;
}

/// Empty where absent or all zero: writers add such a bias to layers that have none.
std::vector<float> read_bias(const ModelFolder& folder, const Layout& layout) {
    if (!layout.bias) return {};
    std::vector<float> bias = folder.read_f32(layout.bias->name, layout.n);
    if (std::all_of(bias.begin(), bias.end(), [](float value) { return value == 0.0f; })) bias.clear();
    return bias;
}

/// What read_codes needs, kept alive by the source.
struct Codes {
    std::vector<uint32_t> words;  // (ceil(K*bits/32), N), rows in input order
    std::vector<int32_t> perm;
    int32_t bits = 0, k = 0, n = 0;
    bool planar = false;

    kernels::Status read(int32_t row0, int32_t rows, uint8_t* out) const {
        if (row0 < 0 || rows < 0 || rows > k - row0)
            return kernels::Status::error(
                kernels::invalid_argument,
                engine::concat("codes of ", rows, " rows from ", row0, " were asked for, the matrix has ", k));
        for (int32_t r = 0; r < rows; ++r) {
            const int64_t input = perm.empty() ? row0 + r : perm[size_t(row0 + r)];
            engine::get_code_row(planar ? engine::planar_bits(bits, input) : engine::stream_bits(bits, input),
                                 words.data(), n, {out + int64_t(r) * n, size_t(n)});
        }
        return {};
    }
};

/// Inputs of a matrix: its g_idx, else what its width makes of the rows of qweight.
int64_t input_features(const ModelFolder& folder, const Config& config, const TensorInfo& qweight) {
    const std::string module = module_of(qweight);
    if (qweight.shape[0] <= 0 || qweight.shape[1] <= 0 || qweight.shape[0] > INT32_MAX || qweight.shape[1] > INT32_MAX)
        fail(Code::invalid_argument, where(folder, qweight), " is ", qweight.describe(), ", the size of no matrix");
    if (folder.has(module + ".g_idx"))
        return folder.tensor(module + ".g_idx", std::array<int64_t, 1>{-1}, std::array{StoredType::i32}).shape[0];
    const TensorInfo& qzeros =
        folder.tensor(module + ".qzeros", std::array<int64_t, 2>{-1, -1}, std::array{StoredType::i32});
    int32_t bits = 0;
    for (int32_t b = 2; b <= 8; ++b)
        if ((qweight.shape[1] * b + 31) / 32 == qzeros.shape[1] && (bits == 0 || b == config.bits)) bits = b;
    if (bits == 0)
        fail(Code::invalid_argument, where(folder, qzeros), " is ", qzeros.describe(), ", which fits no width of ",
             qweight.name, "; download the file again");
    return qweight.shape[0] * 32 / bits;
}

}  // namespace

engine::Probe GptqFormat::probe(const ModelFolder& folder) const {
    if (std::string reason = engine::unsupported_format(folder); !reason.empty()) return {0, "", reason};
    const auto& tensors = folder.tensors();
    const auto qweight = std::find_if(tensors.begin(), tensors.end(),
                                      [](const TensorInfo& t) { return t.name.ends_with(weight_suffix); });
    if (qweight == tensors.end()) {
        if (folder.has_suffix(".q_weight"))
            return {
                0, "",
                engine::concat(folder.name(),
                               " holds EXL2 matrices (.q_weight) and no GPTQ ones (.qweight): use the exl2 backend")};
        return {0, "",
                engine::concat(folder.name(),
                               " holds no quantised tensors (.qweight): the exl2 backend loads plain folders")};
    }
    try {
        read_config(folder);
    } catch (const engine::Error& error) {
        return {0, "", error.what()};
    }
    const TensorInfo* scales = folder.find(module_of(*qweight) + ".scales");
    if (scales && scales->shape.size() == 2 && qweight->shape.size() == 2 && scales->shape[1] != qweight->shape[1])
        return {0, "",
                engine::concat(where(folder, *qweight), " is ", qweight->describe(), " beside scales of ",
                               scales->describe(), ": it is packed along the outputs, as AWQ does, which is not GPTQ")};
    return {90, "gptq", ""};
}

bool GptqFormat::has(const ModelFolder& folder, const std::string& module) const {
    return folder.has(module + std::string(weight_suffix));
}

std::vector<engine::StoredModule> GptqFormat::modules(const ModelFolder& folder) const {
    const Config config = read_config(folder);
    std::vector<engine::StoredModule> out;
    for (const TensorInfo& tensor : folder.tensors()) {
        if (!tensor.name.ends_with(weight_suffix)) continue;
        folder.tensor(tensor.name, std::array<int64_t, 2>{-1, -1}, std::array{StoredType::i32});
        const int64_t k = input_features(folder, config, tensor), n = tensor.shape[1];
        if (k <= 0 || k > INT32_MAX || n <= 0 || n > INT32_MAX)
            fail(Code::invalid_argument, where(folder, tensor), " is ", tensor.describe(), " with ", k,
                 " inputs, which is no size of a matrix; download the file again");
        out.push_back({module_of(tensor), int32_t(k), int32_t(n)});
    }
    return out;
}

engine::StoredMatrix GptqFormat::describe(const ModelFolder& folder, const std::string& module, int32_t in_features,
                                          int32_t out_features) const {
    const Config config = read_config(folder);
    const Layout layout = read_layout(folder, config, module, in_features, out_features);
    const RowOrder order = read_row_order(folder, config, layout);
    engine::StoredMatrix out;
    out.shape.in_features = in_features;
    out.shape.out_features = out_features;
    out.shape.groups = order.groups;
    out.shape.has_zeros = !select_zeros(read_zeros(folder, config, layout), layout, order).empty();
    out.shape.has_perm = !order.perm.empty();
    out.shape.has_bias = !read_bias(folder, layout).empty();
    out.stored_bytes = layout.bytes;
    return out;
}

kernels::QuantSource GptqFormat::open(const ModelFolder& folder, const std::string& module, int32_t in_features,
                                      int32_t out_features) const {
    const Config config = read_config(folder);
    const Layout layout = read_layout(folder, config, module, in_features, out_features);
    const RowOrder order = read_row_order(folder, config, layout);
    kernels::QuantSource source;
    source.in_features = in_features;
    source.out_features = out_features;
    source.groups = order.groups;
    source.perm = order.perm;
    source.scales = read_scales(folder, layout, order);
    source.zeros = select_zeros(read_zeros(folder, config, layout), layout, order);
    source.bias = read_bias(folder, layout);
    auto codes = std::make_shared<Codes>();
    codes->words = folder.read_values<uint32_t>(layout.qweight->name);
    codes->perm = order.perm;
    codes->bits = layout.bits;
    codes->k = in_features;
    codes->n = out_features;
    codes->planar = layout.planar;
    source.read_codes = [codes](int32_t row0, int32_t rows, uint8_t* out) { return codes->read(row0, rows, out); };
    return source;
}

std::unique_ptr<engine::Format> make_format() { return std::make_unique<GptqFormat>(); }

}  // namespace quantplug::gptq
