#include "engine/tools/quantize.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "engine/base/error.h"
#include "engine/model/columns.h"
#include "engine/model/decoder.h"
#include "engine/tools/convert.h"
#include "engine/tools/sharded_writer.h"
#include "kernels/half.h"

namespace quantplug::engine {

namespace {

/// Every matrix of the source is plain.
class NothingQuantised final : public Format {
 public:
    const char* name() const override { return "plain"; }
    Probe probe(const ModelFolder&) const override { return {50, "plain", ""}; }
    bool has(const ModelFolder&, const std::string&) const override { return false; }
    StoredMatrix describe(const ModelFolder&, const std::string& module, int32_t, int32_t) const override {
        fail(Code::internal, "matrix ", module, " of a plain folder was asked for as a quantised one");
    }
    kernels::QuantSource open(const ModelFolder&, const std::string& module, int32_t, int32_t) const override {
        fail(Code::internal, "matrix ", module, " of a plain folder was asked for as a quantised one");
    }
};

/// One thing to write: a matrix to be quantised, or a tensor to be copied.
struct Job {
    std::string name;  // of the module that it becomes; of the tensor
    bool is_matrix = false, is_head = false;
    LinearPart part;                     // of a matrix
    std::vector<TensorDecl> parts;       // that a matrix becomes
    const TensorInfo* tensor = nullptr;  // of a copy
    StoredType type = StoredType::unknown;

    double count() const {
        return is_matrix ? double(part.shape.in_features) * double(part.shape.out_features) : double(tensor->count());
    }
};

/// What has to be done, in the order of the model; what the model does not read comes last.
class Plan {
 public:
    Plan(const ModelFolder& folder, const Decoder& decoder, const MatrixQuantizer& quantizer)
        : folder_(folder), quantizer_(quantizer), split_(quantizer.splits_fused()) {
        for (const LinearPart& part : decoder.linears) linear(part);
        for (const NormPart& part : decoder.norms)
            for (const std::string& tensor : part.tensors)
                copy(tensor, split_ && part.tensors.size() == 1 ? part.split_name : tensor);
        if (decoder.tied && quantizer.quantizes_head()) head_of_tied(decoder);
        for (const TensorInfo& tensor : folder.tensors())
            if (!taken_.contains(tensor.name)) copy(tensor.name, tensor.name);
    }
    std::vector<Job> jobs;

 private:
    void linear(const LinearPart& part) {
        const bool is_head = part.slot.of_model == &kernels::ModelSpec::head;
        if (part.projection() || (is_head && quantizer_.quantizes_head())) {
            const bool whole = !split_ && part.tensor == part.module + ".weight";
            if (whole && taken_.contains(part.tensor)) return;  // another part of a fused matrix
            taken_.insert(part.tensor);
            if (!part.bias_tensor.empty()) taken_.insert(part.bias_tensor);
            LinearPart source = part;
            if (whole && !part.columns.empty()) {
                source.columns.clear();
                source.shape.out_features = part.stored_columns;
            }
            add_matrix(std::move(source), split_ ? part.split_name : part.module, is_head);
            return;
        }
        const std::string name = split_ ? part.split_name : part.module;
        copy(part.tensor, name + ".weight");
        if (!part.bias_tensor.empty()) copy(part.bias_tensor, name + ".bias");
    }

    /// The one matrix of a tied model is stored twice: as embedding, and quantised as head.
    void head_of_tied(const Decoder& decoder) {
        for (const LinearPart& part : decoder.linears) {
            if (part.slot.of_model == &kernels::ModelSpec::embedding) {
                LinearPart head = part;
                head.bias_tensor.clear();
                head.shape.has_bias = false;
                return add_matrix(std::move(head), decoder.head_name, true);
            }
            if (part.slot.of_model == &kernels::ModelSpec::head)
                return copy_again(part.tensor, decoder.embedding_name + ".weight");
        }
    }

    void add_matrix(LinearPart part, const std::string& name, bool is_head) {
        Job job;
        job.name = name;
        job.is_matrix = true;
        job.is_head = is_head;
        job.parts =
            quantizer_.layout(name, part.shape.in_features, part.shape.out_features, part.shape.has_bias, is_head);
        job.part = std::move(part);
        jobs.push_back(std::move(job));
    }

    void copy(const std::string& tensor, const std::string& name) {
        if (taken_.insert(tensor).second) copy_again(tensor, name);
    }
    void copy_again(const std::string& from, const std::string& name) {
        const TensorInfo& tensor = folder_.tensor(from);
        if (tensor.type == StoredType::unknown)
            fail(Code::unimplemented, "tensor ", tensor.name, " in ", folder_.file_of(tensor), " is ",
                 tensor.describe(), ", a type that cannot be copied");
        Job job;
        job.name = name;
        job.tensor = &tensor;
        job.type = tensor.type == StoredType::f32 && tensor.shape.size() >= 2 ? StoredType::f16 : tensor.type;
        jobs.push_back(std::move(job));
    }

    const ModelFolder& folder_;
    const MatrixQuantizer& quantizer_;
    const bool split_;
    std::set<std::string, std::less<>> taken_;  // tensors that a job reads
};

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

    const Decoder decoder = read_decoder(folder, NothingQuantised());
    const std::vector<Job> jobs = std::move(Plan(folder, decoder, *quantizer).jobs);
    std::vector<TensorDecl> declared;
    double total = 0;
    // Search and rounding of a quantised value cost some 20 times the copy of a plain one.
    const auto cost = [](const Job& job) { return job.count() * (job.is_matrix ? 20 : 1); };
    for (const Job& job : jobs) {
        if (job.is_matrix)
            declared.insert(declared.end(), job.parts.begin(), job.parts.end());
        else
            declared.push_back({job.name, job.type, job.tensor->shape});
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
        emit({QuantizeEvent::progress, fraction, job.name, 0});
    };
    std::vector<std::byte> values;
    for (const Job& job : jobs) {
        emit_progress(job, 0);
        if (!job.is_matrix) {
            copy_tensor(folder, *job.tensor, job.type, writer, job.name);
        } else {
            const kernels::DenseSource source = open_dense(folder, job.part);
            const StoredType type = source.dtype == kernels::DType::f32    ? StoredType::f32
                                    : source.dtype == kernels::DType::bf16 ? StoredType::bf16
                                                                           : StoredType::f16;
            values.resize(uint64_t(source.in_features) * uint64_t(source.out_features) * size_of(type));
            if (const kernels::Status status = source.read_rows(0, source.out_features, values.data()); !status.ok())
                fail(Code(status.code), "matrix ", job.name, ": ", status.message);
            const WeightMatrix weight{job.name, source.in_features, source.out_features, type, values};
            auto last = std::chrono::steady_clock::now();
            const auto parts = quantizer->quantize(weight, source.bias, job.is_head, [&](double share) {
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
                result.bits_per_weight_head = 8.0 * double(bytes) / job.count();
            } else {
                decoder_bits += 8.0 * double(bytes);
                decoder_weights += job.count();
            }
            emit({QuantizeEvent::layer, std::min(1.0, (done + cost(job)) / total), job.name,
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
