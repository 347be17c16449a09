#include "gptq_backend/rtn.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/tools/code_bits.h"
#include "engine/tools/convert.h"
#include "engine/tools/parallel.h"
#include "kernels/half.h"
#include "kernels/version.h"

namespace quantplug::gptq {

using engine::Code;
using engine::fail;
using engine::StoredType;
using engine::TensorDecl;
using engine::WeightMatrix;

namespace {

constexpr int32_t tile_columns = 32;  // a multiple of 32 zero points fills whole words

struct Shape {
    int64_t k, n, group_size, n_groups;
    Shape(int32_t k_, int32_t n_, const RtnOptions& options)
        : k(k_),
          n(n_),
          group_size(options.group_size < 0 ? k_ : options.group_size),
          n_groups((k + group_size - 1) / group_size) {}
};

/// Scale and zero point of one column of a group.
struct Column {
    uint16_t scale = 0;  // FP16 bits
    float zero = 0;
};
Column choose_scale(float lowest, float highest, const RtnOptions& options) {
    float low = std::min(0.0f, lowest), high = std::max(0.0f, highest);
    if (options.sym) {
        high = std::max(-low, high);
        low = -high;
    }
    if (low == 0.0f && high == 0.0f) {
        low = -1.0f;
        high = 1.0f;
    }
    const float levels = float((1 << options.bits) - 1);
    const float scale = high / levels - low / levels;
    Column column;
    column.scale = kernels::f32_to_f16(scale);
    column.zero = options.sym ? float(1 << (options.bits - 1)) : std::clamp(std::nearbyint(-low / scale), 1.0f, levels);
    return column;
}

class RtnQuantizer final : public engine::MatrixQuantizer {
 public:
    explicit RtnQuantizer(const RtnOptions& options) : options_(options) {}

    bool quantizes_head() const override { return false; }
    bool splits_fused() const override { return false; }
    int32_t bits(bool) const override { return options_.bits; }

    std::vector<TensorDecl> layout(const std::string& module, int32_t k, int32_t n, bool has_bias,
                                   bool) const override {
        if (k % 32 != 0 || n % 32 != 0)
            fail(Code::invalid_argument, "matrix ", module, " has ", k, " inputs and ", n,
                 " outputs, where GPTQ needs multiples of 32: this model cannot become GPTQ");
        const Shape shape(k, n, options_);
        std::vector<TensorDecl> out{
            {module + ".qweight", StoredType::i32, {shape.k * options_.bits / 32, shape.n}},
            {module + ".qzeros", StoredType::i32, {shape.n_groups, shape.n * options_.bits / 32}},
            {module + ".scales", StoredType::f16, {shape.n_groups, shape.n}},
            {module + ".g_idx", StoredType::i32, {shape.k}}};
        if (has_bias) out.push_back({module + ".bias", StoredType::f16, {shape.n}});
        return out;
    }

    std::vector<std::vector<std::byte>> quantize(const WeightMatrix& weight, std::span<const float> bias, bool,
                                                 const engine::MatrixProgress& progress) const override {
        const Packed packed = round_to_nearest(weight, options_, progress);
        std::vector<std::vector<std::byte>> out{engine::value_bytes(packed.qweight), engine::value_bytes(packed.qzeros),
                                                engine::value_bytes(packed.scales), engine::value_bytes(packed.g_idx)};
        if (!bias.empty()) out.push_back(engine::f16_bias(bias, weight.n, weight.name));
        return out;
    }

    engine::Json quantization_config() const override {
        // damp_percent has no meaning here, but readers refuse a configuration without a share between 0 and 1.
        return {{"bits", options_.bits},   {"group_size", options_.group_size},
                {"damp_percent", 0.01},    {"desc_act", false},
                {"static_groups", false},  {"sym", options_.sym},
                {"true_sequential", true}, {"lm_head", false},
                {"quant_method", "gptq"},  {"checkpoint_format", "gptq"},
                {"pack_dtype", "int32"},   {"meta", {{"quantizer", {"quantplug:" QP_KERNELS_VERSION}}}}};
    }
    bool writes_quantize_config_file() const override { return true; }
    std::string file_stem() const override { return "model"; }
    bool writes_index() const override { return true; }

 private:
    RtnOptions options_;
};

}  // namespace

Packed round_to_nearest(const WeightMatrix& weight, const RtnOptions& options, const engine::MatrixProgress& progress) {
    const Shape shape(weight.k, weight.n, options);
    const int32_t bits = options.bits;
    const int64_t zero_words = shape.n * bits / 32;
    Packed out;
    out.qweight.resize(size_t(shape.k * bits / 32 * shape.n));
    out.qzeros.resize(size_t(shape.n_groups * zero_words));
    out.scales.resize(size_t(shape.n_groups * shape.n));
    out.g_idx.resize(size_t(shape.k));
    std::vector<int32_t> all_rows(size_t(shape.k), 0);
    for (int64_t row = 0; row < shape.k; ++row) {
        all_rows[size_t(row)] = int32_t(row);
        out.g_idx[size_t(row)] = int32_t(row / shape.group_size);
    }

    const int64_t n_tiles = shape.n / tile_columns, n_tasks = shape.n_groups * n_tiles;
    const float levels = float((1 << bits) - 1);
    engine::parallel_for(
        n_tasks,
        [&](int64_t task) {
            const int64_t group = task / n_tiles, row0 = group * shape.group_size, n0 = task % n_tiles * tile_columns;
            const size_t rows = size_t(std::min(shape.group_size, shape.k - row0));
            std::vector<float> x(rows * tile_columns);
            weight.tile(std::span(all_rows).subspan(size_t(row0), rows), int32_t(n0), tile_columns, x.data(),
                        tile_columns);
            float scale[tile_columns], zero[tile_columns];
            for (int32_t c = 0; c < tile_columns; ++c) {
                float lowest = 0, highest = 0;
                for (size_t r = 0; r < rows; ++r) {
                    lowest = std::min(lowest, x[r * tile_columns + size_t(c)]);
                    highest = std::max(highest, x[r * tile_columns + size_t(c)]);
                }
                const Column column = choose_scale(lowest, highest, options);
                if ((column.scale & 0x7c00u) == 0x7c00u)
                    fail(Code::out_of_range, "matrix ", weight.name, ": the weights of output ", n0 + c,
                         " are too large for an FP16 scale");
                out.scales[size_t(group * shape.n + n0 + c)] = column.scale;
                scale[c] = kernels::f16_to_f32(column.scale);
                zero[c] = column.zero;
                engine::put_code(engine::stream_bits(bits, n0 + c), uint32_t(column.zero) - 1,
                                 out.qzeros.data() + group * zero_words);
            }
            uint8_t codes[tile_columns];
            for (size_t r = 0; r < rows; ++r) {
                for (int32_t c = 0; c < tile_columns; ++c) {
                    const float step = scale[c] == 0.0f ? 0.0f : x[r * tile_columns + size_t(c)] / scale[c];
                    codes[c] = uint8_t(std::nearbyint(std::clamp(step, -zero[c], levels - zero[c])) + zero[c]);
                }
                engine::put_code_row(engine::stream_bits(bits, row0 + int64_t(r)), codes, out.qweight.data() + n0,
                                     shape.n);
            }
        },
        [&](int64_t finished) {
            if (progress) progress(double(finished) / double(n_tasks));
        });
    return out;
}

std::unique_ptr<engine::MatrixQuantizer> make_quantizer(const engine::QuantizeRequest& request) {
    engine::check_method(request.method, {"rtn"});
    engine::check_choice("bits", request.bits, "gptq", {2, 3, 4, 8});
    engine::check_choice("group_size", request.group_size, "gptq", {32, 64, 128, -1});
    return std::make_unique<RtnQuantizer>(RtnOptions{request.bits, request.group_size, request.sym});
}

const char* quantize_arguments() {
    return R"({"in": {"type": "string", "help": "the plain folder"},)"
           R"( "out": {"type": "string", "help": "the GPTQ folder to make; absent or empty"},)"
           R"( "method": {"type": "string", "help": "rtn: round to nearest, without calibration", "default": "rtn"},)"
           R"( "bits": {"type": "integer", "help": "2, 3, 4 or 8", "default": 4},)"
           R"( "group_size": {"type": "integer", "help": "32, 64 or 128 rows share a scale, -1: all", "default": 128},)"
           R"( "sym": {"type": "boolean", "help": "zero points in the middle of the range", "default": true}})";
}

}  // namespace quantplug::gptq
