#include "engine/tools/import_gguf.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"
#include "engine/checkpoint/writer.h"
#include "engine/tools/import_gguf_file.h"
#include "engine/tools/import_gguf_model.h"
#include "engine/tools/import_gguf_tokenizer.h"
#include "kernels/half.h"

namespace quantplug::engine {

namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int64_t piece_values = 1 << 20;

/// Decodes a tensor piece by piece. A piece is whole rows, and whole heads where their rows are permuted.
class Converter {
 public:
    Converter(const File& file, const ImportGgufOptions& options) : file_(file), options_(options) {}

    template <typename Done>
    void convert(const ImportedTensor& tensor, SafetensorsWriter& writer, Done done) {
        const GgufTensor& source = *tensor.source;
        const int64_t width = source.shape.back();
        const int64_t rows = source.shape.size() == 1 ? 1 : source.shape.front();
        // A bias is one row in the file but its heads are permuted as a matrix of one column.
        if (source.shape.size() == 1 && tensor.permuted_heads > 0) {
            load(source, 0, width);
            unpermute(1, width / tensor.permuted_heads);
            store(tensor, writer, 0);
            return done(source.bytes);
        }
        const int64_t head_rows = tensor.permuted_heads > 0 ? rows / tensor.permuted_heads : 1;
        const int64_t step = std::max<int64_t>(piece_values / (width * head_rows), 1) * head_rows;
        for (int64_t row = 0; row < rows; row += step) {
            const int64_t count = std::min(step, rows - row);
            load(source, row * width, count * width);
            if (tensor.permuted_heads > 0) unpermute(width, head_rows);
            store(tensor, writer, row * width);
            done(uint64_t(count * width / source.type->block_values * source.type->block_bytes));
        }
    }

 private:
    void load(const GgufTensor& source, int64_t first, int64_t count) {
        const GgufType& type = *source.type;
        blocks_.resize(size_t(count / type.block_values * type.block_bytes));
        values_.resize(size_t(count));
        file_.read(source.offset + uint64_t(first / type.block_values * type.block_bytes), blocks_);
        gguf_decode(type, blocks_, values_);
    }

    /// Row 2t + a of a head is row a * head_rows/2 + t of Hugging Face's (and a rotary pair is then (t, t + d/2)).
    void unpermute(int64_t width, int64_t head_rows) {
        ordered_.resize(values_.size());
        const int64_t rows = int64_t(values_.size()) / width;
        for (int64_t row = 0; row < rows; ++row) {
            const int64_t in_head = row % head_rows;
            const int64_t target = row - in_head + (in_head % 2) * (head_rows / 2) + in_head / 2;
            std::copy_n(values_.begin() + row * width, width, ordered_.begin() + target * width);
        }
        values_.swap(ordered_);
    }

    void store(const ImportedTensor& tensor, SafetensorsWriter& writer, int64_t first) {
        const auto refuse = [&](size_t i, const char* what) {
            fail(Code::data_loss, file_.name(), ": tensor \"", tensor.source->name, "\" is ", values_[i], " at value ",
                 size_t(first) + i, what);
        };
        for (size_t i = 0; i < values_.size(); ++i)
            if (!std::isfinite(values_[i])) refuse(i, ": the file is damaged");
        if (options_.type == StoredType::f32) return writer.write(tensor.name, std::as_bytes(std::span(values_)));
        halves_.resize(values_.size());
        for (size_t i = 0; i < values_.size(); ++i) {
            halves_[i] = kernels::f32_to_f16(values_[i]);
            if ((halves_[i] & 0x7fff) == 0x7c00) refuse(i, ", more than FP16 can hold: import with --dtype f32");
        }
        writer.write(tensor.name, std::as_bytes(std::span(halves_)));
    }

    const File& file_;
    const ImportGgufOptions& options_;
    std::vector<std::byte> blocks_;
    std::vector<float> values_, ordered_;
    std::vector<uint16_t> halves_;
};

/// Adds what the tokenizer and the options decide.
std::string config_text(const ImportedModel& model, const ImportedTokenizer& tokenizer, StoredType type) {
    OrderedJson config = OrderedJson::parse(model.config);
    if (tokenizer.bos_id) config["bos_token_id"] = *tokenizer.bos_id;
    if (!tokenizer.eos_ids.empty()) config["eos_token_id"] = tokenizer.eos_ids.front();
    if (tokenizer.pad_id) config["pad_token_id"] = *tokenizer.pad_id;
    config["torch_dtype"] = type == StoredType::f32 ? "float32" : "float16";
    return config.dump(2) + "\n";
}

std::string generation_text(const ImportedTokenizer& tokenizer) {
    OrderedJson config = OrderedJson::object();
    if (tokenizer.bos_id) config["bos_token_id"] = *tokenizer.bos_id;
    if (tokenizer.eos_ids.size() == 1) config["eos_token_id"] = tokenizer.eos_ids.front();
    if (tokenizer.eos_ids.size() > 1) config["eos_token_id"] = tokenizer.eos_ids;
    if (tokenizer.pad_id) config["pad_token_id"] = *tokenizer.pad_id;
    return config.dump(2) + "\n";
}

}  // namespace

ImportGgufResult import_gguf(const std::filesystem::path& path, const std::filesystem::path& out,
                             const ImportGgufOptions& options) {
    if (options.type != StoredType::f16 && options.type != StoredType::f32)
        fail(Code::invalid_argument, "the import writes f16 or f32, not ", name_of(options.type));
    const auto report = [&](double fraction, const std::string& what) {
        if (options.progress && !options.progress(fraction, what))
            fail(Code::cancelled, "the import of ", path.string(), " was cancelled; nothing was written");
    };
    const File file = File::open(path);
    report(0, "reading the header");
    const GgufFile gguf(file);
    const ImportedModel model = map_gguf_model(gguf);
    const ImportedTokenizer tokenizer = make_gguf_tokenizer(gguf, model.n_vocab, model.max_positions);

    OutputFolder folder(out);
    folder.write_text("config.json", config_text(model, tokenizer, options.type));
    folder.write_text("generation_config.json", generation_text(tokenizer));
    folder.write_text("tokenizer.json", tokenizer.tokenizer_json);
    folder.write_text("tokenizer_config.json", tokenizer.tokenizer_config_json);

    std::vector<TensorDecl> declared;
    uint64_t total = 0, converted = 0;
    for (const ImportedTensor& tensor : model.tensors) {
        declared.push_back({tensor.name, options.type, tensor.source->shape});
        total += tensor.source->bytes;
    }
    SafetensorsWriter writer(folder.path() / "model.safetensors", declared);
    Converter converter(file, options);
    for (const ImportedTensor& tensor : model.tensors)
        converter.convert(tensor, writer, [&](uint64_t bytes) {
            converted += bytes;
            report(double(converted) / double(total), tensor.name);
        });
    ImportGgufResult result;
    result.tensors = int64_t(model.tensors.size());
    result.bytes = writer.finish();
    result.architecture = model.architecture;
    result.tokenizer = tokenizer.description;
    folder.commit();
    return result;
}

}  // namespace quantplug::engine
