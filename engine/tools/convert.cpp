#include "engine/tools/convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "engine/base/error.h"
#include "kernels/half.h"

namespace quantplug::engine {

namespace {

constexpr uint64_t piece_values = uint64_t{1} << 18;

}  // namespace

bool is_float(StoredType type) {
    return type == StoredType::f16 || type == StoredType::bf16 || type == StoredType::f32;
}

void to_f32(StoredType type, std::span<const std::byte> stored, std::span<float> out) {
    if (type == StoredType::f32) {
        if (!out.empty()) std::memcpy(out.data(), stored.data(), out.size_bytes());
        return;
    }
    const bool is_half = type == StoredType::f16;
    for (size_t i = 0; i < out.size(); ++i) {
        uint16_t bits;
        std::memcpy(&bits, stored.data() + 2 * i, 2);
        out[i] = is_half ? kernels::f16_to_f32(bits) : kernels::bf16_to_f32(bits);
    }
}

bool from_f32(std::span<const float> values, StoredType type, std::span<std::byte> out) {
    if (type == StoredType::f32) {
        if (!values.empty()) std::memcpy(out.data(), values.data(), values.size_bytes());
        return true;
    }
    bool fits = true;
    for (size_t i = 0; i < values.size(); ++i) {
        const bool is_half = type == StoredType::f16;
        const uint16_t bits = is_half ? kernels::f32_to_f16(values[i]) : kernels::f32_to_bf16(values[i]);
        const uint16_t infinity = is_half ? 0x7c00u : 0x7f80u;
        fits = fits && ((bits & 0x7fffu) != infinity || std::isinf(values[i]));
        std::memcpy(out.data() + 2 * i, &bits, 2);
    }
    return fits;
}

std::vector<std::byte> f16_bias(std::span<const float> bias, int64_t count, const std::string& module) {
    std::vector<uint16_t> halves(size_t(std::max(count, int64_t(bias.size()))));
    if (!from_f32(bias, StoredType::f16, std::as_writable_bytes(std::span(halves).first(bias.size()))))
        fail(Code::out_of_range, "tensor ", module, ".bias holds values that do not fit FP16");
    return value_bytes(halves);
}

void copy_tensor(const ModelFolder& folder, const TensorInfo& tensor, StoredType type, ShardedWriter& writer,
                 const std::string& renamed) {
    const std::string& name = renamed.empty() ? tensor.name : renamed;
    const bool same = type == tensor.type;
    const uint64_t from = size_of(tensor.type), to = size_of(type), count = tensor.count();
    if (!same && (!is_float(tensor.type) || !is_float(type)))
        fail(Code::internal, "tensor ", tensor.name, " of type ", tensor.type_name, " was to become ", name_of(type));
    const uint64_t piece = std::min(count, piece_values);
    std::vector<std::byte> stored(piece * from), converted(same ? 0 : piece * to);
    std::vector<float> values(same ? 0 : piece);
    for (uint64_t at = 0; at < count; at += piece) {
        const uint64_t n = std::min(piece, count - at);
        const std::span<std::byte> in(stored.data(), n * from);
        folder.read(tensor, at * from, in);
        if (same) {
            writer.write(name, in);
            continue;
        }
        const std::span<float> floats(values.data(), n);
        to_f32(tensor.type, in, floats);
        const std::span<std::byte> out(converted.data(), n * to);
        if (!from_f32(floats, type, out))
            fail(Code::out_of_range, "tensor ", tensor.name, " in ", folder.file_of(tensor), " holds values that ",
                 name_of(type), " cannot: write the folder as F32");
        writer.write(name, out);
    }
}

std::string json_text(const Json& document) {
    return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

void set_dtype(Json& config, std::string_view name) {
    bool found = false;
    for (const char* key : {"torch_dtype", "dtype"}) {
        if (!config.contains(key)) continue;
        config[key] = name;
        found = true;
    }
    if (!found) config["torch_dtype"] = name;
}

}  // namespace quantplug::engine
