#include "engine/tools/dequantize.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/checkpoint/writer.h"
#include "engine/model/decoder.h"
#include "engine/tools/convert.h"
#include "engine/tools/sharded_writer.h"
#include "kernels/half.h"

namespace quantplug::engine {

namespace {

struct Matrix {
    StoredModule module;
    bool transposed = false;  // written (K, N)
    bool has_bias = false, declared = false;
};

/// One thing to write: a quantised matrix, or a tensor as it is.
struct Job {
    const Matrix* matrix = nullptr;
    const TensorInfo* tensor = nullptr;
    uint64_t values = 0;  // for the progress
};

void throw_on(const kernels::Status& status, const std::string& module) {
    if (status.ok()) return;
    fail(Code(status.code), "matrix ", module, ": ", status.message);
}

/// (N, K) values of a matrix as `type`, (K, N) where `transposed`.
std::vector<std::byte> decode(const kernels::QuantSource& source, const std::string& module, StoredType type,
                              bool transposed) {
    const size_t k = size_t(source.in_features), n = size_t(source.out_features), size = size_of(type);
    std::vector<std::byte> out(k * n * size);
    constexpr int32_t max_rows = 32;
    std::vector<uint16_t> rows(max_rows * n);
    std::array<size_t, max_rows> input;  // input row of each decoded row
    for (int32_t row0 = 0; row0 < source.in_features; row0 += max_rows) {
        const int32_t count = std::min(max_rows, source.in_features - row0);
        throw_on(kernels::decode_f16(source, row0, count, rows.data()), module);
        for (int32_t r = 0; r < count; ++r)
            input[size_t(r)] = size_t(source.perm.empty() ? row0 + r : source.perm[size_t(row0 + r)]);
        for (size_t column = 0; column < n; ++column)
            for (size_t r = 0; r < size_t(count); ++r) {
                const uint16_t value = rows[r * n + column];
                const size_t at = transposed ? input[r] * n + column : column * k + input[r];
                if (type == StoredType::f16)
                    std::memcpy(out.data() + 2 * at, &value, 2);
                else {
                    const float wide = kernels::f16_to_f32(value);
                    std::memcpy(out.data() + 4 * at, &wide, 4);
                }
            }
    }
    return out;
}

void write_matrix(const Format& format, const ModelFolder& folder, const Matrix& matrix, StoredType type,
                  ShardedWriter& writer) {
    const StoredModule& module = matrix.module;
    const kernels::QuantSource source = format.open(folder, module.name, module.in_features, module.out_features);
    throw_on(kernels::validate(source), module.name);
    writer.write(module.name + ".weight", decode(source, module.name, type, matrix.transposed));
    if (!matrix.has_bias) return;
    std::vector<std::byte> bias(source.bias.size() * size_of(type));
    if (!from_f32(source.bias, type, bias))
        fail(Code::out_of_range, "tensor ", module.name, ".bias holds values that ", name_of(type),
             " cannot: write the folder as F32");
    writer.write(module.name + ".bias", bias);
}

/// Tensors that are not quantised lose nothing: to F32 they are widened, otherwise they stay what they are.
StoredType kept_type(StoredType stored, StoredType type) {
    return is_float(stored) && type == StoredType::f32 ? type : stored;
}

/// Outputs of the quantised matrices as the architecture has them; empty where it is not known.
std::map<std::string, int32_t> known_outputs(const ModelFolder& folder, const Format& format) {
    std::map<std::string, int32_t> outputs;
    try {
        for (const LinearPart& part : read_decoder(folder, format).linears)
            if (part.quantised && part.layer >= 0) outputs[part.module] = part.stored_columns;
    } catch (const Error&) {
        // Any folder can be dequantised, whatever the architecture: its matrices keep the sizes that they are stored
        // in.
        outputs.clear();
    }
    return outputs;
}

std::string config_text(const ModelFolder& folder, StoredType type, bool has_head, bool unit_head) {
    Json config = folder.config().value();
    config.erase("quantization_config");
    set_dtype(config, type == StoredType::f16 ? "float16" : "float32");
    const auto fix_level = [&](Json& level) {
        level.erase("quantization_config");
        if (has_head && level.contains("tie_word_embeddings")) level["tie_word_embeddings"] = false;
    };
    fix_level(config);
    if (const auto text = config.find("text_config"); text != config.end() && text->is_object()) fix_level(*text);
    if (unit_head) config["norm_head"] = false;
    // Missing means tied in some architectures.
    if (has_head) config["tie_word_embeddings"] = false;
    return json_text(config);
}

}  // namespace

DequantizeResult dequantize(const Format& format, const std::filesystem::path& in,
                            const std::filesystem::path& out_path, const DequantizeOptions& options) {
    if (options.type != StoredType::f16 && options.type != StoredType::f32)
        fail(Code::invalid_argument, "a folder cannot be dequantised to ", name_of(options.type),
             ": choose f16 or f32");
    const ModelFolder folder = ModelFolder::open(in);
    const Architecture* const architecture = find_architecture(architecture_name(folder.config()));
    if (const Probe probe = format.probe(folder); probe.score <= 0) fail(Code::failed_precondition, probe.reason);

    std::map<std::string, Matrix> matrices;
    const std::map<std::string, int32_t> outputs = known_outputs(folder, format);
    for (StoredModule& module : format.modules(folder)) {
        const std::string name = module.name;
        // Columns that only pad a matrix are left out.
        if (const auto known = outputs.find(name); known != outputs.end())
            module.out_features = std::min(module.out_features, known->second);
        Matrix matrix{std::move(module)};
        matrix.transposed = architecture && stored_transposed(*architecture, name);
        matrix.has_bias =
            format.describe(folder, name, matrix.module.in_features, matrix.module.out_features).shape.has_bias;
        matrices.emplace(name, std::move(matrix));
    }

    std::vector<TensorDecl> declared;
    std::vector<Job> jobs;
    uint64_t total = 0;
    bool has_head = false, unit_head = false;
    const auto add = [&](Job job, uint64_t values) {
        job.values = values;
        total += values;
        jobs.push_back(job);
    };
    for (const TensorInfo& tensor : folder.tensors()) {
        const std::string parent = tensor.name.substr(0, std::min(tensor.name.rfind('.'), tensor.name.size()));
        if (const auto found = matrices.find(parent); found != matrices.end()) {
            Matrix& matrix = found->second;  // all its tensors become one or two
            if (std::exchange(matrix.declared, true)) continue;
            const int64_t k = matrix.module.in_features, n = matrix.module.out_features;
            declared.push_back({parent + ".weight", options.type,
                                matrix.transposed ? std::vector<int64_t>{k, n} : std::vector<int64_t>{n, k}});
            if (matrix.has_bias) declared.push_back({parent + ".bias", options.type, {n}});
            has_head = has_head || parent.ends_with("lm_head");
            // The rows of an EXL2 head are divided by their norms before they are quantised: once.
            unit_head = unit_head || (architecture && architecture->norm_head != NormHeadRule::none &&
                                      parent.ends_with("lm_head") && std::string_view(format.name()) == "exl2");
            add({&matrix, nullptr, 0}, uint64_t(k) * uint64_t(n));
            continue;
        }
        if (tensor.type == StoredType::unknown)
            fail(Code::unimplemented, "tensor ", tensor.name, " in ", folder.file_of(tensor), " is ", tensor.describe(),
                 ", a type that cannot be copied");
        has_head = has_head || tensor.name.ends_with("lm_head.weight");
        declared.push_back({tensor.name, kept_type(tensor.type, options.type), tensor.shape});
        add({nullptr, &tensor, 0}, tensor.count());
    }

    OutputFolder out(out_path);
    if (folder.has_config()) out.write_text("config.json", config_text(folder, options.type, has_head, unit_head));
    DequantizeResult result;
    result.tensors = int64_t(declared.size());
    ShardedWriter writer(out.path(), "model", std::move(declared), options.max_file_bytes);
    uint64_t done = 0;
    for (const Job& job : jobs) {
        const std::string& name = job.matrix ? job.matrix->module.name : job.tensor->name;
        if (options.progress && !options.progress(total ? double(done) / double(total) : 0.0, name))
            fail(Code::cancelled, "dequantising ", folder.name(), " was cancelled");
        if (job.matrix)
            write_matrix(format, folder, *job.matrix, options.type, writer);
        else
            copy_tensor(folder, *job.tensor, kept_type(job.tensor->type, options.type), writer);
        done += job.values;
    }
    result.bytes = writer.finish();
    if (const auto index = writer.index_json()) out.write_text("model.safetensors.index.json", *index);
    out.copy_side_files(folder.path());
    if (options.progress && !options.progress(1.0, "done"))
        fail(Code::cancelled, "dequantising ", folder.name(), " was cancelled");
    out.commit();
    return result;
}

}  // namespace quantplug::engine
