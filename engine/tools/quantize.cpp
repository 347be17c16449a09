#include "engine/tools/quantize.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/tools/convert.h"
#include "engine/tools/sharded_writer.h"
#include "kernels/half.h"

namespace quantplug::engine {

namespace {

constexpr std::string_view weight_suffix = ".weight";

/// One thing to write: a matrix to be quantised, or a tensor to be copied.
struct Job {
    const TensorInfo* tensor = nullptr;
    const TensorInfo* bias = nullptr;
    std::string module;  // empty: a copy
    bool is_head = false;
    StoredType type = StoredType::unknown;  // of a copy
    std::vector<TensorDecl> parts;          // of a matrix
};

bool is_head_name(std::string_view module) {
    const std::string_view last = module.substr(module.rfind('.') + 1);
    return module.find("layers.") == std::string_view::npos &&
           (last == "lm_head" || last == "output" || last == "embed_out");
}

/// The embedding, and what its head would be called beside it; empty where there is none.
struct Embedding {
    const TensorInfo* tensor = nullptr;
    std::string head;
};
Embedding find_embedding(const ModelFolder& folder) {
    for (const TensorInfo& tensor : folder.tensors())
        for (const std::string_view name :
             {"model.embed_tokens.weight", "model.tok_embeddings.weight", "transformer.wte.weight"}) {
            if (!tensor.name.ends_with(name) || tensor.shape.size() != 2 || !is_float(tensor.type)) continue;
            const std::string prefix = tensor.name.substr(0, tensor.name.size() - name.size());
            if (prefix.empty() || prefix.ends_with('.')) return {&tensor, prefix + "lm_head"};
        }
    return {};
}

int32_t checked_size(const TensorInfo& tensor, size_t dimension) {
    const int64_t size = tensor.shape[dimension];
    if (size <= 0 || size > std::numeric_limits<int32_t>::max())
        fail(Code::invalid_argument, "tensor ", tensor.name, " is ", tensor.describe(),
             ", which is no size of a matrix");
    return int32_t(size);
}

/// What has to be done, in the order of the names.
std::vector<Job> plan(const ModelFolder& folder, const MatrixQuantizer& quantizer) {
    std::vector<Job> jobs;
    const auto add_matrix = [&](const TensorInfo& tensor, std::string module, bool is_head) {
        Job job;
        job.tensor = &tensor;
        job.bias = is_head && !folder.has(module + ".weight") ? nullptr : folder.find(module + ".bias");
        job.is_head = is_head;
        const int32_t n = checked_size(tensor, 0), k = checked_size(tensor, 1);
        if (job.bias && (!is_float(job.bias->type) || job.bias->count() != uint64_t(n)))
            fail(Code::invalid_argument, "tensor ", job.bias->name, " is ", job.bias->describe(), ", where ", n,
                 " floats are expected");
        job.parts = quantizer.layout(module, k, n, job.bias != nullptr, is_head);
        job.module = std::move(module);
        jobs.push_back(std::move(job));
    };
    bool has_projection = false, has_head = false;
    for (const TensorInfo& tensor : folder.tensors()) {
        const bool is_weight = tensor.name.ends_with(weight_suffix);
        std::string module = tensor.name.substr(0, std::min(tensor.name.rfind('.'), tensor.name.size()));
        if (is_decoder_projection(tensor)) {
            add_matrix(tensor, std::move(module), false);
            has_projection = true;
            continue;
        }
        if (is_weight && is_head_name(module) && tensor.shape.size() == 2 && is_float(tensor.type)) {
            has_head = true;
            if (quantizer.quantizes_head()) {
                add_matrix(tensor, std::move(module), true);
                continue;
            }
        }
        if (tensor.name.ends_with(".bias")) {
            const TensorInfo* weight = folder.find(module + std::string(weight_suffix));
            const bool taken =
                weight && (is_decoder_projection(*weight) || (quantizer.quantizes_head() && is_head_name(module) &&
                                                              weight->shape.size() == 2 && is_float(weight->type)));
            if (taken) continue;
        }
        if (tensor.type == StoredType::unknown)
            fail(Code::unimplemented, "tensor ", tensor.name, " in ", folder.file_of(tensor), " is ", tensor.describe(),
                 ", a type that cannot be copied");
        Job job;
        job.tensor = &tensor;
        job.type = tensor.type == StoredType::f32 && tensor.shape.size() >= 2 ? StoredType::f16 : tensor.type;
        jobs.push_back(std::move(job));
    }
    if (!has_projection)
        fail(Code::failed_precondition, folder.name(), " holds no projections of decoder layers (",
             "...layers.0.mlp.up_proj.weight and the like)", ": nothing to quantise");
    if (!has_head && quantizer.quantizes_head()) {
        Embedding embedding = find_embedding(folder);
        if (!embedding.tensor)
            fail(Code::failed_precondition, folder.name(),
                 " holds neither lm_head.weight nor model.embed_tokens.weight: the head is missing");
        add_matrix(*embedding.tensor, std::move(embedding.head), true);
    }
    return jobs;
}

std::string config_text(const ModelFolder& folder, const Json& quantization) {
    Json config = folder.config().value();
    config["quantization_config"] = quantization;
    for (const char* key : {"torch_dtype", "dtype"})
        if (const auto dtype = config.find(key); dtype != config.end() && *dtype == "float32") *dtype = "float16";
    return json_text(config);
}

}  // namespace

void WeightMatrix::tile(std::span<const int32_t> rows, int32_t n0, int32_t columns, float* out, int64_t stride) const {
    const uint64_t size = size_of(type);
    for (int32_t j = 0; j < columns; ++j) {
        const std::byte* column = values.data() + uint64_t(n0 + j) * uint64_t(k) * size;
        for (size_t i = 0; i < rows.size(); ++i) {
            float value;
            if (type == StoredType::f32) {
                std::memcpy(&value, column + uint64_t(rows[i]) * 4, 4);
            } else {
                uint16_t bits;
                std::memcpy(&bits, column + uint64_t(rows[i]) * 2, 2);
                value = type == StoredType::f16 ? kernels::f16_to_f32(bits) : kernels::bf16_to_f32(bits);
            }
            if (!std::isfinite(value))
                fail(Code::invalid_argument, "matrix ", name, ": the weight of output ", n0 + j, ", input ", rows[i],
                     " is NaN or infinite; get the model again");
            out[int64_t(i) * stride + j] = value;
        }
    }
}

bool is_decoder_projection(const TensorInfo& tensor) {
    if (tensor.shape.size() != 2 || !is_float(tensor.type) || !tensor.name.ends_with(weight_suffix)) return false;
    const std::string_view module = std::string_view(tensor.name).substr(0, tensor.name.size() - weight_suffix.size());
    const size_t at = module.find("layers.");
    if (at == std::string_view::npos || (at > 0 && module[at - 1] != '.')) return false;
    const std::string_view prefix = module.substr(0, at), path = module.substr(at + 7);
    for (const std::string_view tower : {"vision", "visual", "audio", "image", "encoder.", "projector"})
        if (prefix.find(tower) != std::string_view::npos) return false;
    const size_t digits = path.find_first_not_of("0123456789");
    if (digits == 0 || digits == std::string_view::npos || path[digits] != '.') return false;
    const std::string_view last = path.substr(path.rfind('.') + 1);
    // c_attn, c_proj, c_fc are stored transposed by GPT-2: left plain.
    if (last.starts_with("c_")) return false;
    constexpr std::array<std::string_view, 12> names{
        "w1",  "w2", "w3", "wo", "wqkv", "W_pack", "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h",
        "fc1", "fc2"};
    return last.ends_with("_proj") || std::find(names.begin(), names.end(), last) != names.end();
}

void check_method(const std::string& method, std::initializer_list<std::string_view> known) {
    std::string list;
    for (const std::string_view name : known) {
        if (name == method) return;
        list += concat(list.empty() ? "" : ", ", name);
    }
    fail(Code::invalid_argument, "there is no method \"", method, "\" here: choose ", list);
}

void check_choice(std::string_view key, int32_t value, std::string_view format, std::initializer_list<int32_t> known) {
    std::string list;
    for (const int32_t choice : known) {
        if (choice == value) return;
        list += concat(list.empty() ? "" : ", ", choice);
    }
    fail(Code::invalid_argument, key, " is ", value, ", where ", format, " has ", list);
}

QuantizeResult quantize(const QuantizeRequest& request, const MakeQuantizer& make,
                        const std::function<bool(const QuantizeEvent&)>& on_event) {
    const auto start = std::chrono::steady_clock::now();
    const std::unique_ptr<MatrixQuantizer> quantizer = make(request);
    const ModelFolder folder = ModelFolder::open(request.in);
    if (std::string reason = unsupported_format(folder); !reason.empty()) fail(Code::failed_precondition, reason);
    if (folder.has_suffix(".q_weight") || folder.has_suffix(".qweight"))
        fail(Code::failed_precondition, folder.name(),
             " is quantised already: dequantize it first, or take the plain model");
    if (!folder.has_config()) fail(Code::not_found, folder.name(), " has no config.json: get the model again");

    const std::vector<Job> jobs = plan(folder, *quantizer);
    std::vector<TensorDecl> declared;
    double total = 0;
    // Search and rounding of a quantised value cost some 20 times the copy of a plain one.
    const auto cost = [](const Job& job) { return double(job.tensor->count()) * (job.module.empty() ? 1 : 20); };
    for (const Job& job : jobs) {
        if (job.module.empty())
            declared.push_back({job.tensor->name, job.type, job.tensor->shape});
        else
            declared.insert(declared.end(), job.parts.begin(), job.parts.end());
        total += cost(job);
    }

    QuantizeResult result;
    result.tensors = int64_t(declared.size());
    OutputFolder out(request.out);
    const Json quantization = quantizer->quantization_config();
    out.write_text("config.json", config_text(folder, quantization));
    if (quantizer->writes_quantize_config_file()) out.write_text("quantize_config.json", json_text(quantization));
    ShardedWriter writer(out.path(), quantizer->file_stem(), std::move(declared), request.max_file_bytes);

    double done = 0, decoder_bits = 0, decoder_weights = 0;
    const auto emit = [&](const QuantizeEvent& event) {
        if (on_event && !on_event(event)) fail(Code::cancelled, "quantising ", folder.name(), " was cancelled");
    };
    const auto emit_progress = [&](const Job& job, double share) {
        const double fraction = total > 0 ? std::min(1.0, (done + share * cost(job)) / total) : 1.0;
        emit({QuantizeEvent::progress, fraction, job.module.empty() ? job.tensor->name : job.module, 0});
    };
    std::vector<std::byte> values;
    for (const Job& job : jobs) {
        emit_progress(job, 0);
        if (job.module.empty()) {
            copy_tensor(folder, *job.tensor, job.type, writer);
        } else {
            values.resize(job.tensor->bytes);
            folder.read(*job.tensor, 0, values);
            const WeightMatrix weight{job.module, int32_t(job.tensor->shape[1]), int32_t(job.tensor->shape[0]),
                                      job.tensor->type, values};
            const std::vector<float> bias = job.bias ? folder.read_f32(job.bias->name) : std::vector<float>();
            auto last = std::chrono::steady_clock::now();
            const auto parts = quantizer->quantize(weight, bias, job.is_head, [&](double share) {
                const auto now = std::chrono::steady_clock::now();
                if (now - last < std::chrono::milliseconds(50)) return;
                last = now;
                emit_progress(job, share);
            });
            uint64_t bytes = 0;
            for (size_t i = 0; i < job.parts.size(); ++i) {
                writer.write(job.parts[i].name, parts[i]);
                bytes += parts[i].size();
            }
            if (job.is_head) {
                result.bits_per_weight_head = 8.0 * double(bytes) / double(job.tensor->count());
            } else {
                decoder_bits += 8.0 * double(bytes);
                decoder_weights += double(job.tensor->count());
            }
            emit({QuantizeEvent::layer, std::min(1.0, (done + cost(job)) / total), job.module,
                  quantizer->bits(job.is_head)});
        }
        done += cost(job);
    }
    result.bytes = writer.finish();
    if (const auto index = writer.index_json(); index && quantizer->writes_index())
        out.write_text("model.safetensors.index.json", *index);
    out.copy_side_files(folder.path());
    out.commit();
    result.bits_per_weight = decoder_bits / decoder_weights;
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result;
}

}  // namespace quantplug::engine
