#include "engine/checkpoint/folder.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"
#include "kernels/half.h"

static_assert(std::endian::native == std::endian::little, "checkpoints are little-endian and read as stored");

namespace quantplug::engine {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view safetensors_suffix = ".safetensors";
constexpr std::string_view index_name = "model.safetensors.index.json";
// 100,000 tensors make about 10 MB.
constexpr JsonLimits index_limits{.max_bytes = uint64_t{64} << 20};

/// Names of the folder's top level, hidden ones left out, sorted: messages do not depend on the file system's order.
std::vector<std::string> list_folder(const fs::path& path) {
    std::vector<std::string> names;
    std::error_code error;
    fs::directory_iterator entry(path, error);
    if (error) fail(Code::failed_precondition, "cannot list ", path.string(), ": ", error.message());
    while (entry != fs::directory_iterator()) {
        std::string name = entry->path().filename().string();
        if (!name.starts_with('.')) names.push_back(std::move(name));
        entry.increment(error);
        if (error) fail(Code::data_loss, "cannot list ", path.string(), ": ", error.message());
    }
    std::sort(names.begin(), names.end());
    return names;
}

bool counts(std::string_view name) {
    return name.ends_with(safetensors_suffix) && !name.starts_with("consolidated") && !name.starts_with("adapter_");
}

/// What browsers, aria2 and huggingface_hub leave beside or instead of a file that is not all there.
void refuse_unfinished(const fs::path& path, const std::vector<std::string>& names) {
    for (const std::string& name : names)
        for (const std::string_view suffix : {".part", ".incomplete", ".crdownload", ".download", ".aria2"}) {
            if (!name.ends_with(suffix)) continue;
            const std::string_view stem = std::string_view(name).substr(0, name.size() - suffix.size());
            if (counts(stem))
                fail(Code::data_loss, (path / name).string(),
                     " is an unfinished download: finish it, or delete it if it is a leftover");
        }
}

struct ShardName {
    std::string prefix;
    uint64_t index = 0, count = 0;
};

/// "model-00002-of-00003.safetensors"
std::optional<ShardName> shard_name(std::string_view name) {
    name.remove_suffix(safetensors_suffix.size());
    const auto take_number = [&]() -> std::optional<uint64_t> {
        size_t digits = 0;
        while (digits < name.size() && name[name.size() - 1 - digits] >= '0' && name[name.size() - 1 - digits] <= '9')
            ++digits;
        if (digits == 0 || digits > 9) return std::nullopt;
        uint64_t value = 0;
        for (const char c : name.substr(name.size() - digits)) value = value * 10 + uint64_t(c - '0');
        name.remove_suffix(digits);
        return value;
    };
    const auto count = take_number();
    if (!count || !name.ends_with("-of-")) return std::nullopt;
    name.remove_suffix(4);
    const auto index = take_number();
    if (!index) return std::nullopt;
    return ShardName{std::string(name), *index, *count};
}

void refuse_missing_shard(const fs::path& path, const std::vector<std::string>& files) {
    std::map<std::pair<std::string, uint64_t>, std::set<uint64_t>> sets;
    for (const std::string& file : files)
        if (const auto shard = shard_name(file)) sets[{shard->prefix, shard->count}].insert(shard->index);
    for (const auto& [key, present] : sets) {
        const uint64_t first = present.contains(0) ? 0 : 1;
        for (uint64_t i = first; i < first + key.second; ++i) {
            if (present.contains(i)) continue;
            const auto padded = [](uint64_t n) {
                const std::string digits = std::to_string(n);
                return std::string(5 - std::min<size_t>(digits.size(), 5), '0') + digits;
            };
            fail(Code::not_found, path.string(), " has no ", key.first, padded(i), "-of-", padded(key.second),
                 safetensors_suffix, ": a part of the model is missing, download it");
        }
    }
}

/// The files that the index names, sorted; empty where there is no index.
std::vector<std::string> files_of_index(const fs::path& path, const std::vector<std::string>& names) {
    if (!std::binary_search(names.begin(), names.end(), index_name)) return {};
    const std::string name = (path / index_name).string();
    const Json document = read_json_file(path / index_name, index_limits);
    const auto map = JsonObject(document, name).object("weight_map");
    if (!map) fail(Code::invalid_argument, name, " has no weight_map: delete the file, or download it again");
    std::set<std::string> files;
    for (const auto& [tensor, file] : map->value().items()) {
        if (!file.is_string()) fail(Code::invalid_argument, map->where(tensor), " must be a file name");
        const std::string& file_name = file.get_ref<const std::string&>();
        if (file_name.empty() || file_name.find('/') != std::string::npos || file_name.find('\0') != std::string::npos)
            fail(Code::invalid_argument, map->where(tensor), " names the file \"", printable(file_name),
                 "\", which is not a plain file name");
        files.insert(file_name);
    }
    return {files.begin(), files.end()};
}

/// Empty where the index is to be ignored: a converter copied it and none of its files is here.
std::vector<std::string> files_of_complete_index(const fs::path& path, const std::vector<std::string>& names) {
    std::vector<std::string> files = files_of_index(path, names), missing;
    for (const std::string& file : files)
        if (!std::binary_search(names.begin(), names.end(), file)) missing.push_back(file);
    if (missing.empty()) return files;
    if (missing.size() == files.size() && std::any_of(names.begin(), names.end(), counts)) return {};
    fail(Code::not_found, path.string(), " has no ", printable(missing.front()), ", which ", index_name,
         " names: a part of the model is missing, download it");
}

[[noreturn]] void refuse_without_safetensors(const fs::path& path, const std::vector<std::string>& names) {
    const auto with = [&](auto... suffixes) -> const std::string* {
        for (const std::string& name : names)
            if ((name.ends_with(suffixes) || ...)) return &name;
        return nullptr;
    };
    const std::string& folder = path.string();
    if (const std::string* name = with(".gguf"))
        fail(Code::unimplemented, folder, " holds a GGUF model (", *name,
             "): turn it into a folder with `quantplug import-gguf`");
    if (const std::string* name = with(".bin", ".pt", ".pth"))
        fail(Code::unimplemented, folder, " holds its weights as a pickle (", *name,
             "), which is not read: convert the model to safetensors");
    if (const std::string* name = with(safetensors_suffix))
        fail(Code::unimplemented, folder, " has only ", *name,
             ", which is an adapter or has the names of another program: get the model in Hugging Face's layout");
    fail(Code::not_found, folder, " has no *.safetensors file: it is no model folder");
}

}  // namespace

struct ModelFolder::State {
    fs::path path;
    std::string name;
    std::vector<SafetensorsFile> files;
    std::vector<TensorInfo> tensors;   // sorted by name
    std::vector<uint32_t> file_index;  // of every tensor
    Json config, generation, tokenizer, quantize;
    std::string quantize_name;  // empty: no such file
    bool has_config = false;

    void add_file(const fs::path& file) { files.push_back(SafetensorsFile::open(file)); }

    /// Merges the headers into one sorted table.
    void index_tensors() {
        std::vector<std::pair<const TensorInfo*, uint32_t>> order;
        for (uint32_t f = 0; f < files.size(); ++f)
            for (const TensorInfo& tensor : files[f].tensors()) order.emplace_back(&tensor, f);
        std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
            return std::tie(a.first->name, a.second) < std::tie(b.first->name, b.second);
        });
        for (size_t i = 1; i < order.size(); ++i)
            if (order[i].first->name == order[i - 1].first->name)
                fail(Code::invalid_argument, "the tensor \"", printable(order[i].first->name), "\" is in two files, ",
                     files[order[i - 1].second].name(), " and ", files[order[i].second].name(),
                     ": remove the one that does not belong to the model");
        tensors.reserve(order.size());
        for (const auto& [tensor, file] : order) {
            tensors.push_back(*tensor);
            file_index.push_back(file);
        }
    }

    JsonObject object(const Json& json, std::string_view file) const { return {json, (path / file).string()}; }
};

ModelFolder::ModelFolder(std::unique_ptr<State> state) : state_(std::move(state)) {}
ModelFolder::ModelFolder(ModelFolder&&) noexcept = default;
ModelFolder& ModelFolder::operator=(ModelFolder&&) noexcept = default;
ModelFolder::~ModelFolder() = default;

ModelFolder ModelFolder::open(const fs::path& path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (status.type() == fs::file_type::not_found) fail(Code::not_found, path.string(), " does not exist");
    if (status.type() != fs::file_type::directory) {
        const File file = File::open(path);
        std::array<char, 4> magic{};
        if (file.size() >= magic.size()) file.read(0, std::as_writable_bytes(std::span(magic)));
        if (std::string_view(magic.data(), magic.size()) == "GGUF")
            fail(Code::unimplemented, path.string(),
                 " is a GGUF file: turn it into a folder with `quantplug import-gguf`");
        fail(Code::invalid_argument, path.string(), " is a file: give the folder of the model");
    }

    auto state = std::make_unique<State>();
    state->path = path;
    state->name = path.string();
    const std::vector<std::string> names = list_folder(path);
    std::vector<std::string> all;
    std::copy_if(names.begin(), names.end(), std::back_inserter(all), counts);
    refuse_unfinished(path, names);

    // EXL2 converters copy the source's index, which then names files that are not there or other contents.
    std::vector<SafetensorsFile> opened;
    for (const std::string& name : all) opened.push_back(SafetensorsFile::open(path / name));
    const bool is_exl2 = std::any_of(opened.begin(), opened.end(), [](const SafetensorsFile& file) {
        return std::any_of(file.tensors().begin(), file.tensors().end(),
                           [](const TensorInfo& tensor) { return tensor.name.ends_with(".q_weight"); });
    });
    const std::vector<std::string> indexed =
        is_exl2 ? std::vector<std::string>() : files_of_complete_index(path, names);
    if (indexed.empty()) {
        if (all.empty()) refuse_without_safetensors(path, names);
        refuse_missing_shard(path, all);
        state->files = std::move(opened);
    } else {
        for (const std::string& name : indexed) {
            const auto found = std::lower_bound(all.begin(), all.end(), name);
            if (found != all.end() && *found == name)
                state->files.push_back(std::move(opened[size_t(found - all.begin())]));
            else
                state->add_file(path / name);
        }
    }
    state->index_tensors();

    const auto read_config = [&](std::string_view name, Json& into) {
        if (!std::binary_search(names.begin(), names.end(), name)) {
            into = Json::object();
            return false;
        }
        into = read_json_file(path / name);
        JsonObject(into, (path / name).string());  // refuses anything but an object
        return true;
    };
    state->has_config = read_config("config.json", state->config);
    read_config("generation_config.json", state->generation);
    read_config("tokenizer_config.json", state->tokenizer);
    for (const std::string_view name : {"quantize_config.json", "quant_config.json"})
        if (read_config(name, state->quantize)) {
            state->quantize_name = name;
            break;
        }
    return ModelFolder(std::move(state));
}

ModelFolder ModelFolder::open_file(const fs::path& path) {
    auto state = std::make_unique<State>();
    state->path = path.parent_path();
    state->name = path.string();
    state->add_file(path);
    state->index_tensors();
    state->config = state->generation = state->tokenizer = state->quantize = Json::object();
    return ModelFolder(std::move(state));
}

const fs::path& ModelFolder::path() const { return state_->path; }
const std::string& ModelFolder::name() const { return state_->name; }
bool ModelFolder::has_config() const { return state_->has_config; }
JsonObject ModelFolder::config() const { return state_->object(state_->config, "config.json"); }
JsonObject ModelFolder::generation_config() const {
    return state_->object(state_->generation, "generation_config.json");
}
JsonObject ModelFolder::tokenizer_config() const { return state_->object(state_->tokenizer, "tokenizer_config.json"); }

std::optional<JsonObject> ModelFolder::quantization_config() const {
    if (!state_->quantize_name.empty()) return state_->object(state_->quantize, state_->quantize_name);
    if (const auto top = config().object("quantization_config")) return top;
    const auto text = config().object("text_config");
    return text ? text->object("quantization_config") : std::nullopt;
}

const std::vector<TensorInfo>& ModelFolder::tensors() const { return state_->tensors; }

const TensorInfo* ModelFolder::find(std::string_view name) const {
    const auto& tensors = state_->tensors;
    const auto found =
        std::lower_bound(tensors.begin(), tensors.end(), name,
                         [](const TensorInfo& tensor, std::string_view wanted) { return tensor.name < wanted; });
    return found != tensors.end() && found->name == name ? &*found : nullptr;
}

const TensorInfo& ModelFolder::tensor(std::string_view name) const {
    if (const TensorInfo* found = find(name)) return *found;
    fail(Code::not_found, state_->name, " has no tensor \"", printable(name), "\": the model is incomplete");
}

const TensorInfo& ModelFolder::tensor(std::string_view name, std::span<const int64_t> shape,
                                      std::span<const StoredType> types) const {
    const TensorInfo& found = tensor(name);
    const bool same_shape = std::equal(shape.begin(), shape.end(), found.shape.begin(), found.shape.end(),
                                       [](int64_t wanted, int64_t n) { return wanted < 0 || wanted == n; });
    if (same_shape && std::find(types.begin(), types.end(), found.type) != types.end()) return found;
    std::string expected;
    for (const StoredType type : types) expected += concat(expected.empty() ? "" : " or ", name_of(type));
    expected += " [";
    for (size_t i = 0; i < shape.size(); ++i)
        expected += concat(i ? ", " : "", shape[i] < 0 ? "any" : std::to_string(shape[i]));
    fail(Code::invalid_argument, file_of(found), ": tensor \"", printable(name), "\" is ", found.describe(),
         ", expected ", expected, "]: the file is damaged or not of this model");
}

const std::string& ModelFolder::file_of(const TensorInfo& tensor) const {
    return state_->files[state_->file_index[size_t(&tensor - state_->tensors.data())]].name();
}

std::string ModelFolder::metadata(std::string_view key) const {
    for (const SafetensorsFile& file : state_->files)
        if (const auto found = file.metadata().find(std::string(key)); found != file.metadata().end())
            return found->second;
    return {};
}

uint64_t ModelFolder::file_bytes() const {
    uint64_t bytes = 0;
    for (const SafetensorsFile& file : state_->files) bytes += file.size();
    return bytes;
}

bool ModelFolder::has_suffix(std::string_view suffix) const {
    return std::any_of(state_->tensors.begin(), state_->tensors.end(),
                       [&](const TensorInfo& tensor) { return tensor.name.ends_with(suffix); });
}

void ModelFolder::read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const {
    state_->files[state_->file_index[size_t(&tensor - state_->tensors.data())]].read(tensor, offset, out);
}

void ModelFolder::read_tensor(std::string_view name, std::span<std::byte> out) const {
    const TensorInfo& info = tensor(name);
    if (out.size() != info.bytes)
        fail(Code::internal, "tensor \"", printable(name), "\" has ", info.bytes, " bytes, the buffer ", out.size());
    read(info, 0, out);
}

void ModelFolder::read_rows(std::string_view name, int64_t row0, int64_t rows, std::span<std::byte> out) const {
    const TensorInfo& info = tensor(name);
    const int64_t height = info.shape.empty() ? 0 : info.shape.front();
    if (row0 < 0 || rows < 0 || row0 > height || rows > height - row0)
        fail(Code::out_of_range, "tensor \"", printable(name), "\" has ", height, " rows, but ", rows, " rows from ",
             row0, " were asked for");
    const uint64_t row_bytes = height == 0 ? 0 : info.bytes / uint64_t(height);
    if (out.size() != uint64_t(rows) * row_bytes)
        fail(Code::internal, rows, " rows of tensor \"", printable(name), "\" have ", uint64_t(rows) * row_bytes,
             " bytes, the buffer ", out.size());
    read(info, uint64_t(row0) * row_bytes, out);
}

void ModelFolder::check_value_size(const TensorInfo& tensor, size_t size) const {
    if (size_of(tensor.type) != size)
        fail(Code::invalid_argument, file_of(tensor), ": tensor \"", printable(tensor.name), "\" is ",
             tensor.describe(), ", expected values of ", size, " bytes");
}

std::vector<float> ModelFolder::read_f32(std::string_view name) const {
    const TensorInfo& info = tensor(name);
    std::vector<float> values;
    if (info.type == StoredType::f32) {
        values = read_values<float>(name);
    } else if (info.type == StoredType::f16 || info.type == StoredType::bf16) {
        const auto stored = read_values<uint16_t>(name);
        values.resize(stored.size());
        std::transform(stored.begin(), stored.end(), values.begin(),
                       info.type == StoredType::f16 ? kernels::f16_to_f32 : kernels::bf16_to_f32);
    } else {
        fail(Code::invalid_argument, file_of(info), ": tensor \"", printable(name), "\" is ", info.describe(),
             ", expected F32, F16 or BF16");
    }
    const auto bad = std::find_if_not(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
    if (bad != values.end())
        fail(Code::data_loss, file_of(info), ": tensor \"", printable(name), "\" is ", *bad, " at index ",
             bad - values.begin(), ": the file is damaged");
    return values;
}

std::vector<float> ModelFolder::read_f32(std::string_view name, int64_t count) const {
    const TensorInfo& info = tensor(name);
    if (info.count() != uint64_t(count))
        fail(Code::invalid_argument, file_of(info), ": tensor \"", printable(name), "\" is ", info.describe(),
             ", expected ", count, " values");
    return read_f32(name);
}

}  // namespace quantplug::engine
