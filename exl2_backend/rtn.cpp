#include "exl2_backend/rtn.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/tools/code_bits.h"
#include "engine/tools/convert.h"
#include "engine/tools/parallel.h"
#include "exl2_backend/scale_search.h"
#include "kernels/half.h"

namespace quantplug::exl2 {

using engine::Code;
using engine::fail;
using engine::StoredType;
using engine::TensorDecl;
using engine::WeightMatrix;

namespace {

int32_t padded(int32_t n) { return (n + 31) / 32 * 32; }

/// A group at work.
struct Work {
    int32_t bits = 0, row0 = 0, rows = 0;
    int64_t start = 0;  // word row
    ScaleGrid grid;
    GroupScales scales;
};

/// A tile of one group: up to 64 columns, zeros beyond the last.
struct Tile {
    Tile(const WeightMatrix& weight, const Plan& plan, const Work& work, int32_t index)
        : n0(index * tile_columns),
          columns(std::min(tile_columns, weight.n - n0)),
          x(size_t(work.rows) * tile_columns, 0.0f) {
        weight.tile(std::span(plan.perm).subspan(size_t(work.row0), size_t(work.rows)), n0, columns, x.data(),
                    tile_columns);
    }
    int32_t n0, columns;
    std::vector<float> x;  // (rows, 64)
};

class RtnQuantizer final : public engine::MatrixQuantizer {
 public:
    explicit RtnQuantizer(const engine::QuantizeRequest& request)
        : bits_(request.bits), head_bits_(request.head_bits), group_size_(request.group_size) {}

    bool quantizes_head() const override { return true; }
    bool splits_fused() const override { return true; }
    int32_t bits(bool is_head) const override { return is_head ? head_bits_ : bits_; }

    std::vector<TensorDecl> layout(const std::string& module, int32_t k, int32_t n, bool has_bias,
                                   bool is_head) const override {
        if (k % 32 != 0)
            fail(Code::invalid_argument, "matrix ", module, " has ", k,
                 " inputs, where EXL2 needs a multiple of 32: this model cannot become EXL2");
        if (n > INT32_MAX - 31)
            fail(Code::invalid_argument, "matrix ", module, " has ", n, " outputs, which is too many");
        const int64_t n_groups = (int64_t(k) + group_size_ - 1) / group_size_, columns = padded(n);
        const int64_t word_rows = int64_t(k) * bits(is_head) / 32;
        if ((n_groups - 1) * group_size_ * bits(is_head) / 32 > 65535)
            fail(Code::invalid_argument, "matrix ", module, " has ", k,
                 " inputs, more than an EXL2 group table can hold at ", bits(is_head), " bits");
        std::vector<TensorDecl> out{{module + ".q_weight", StoredType::i32, {word_rows, columns}},
                                    {module + ".q_scale", StoredType::i32, {n_groups, columns / 8}},
                                    {module + ".q_invperm", StoredType::i32, {k}},
                                    {module + ".q_scale_max", StoredType::f16, {n_groups}},
                                    {module + ".q_groups", StoredType::i16, {2 * n_groups}}};
        if (has_bias) out.push_back({module + ".bias", StoredType::f16, {columns}});
        return out;
    }

    std::vector<std::vector<std::byte>> quantize(const WeightMatrix& weight, std::span<const float> bias, bool is_head,
                                                 const engine::MatrixProgress& progress) const override {
        const Packed packed = round_to_nearest(weight, uniform_plan(weight.k, bits(is_head), group_size_), progress);
        std::vector<std::vector<std::byte>> out{
            engine::value_bytes(packed.q_weight), engine::value_bytes(packed.q_scale),
            engine::value_bytes(packed.q_invperm), engine::value_bytes(packed.q_scale_max),
            engine::value_bytes(packed.q_groups)};
        if (!bias.empty()) out.push_back(engine::f16_bias(bias, padded(weight.n), weight.name));
        return out;
    }

    engine::Json quantization_config() const override {
        return {{"quant_method", "exl2"},
                {"version", "0.3.2"},
                {"bits", double(bits_)},
                {"head_bits", head_bits_},
                {"calibration", {{"rows", 0}, {"length", 0}, {"dataset", "none (round to nearest)"}}}};
    }
    bool writes_quantize_config_file() const override { return false; }
    std::string file_stem() const override { return "output"; }
    bool writes_index() const override { return false; }

 private:
    int32_t bits_, head_bits_, group_size_;
};

}  // namespace

Plan uniform_plan(int32_t k, int32_t bits, int32_t group_size) {
    Plan plan;
    for (int32_t row = 0; row < k; row += group_size) plan.groups.push_back({bits, std::min(group_size, k - row)});
    plan.perm.resize(size_t(k));
    for (int32_t row = 0; row < k; ++row) plan.perm[size_t(row)] = row;
    return plan;
}

Packed round_to_nearest(const WeightMatrix& weight, const Plan& plan, const engine::MatrixProgress& progress) {
    const int64_t n_padded = padded(weight.n);
    const int32_t n_tiles = (weight.n + tile_columns - 1) / tile_columns;
    std::vector<Work> works;
    int64_t words = 0;
    int32_t row = 0;
    for (const kernels::QuantGroup& group : plan.groups) {
        works.push_back({group.bits, row, group.rows, words, {}, {}});
        words += int64_t(group.rows) * group.bits / 32;
        row += group.rows;
    }
    const size_t n_groups = works.size();
    Packed out;
    out.q_weight.resize(size_t(words * n_padded));
    out.q_scale.resize(n_groups * size_t(n_padded / 8));

    // Tasks are tiles of groups; each writes its own columns.
    const int64_t n_tasks = int64_t(n_groups) * n_tiles;
    std::vector<float> maxima(n_groups * size_t(weight.n));
    engine::parallel_for(n_tasks, [&](int64_t task) {
        const size_t g = size_t(task / n_tiles);
        const Tile tile(weight, plan, works[g], int32_t(task % n_tiles));
        float* to = maxima.data() + g * size_t(weight.n) + tile.n0;
        for (int32_t r = 0; r < works[g].rows; ++r)
            for (int32_t c = 0; c < tile.columns; ++c)
                to[c] = std::max(to[c], std::fabs(tile.x[size_t(r * tile_columns + c)]));
    });
    for (size_t g = 0; g < n_groups; ++g)
        works[g].grid = make_grid(std::span(maxima).subspan(g * size_t(weight.n), size_t(weight.n)), works[g].bits);

    std::vector<std::array<double, grid_size>> errors(size_t(n_tasks), std::array<double, grid_size>{});
    const auto poll = [&](int64_t finished) {
        if (progress) progress(double(finished) / double(n_tasks));
    };
    engine::parallel_for(
        n_tasks,
        [&](int64_t task) {
            const Work& work = works[size_t(task / n_tiles)];
            const Tile tile(weight, plan, work, int32_t(task % n_tiles));
            std::array<float, tile_columns> steps;
            steps.fill(1.0f);
            std::copy_n(work.grid.steps.begin() + tile.n0, tile.columns, steps.begin());
            add_errors(tile.x.data(), work.rows, steps.data(), work.grid.largest, work.bits, errors[size_t(task)]);
        },
        poll);

    for (size_t g = 0; g < n_groups; ++g) {
        Work& work = works[g];
        std::array<double, grid_size> sums{};
        for (int32_t tile = 0; tile < n_tiles; ++tile)
            for (size_t i = 0; i < sums.size(); ++i) sums[i] += errors[g * size_t(n_tiles) + size_t(tile)][i];
        work.scales = choose_scales(work.grid, sums);
        if ((work.scales.stored_maximum & 0x7c00u) == 0x7c00u)
            fail(Code::out_of_range, "matrix ", weight.name, ": its weights in rows ", work.row0, " .. ",
                 work.row0 + work.rows - 1, " are too large for FP16 scales");
        out.q_groups.push_back(uint16_t(work.bits));
        out.q_groups.push_back(uint16_t(work.start));
        out.q_scale_max.push_back(work.scales.stored_maximum);
        uint32_t* scale_words = out.q_scale.data() + g * size_t(n_padded / 8);
        for (int64_t n = 0; n < n_padded; ++n) {
            const uint32_t code = n < weight.n ? uint32_t(work.grid.codes[size_t(n)]) - 1 : 15;
            scale_words[n / 8] |= code << (4 * (n % 8));
        }
    }

    engine::parallel_for(n_tasks, [&](int64_t task) {
        const Work& work = works[size_t(task / n_tiles)];
        const Tile tile(weight, plan, work, int32_t(task % n_tiles));
        const bool last = tile.n0 + tile.columns == weight.n;
        const size_t columns = size_t(last ? n_padded - tile.n0 : tile.columns);
        std::array<uint8_t, tile_columns> codes;
        codes.fill(uint8_t(1 << (work.bits - 1)));
        for (int32_t r = 0; r < work.rows; ++r) {
            for (int32_t c = 0; c < tile.columns; ++c)
                codes[size_t(c)] =
                    round_to_code(tile.x[size_t(r * tile_columns + c)],
                                  kernels::f16_to_f32(work.scales.scales[size_t(tile.n0 + c)]), work.bits);
            engine::put_code_row(engine::stream_bits(work.bits, r), std::span(codes).first(columns),
                                 out.q_weight.data() + work.start * n_padded + tile.n0, n_padded);
        }
    });
    out.q_invperm.resize(plan.perm.size());
    for (size_t r = 0; r < plan.perm.size(); ++r) out.q_invperm[size_t(plan.perm[r])] = int32_t(r);
    return out;
}

std::unique_ptr<engine::MatrixQuantizer> make_quantizer(const engine::QuantizeRequest& request) {
    engine::check_method(request.method, {"rtn"});
    engine::check_choice("bits", request.bits, "exl2", {2, 3, 4, 5, 6, 8});
    engine::check_choice("head_bits", request.head_bits, "exl2", {2, 3, 4, 5, 6, 8});
    engine::check_choice("group_size", request.group_size, "exl2", {32, 64, 128});
    return std::make_unique<RtnQuantizer>(request);
}

const char* quantize_arguments() {
    return R"({"in": {"type": "string", "help": "the plain folder"},)"
           R"( "out": {"type": "string", "help": "the EXL2 folder to make; absent or empty"},)"
           R"( "method": {"type": "string", "help": "rtn: round to nearest, without calibration", "default": "rtn"},)"
           R"( "bits": {"type": "integer", "help": "2, 3, 4, 5, 6 or 8", "default": 4},)"
           R"( "group_size": {"type": "integer", "help": "32, 64 or 128 rows share a scale", "default": 128},)"
           R"( "head_bits": {"type": "integer", "help": "2, 3, 4, 5, 6 or 8, for the output head", "default": 6}})";
}

}  // namespace quantplug::exl2
