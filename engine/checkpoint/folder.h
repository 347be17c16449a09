// A model folder: which files count, its configuration files, tensors by name. Reads headers only until a tensor is
// asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/checkpoint/json.h"
#include "engine/checkpoint/safetensors.h"

namespace quantplug::engine {

class ModelFolder {
 public:
    /// Opens every safetensors file that counts (where a `q_weight` exists all of them, else those of a complete index,
    /// else all; never consolidated*, adapter_* or subfolders) and the configuration files. Errors name the file: no
    /// folder, a GGUF file, no safetensors, a shard that is missing, an unfinished download, a Git-LFS pointer, a
    /// tensor in two files.
    static ModelFolder open(const std::filesystem::path& path);
    /// One safetensors file without configuration.
    static ModelFolder open_file(const std::filesystem::path& path);

    ModelFolder(ModelFolder&&) noexcept;
    ModelFolder& operator=(ModelFolder&&) noexcept;
    ~ModelFolder();

    const std::filesystem::path& path() const;
    /// The folder's path, for messages.
    const std::string& name() const;

    // Configuration files; an empty object where the file is absent.
    JsonObject config() const;
    JsonObject generation_config() const;
    JsonObject tokenizer_config() const;
    bool has_config() const;
    /// quantize_config.json, else quant_config.json, else `quantization_config` of config.json (top level or
    /// text_config).
    std::optional<JsonObject> quantization_config() const;

    // Tensors, sorted by name.
    const std::vector<TensorInfo>& tensors() const;
    const TensorInfo* find(std::string_view name) const;
    bool has(std::string_view name) const { return find(name) != nullptr; }
    /// not_found with the folder and the name.
    const TensorInfo& tensor(std::string_view name) const;
    /// tensor() whose type and shape must be these; -1 in a shape: any size. invalid_argument says expected and found.
    const TensorInfo& tensor(std::string_view name, std::span<const int64_t> shape,
                             std::span<const StoredType> types) const;
    /// The file that holds it.
    const std::string& file_of(const TensorInfo& tensor) const;
    /// Metadata of the first file's header that has the key ("gptq_bits"), else empty.
    std::string metadata(std::string_view key) const;
    /// Bytes of all files that count.
    uint64_t file_bytes() const;
    /// Some tensor's name ends so, e.g. ".q_weight" (EXL2), ".qweight" (GPTQ).
    bool has_suffix(std::string_view suffix) const;

    // Weights. Callable from several threads at once.
    /// Bytes `offset` .. offset + out.size() of the stored tensor.
    void read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const;
    /// The whole tensor; out.size() must be its bytes.
    void read_tensor(std::string_view name, std::span<std::byte> out) const;
    /// Rows row0 .. row0+rows-1 along the first dimension, as stored: out.size() == rows * bytes of a row.
    void read_rows(std::string_view name, int64_t row0, int64_t rows, std::span<std::byte> out) const;
    /// The whole tensor as values of a type of the same size: read_values<int32_t>("x.q_invperm").
    template <typename T>
    std::vector<T> read_values(std::string_view name) const {
        const TensorInfo& info = tensor(name);
        check_value_size(info, sizeof(T));
        std::vector<T> values(info.count());
        read(info, 0, std::as_writable_bytes(std::span(values)));
        return values;
    }
    /// F32, F16 or BF16 as FP32. NaN and infinity are refused with the index of the first.
    std::vector<float> read_f32(std::string_view name) const;
    /// read_f32 of a tensor with exactly `count` values (norm weights, biases).
    std::vector<float> read_f32(std::string_view name, int64_t count) const;

 private:
    struct State;
    explicit ModelFolder(std::unique_ptr<State> state);
    void check_value_size(const TensorInfo& tensor, size_t size) const;
    std::unique_ptr<State> state_;
};

/// Empty, or a sentence that says which other format (EXL3, AWQ, Marlin, bitsandbytes, compressed-tensors, FP8, HQQ,
/// VPTQ ...) the folder holds. EXL2, GPTQ (AutoRound's auto_gptq packing too) and plain folders give an empty string.
std::string unsupported_format(const ModelFolder& folder);

}  // namespace quantplug::engine
