#include "engine/tools/bench_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/model/graph.h"
#include "engine/model/weights.h"
#include "kernels/half.h"

namespace quantplug::engine {

namespace {

using kernels::LayerSpec;
using kernels::ModelSpec;
using kernels::Status;

constexpr int32_t least_head_bits = 6;
constexpr size_t random_bytes = size_t(1) << 20;  // repeated at random places: making new ones would take longer

void check(const Status& status, const std::string& what) {
    if (!status.ok()) fail(Code(status.code), what, ": ", status.message);
}

kernels::MatrixShape matrix_shape(int32_t k, int32_t n, int32_t bits, int32_t group) {
    kernels::MatrixShape shape;
    shape.in_features = k;
    shape.out_features = n;
    if (bits == 16) return shape;
    const int32_t rows = group < 0 ? k : std::min(group, k);
    for (int32_t row = 0; row < k; row += rows) shape.groups.push_back({bits, std::min(rows, k - row)});
    return shape;
}

/// Bytes that streams of any length are cut from.
class RandomBytes {
 public:
    explicit RandomBytes(uint32_t seed) : random_(seed), bytes_(random_bytes) {
        for (size_t i = 0; i < random_bytes; i += 8) {
            const uint64_t value = random_();
            std::memcpy(bytes_.data() + i, &value, 8);
        }
    }
    template <typename Change>
    void fill(uint8_t* out, size_t n, const Change& change) {
        while (n > 0) {
            const size_t start = size_t(random_() % (random_bytes / 2)) & ~size_t(1);
            const size_t some = std::min(n, random_bytes - start);
            for (size_t i = 0; i < some; ++i) out[i] = change(bytes_[start + i], i);
            out += some;
            n -= some;
        }
    }

 private:
    std::mt19937_64 random_;
    std::vector<uint8_t> bytes_;
};

kernels::Matrix pack_random(kernels::Device& device, const LinearPart& part, RandomBytes& random) {
    const kernels::MatrixShape& shape = part.shape;
    const size_t n = size_t(shape.out_features);
    kernels::Matrix matrix;
    if (shape.groups.empty()) {
        kernels::DenseSource source;
        source.in_features = shape.in_features;
        source.out_features = shape.out_features;
        source.read_rows = [&](int32_t, int32_t rows, void* out) -> Status {
            // Sign and mantissa at random, the exponent that of 2^-6: 0.016 to 0.03.
            random.fill(static_cast<uint8_t*>(out), size_t(rows) * size_t(shape.in_features) * 2,
                        [](uint8_t byte, size_t i) { return i % 2 ? uint8_t((byte & 0x83) | 0x24) : byte; });
            return {};
        };
        check(device.pack(source, &matrix), part.module);
        return matrix;
    }
    kernels::QuantSource source;
    source.in_features = shape.in_features;
    source.out_features = shape.out_features;
    source.groups = shape.groups;
    const int32_t bits = shape.groups[0].bits;
    // Uniform codes over 2^bits steps have a deviation of 2^bits / sqrt(12): outputs of the inputs' size.
    const double scale = std::sqrt(12.0 / shape.in_features) / double(1 << bits);
    source.scales.assign(source.groups.size() * n, kernels::f32_to_f16(float(scale)));
    source.read_codes = [&, bits](int32_t, int32_t rows, uint8_t* codes) -> Status {
        const uint8_t mask = uint8_t((1u << bits) - 1);
        random.fill(codes, size_t(rows) * n, [mask](uint8_t byte, size_t) { return uint8_t(byte & mask); });
        return {};
    };
    check(device.pack(source, &matrix), part.module);
    return matrix;
}

/// The share of a matrix's bytes that a step of `rows` tokens reads.
double share_read(const LinearPart& part, const Decoder& decoder, int32_t rows) {
    if (part.slot.of_model == &ModelSpec::positions) return 0;
    if (part.slot.of_model == &ModelSpec::embedding) return decoder.tied ? 1 : 0;  // a row a token
    if (part.slot.expert < 0) return 1;
    const double chosen =
        double(decoder.spec.layers[size_t(part.slot.layer)].moe.top_k) / std::max(1, decoder.spec.n_experts);
    return 1 - std::pow(1 - chosen, rows);
}

/// The share of a matrix's operations that one token takes.
double share_computed(const LinearPart& part, const Decoder& decoder) { return share_read(part, decoder, 1); }

}  // namespace

Decoder synthetic_decoder(std::string_view name, int32_t bits, int32_t group) {
    const auto found = std::find_if(synthetic_shapes.begin(), synthetic_shapes.end(),
                                    [&](const SyntheticShape& s) { return s.name == name; });
    if (found == synthetic_shapes.end()) {
        std::string names;
        for (const SyntheticShape& s : synthetic_shapes) names += (names.empty() ? "" : ", ") + std::string(s.name);
        fail(Code::invalid_argument, "there is no synthetic model \"", name.substr(0, 64), "\"; there are ", names);
    }
    if (bits != 16 && (bits < 2 || bits > 8 || bits == 7))
        fail(Code::invalid_argument, "bits is ", bits, "; 2, 3, 4, 5, 6, 8 and 16 (plain FP16) can be measured");
    if (group != -1 && group < 8)
        fail(Code::invalid_argument, "group is ", group, "; give 8 or more rows, or -1 for all");

    const SyntheticShape& shape = *found;
    Decoder d;
    ModelSpec& s = d.spec;
    s.hidden_size = shape.hidden_size;
    s.intermediate_size = shape.intermediate_size;
    s.n_vocab = shape.n_vocab;
    s.n_heads = shape.n_heads;
    s.n_kv_heads = shape.n_kv_heads;
    s.head_dim = shape.head_dim;
    s.attention_scale = 1 / std::sqrt(float(shape.head_dim));
    kernels::RopeSpec rope;
    for (int32_t i = 0; i < shape.head_dim / 2; ++i)
        rope.inv_freq.push_back(float(std::pow(10000.0, -2.0 * i / shape.head_dim)));
    s.ropes.push_back(rope);

    kernels::NormSpec norm;
    norm.kind = kernels::NormSpec::rms;
    norm.eps = 1e-5f;
    s.final_norm = norm;
    LayerSpec layer;
    layer.attention_norm = layer.mlp_norm = norm;
    s.layers.assign(size_t(shape.n_layers), layer);

    const auto add = [&](const std::string& module, int32_t k, int32_t n, int32_t width, const MatrixSlot& slot) {
        LinearPart part;
        part.module = module;
        part.shape = matrix_shape(k, n, width, group);
        part.quantised = width != 16;
        part.layer = slot.of_layer ? slot.layer : -1;
        part.slot = slot;
        d.linears.push_back(std::move(part));
    };
    add("embedding", s.hidden_size, s.n_vocab, 16, {.of_model = &ModelSpec::embedding});
    const int32_t q = s.n_heads * s.head_dim, kv = s.n_kv_heads * s.head_dim, inner = s.intermediate_size;
    for (int32_t i = 0; i < shape.n_layers; ++i) {
        const auto of = [&](kernels::Matrix LayerSpec::*slot) { return MatrixSlot{.of_layer = slot, .layer = i}; };
        const std::string prefix = concat("layer ", i, " ");
        add(prefix + "q", s.hidden_size, q, bits, of(&LayerSpec::q));
        add(prefix + "k", s.hidden_size, kv, bits, of(&LayerSpec::k));
        add(prefix + "v", s.hidden_size, kv, bits, of(&LayerSpec::v));
        add(prefix + "o", q, s.hidden_size, bits, of(&LayerSpec::o));
        add(prefix + "gate", s.hidden_size, inner, bits, of(&LayerSpec::gate));
        add(prefix + "up", s.hidden_size, inner, bits, of(&LayerSpec::up));
        add(prefix + "down", inner, s.hidden_size, bits, of(&LayerSpec::down));
    }
    NormPart weights;
    weights.size = s.hidden_size;
    weights.value = &kernels::NormSpec::weight;
    weights.of_model = &ModelSpec::final_norm;
    d.norms.push_back(weights);
    weights.of_model = nullptr;
    for (weights.layer = 0; weights.layer < shape.n_layers; ++weights.layer) {
        for (const auto of_layer : {&LayerSpec::attention_norm, &LayerSpec::mlp_norm}) {
            weights.of_layer = of_layer;
            d.norms.push_back(weights);
        }
    }
    add("head", s.hidden_size, s.n_vocab, std::max(bits, least_head_bits), {.of_model = &ModelSpec::head});
    return d;
}

BenchModel::BenchModel(std::string name, Decoder decoder, const LoadOptions& options, const BenchMemory& memory)
    : name_(std::move(name)), decoder_(std::move(decoder)), options_(options) {
    const bool exact = options.compute == kernels::Compute::exact;
    kv_spec_.type = exact ? kernels::KvSpec::f32 : options.cache_mode;
    kv_spec_.block_tokens = kv_block_tokens;
    kv_spec_.n_blocks = memory.n_blocks;
    decoder_.spec.compute = options.compute;
    if (decoder_.position_limit > 0 && memory.positions > decoder_.position_limit)
        fail(Code::out_of_range, name_, " has ", decoder_.position_limit, " positions and ", memory.positions,
             " are to be measured; lower depth, pp or tg");
    decoder_.spec.max_positions = memory.positions;

    StepNeeds needs;
    needs.positions = memory.positions;
    needs.kv = kv_spec_;
    needs.compute = options.compute;
    needs.max_wanted = memory.max_wanted;
    needs.other = decoder_.largest_matrix_bytes();
    ChosenDevices chosen = choose_devices(decoder_, options,
                                          [&](Devices& devices, const Log&) {
                                              MemoryPlan plan = plan_parts(devices, decoder_, needs);
                                              plan.ctx = memory.positions;
                                              return plan;
                                          },
                                          {});
    for (const MemoryPlan::Pool& pool : chosen.plan.pools()) {
        if (!pool.fits())
            fail(Code::resource_exhausted, name_, ": needs ", pool.weights >> 20, " MiB for weights, ",
                 pool.kv_cache >> 20, " for the cache, ", pool.scratch >> 20, " for scratch and ", pool.other >> 20,
                 " while loading on ", pool.device, "; ", pool.free >> 20, " MiB are available");
    }
    devices_ = std::move(chosen.devices);
}

void BenchModel::finish(const BenchMemory& memory) {
    kernels::Device& device = *devices_.device;
    check(device.make_kv(decoder_.spec, kv_spec_, &kv_), name_);
    check(device.prepare(decoder_.spec, devices_.max_rows(), memory.max_wanted), name_);
}

std::unique_ptr<BenchModel> BenchModel::from_folder(const std::filesystem::path& path, const Format& format,
                                                    const LoadOptions& options, const BenchMemory& memory,
                                                    const Progress& progress) {
    const ModelFolder folder = ModelFolder::open(path);
    std::string name = path.filename().string();
    if (name.empty() || name == ".") name = folder.name();
    std::unique_ptr<BenchModel> model(new BenchModel(name, read_decoder(folder, format), options, memory));
    load_weights(folder, format, model->decoder_, *model->devices_.device, progress);
    model->finish(memory);
    return model;
}

std::unique_ptr<BenchModel> BenchModel::synthetic(std::string_view shape, int32_t bits, int32_t group,
                                                  const LoadOptions& options, const BenchMemory& memory,
                                                  const Progress& progress) {
    std::unique_ptr<BenchModel> model(
        new BenchModel(std::string(shape), synthetic_decoder(shape, bits, group), options, memory));
    Decoder& decoder = model->decoder_;
    kernels::Device& device = *model->devices_.device;
    const int32_t n_parts = device.n_parts();
    reserve_weights(decoder, device, model->name_);
    RandomBytes random(1);
    const double total = double(decoder.linears.size());
    for (size_t i = 0; i < decoder.linears.size(); ++i) {
        if (progress && !progress(double(i) / total, "packing random weights"))
            fail(Code::cancelled, "the measurement was cancelled");
        const LinearPart& part = decoder.linears[i];
        device.select(place_of(decoder, part, n_parts).part);
        part.slot.in(decoder.spec) = pack_random(device, part, random);
    }
    const std::vector<float> ones(size_t(decoder.spec.hidden_size), 1.0f);
    for (const NormPart& norm : decoder.norms) {
        device.select(place_of(decoder, norm, n_parts).part);
        check(device.upload(ones, &norm.in(decoder.spec)), model->name_);
    }
    device.select(0);
    model->finish(memory);
    return model;
}

bool BenchModel::quantised() const {
    return std::any_of(decoder_.linears.begin(), decoder_.linears.end(),
                       [](const LinearPart& l) { return l.quantised && l.layer >= 0; });
}

double BenchModel::bits() const {
    if (const double stored = decoder_.bits_per_weight(false); stored > 0) return stored;
    double bits = 0, weights = 0;
    for (const LinearPart& l : decoder_.linears) {
        if (l.layer < 0) continue;
        const double n = double(l.shape.out_features);
        weights += n * l.shape.in_features;
        if (l.shape.groups.empty()) bits += n * l.shape.in_features * (l.shape.dtype == kernels::DType::f32 ? 32 : 16);
        for (const kernels::QuantGroup& group : l.shape.groups) bits += n * group.rows * group.bits;
    }
    return weights > 0 ? bits / weights : 0;
}

void BenchModel::step(std::span<const kernels::Row> rows, std::span<const kernels::Wanted> wanted, int32_t n_sequences,
                      int32_t blocks_each, bool prefill, const std::function<bool()>& cancelled) {
    std::vector<int32_t> table(size_t(n_sequences) * size_t(blocks_each));
    std::iota(table.begin(), table.end(), 0);
    const kernels::Step step{
        .rows = rows, .kv = kv_, .block_table = table, .max_blocks = blocks_each, .wanted = wanted, .prefill = prefill};
    kernels::StepResult result;
    kernels::Device& device = *devices_.device;
    const Status status =
        device.wait(device.submit(decoder_.spec, step, decoder_walk(decoder_.spec, cancelled)), &result);
    if (!status.ok())
        fail(Code(status.code), status.message.empty() ? "the measurement was cancelled" : status.message);
}

StepCost BenchModel::cost(int32_t rows, double context, bool shared_context) const {
    StepCost cost;
    const ModelSpec& s = decoder_.spec;
    kernels::Device& device = *devices_.device;
    const int32_t n_parts = device.n_parts();
    kernels::KvSpec one = kv_spec_;
    one.n_blocks = 1;
    for (int32_t part = 0; part < n_parts; ++part) {
        device.select(part);
        double bytes = 0;
        for (const LinearPart& l : decoder_.linears) {
            // Of a matrix on two parts the last is the head, which is read whole.
            const WeightPlace place = place_of(decoder_, l, n_parts);
            if ((place.second >= 0 ? place.second : place.part) != part) continue;
            bytes += share_read(l, decoder_, rows) * double(device.matrix_bytes(l.shape));
            cost.operations += share_computed(l, decoder_) * 2.0 * rows * l.shape.in_features * l.shape.out_features;
        }
        const auto is_own = [&](const LayerSpec& layer) { return layer.device == part; };
        const double layers = double(std::count_if(s.layers.begin(), s.layers.end(), is_own));
        const double token_bytes = double(device.kv_bytes(s, one)) / kv_block_tokens / std::max(1.0, layers);
        for (const LayerSpec& layer : s.layers) {
            if (!is_own(layer)) continue;
            const double seen = layer.window > 0 ? std::min(context, double(layer.window)) : context;
            bytes += token_bytes * (seen * (shared_context ? 1 : rows) + rows);
            cost.operations += 4.0 * rows * seen * s.n_heads * s.head_dim;
        }
        cost.bytes_of.push_back(bytes);
        cost.bytes += bytes;
    }
    device.select(0);
    return cost;
}

}  // namespace quantplug::engine
