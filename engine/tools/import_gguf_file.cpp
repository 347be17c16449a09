#include "engine/tools/import_gguf_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <span>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"

namespace quantplug::engine {

namespace {

enum : uint32_t { t_u8, t_i8, t_u16, t_i16, t_u32, t_i32, t_f32, t_bool, t_string, t_array, t_u64, t_i64, t_f64 };

constexpr uint64_t max_pairs = 1 << 16;
constexpr uint64_t max_tensors = 1 << 20;
constexpr uint64_t max_name = 1 << 16;
constexpr uint64_t max_string = uint64_t{16} << 20;
constexpr uint64_t max_array = uint64_t{1} << 24;
constexpr uint64_t max_small_array = 1 << 16;
constexpr uint64_t max_alignment = 1 << 20;
constexpr size_t window_bytes = 1 << 16;

/// Bytes of a scalar; of a string the length alone; 0: no such type, or an array.
uint64_t least_bytes(uint32_t type) {
    switch (type) {
        case t_u8:
        case t_i8:
        case t_bool:
            return 1;
        case t_u16:
        case t_i16:
            return 2;
        case t_u32:
        case t_i32:
        case t_f32:
            return 4;
        case t_u64:
        case t_i64:
        case t_f64:
        case t_string:
            return 8;
        default:
            return 0;
    }
}

bool is_integer(uint32_t type) {
    return type != t_f32 && type != t_f64 && type != t_bool && type != t_string && type != t_array;
}

/// 9.999999747378752e-06 is what became of 1e-05: the shortest decimal that is the same FP32.
double shortest(float value) {
    std::array<char, 32> text{};
    const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
    double result = value;
    std::from_chars(text.data(), end, result);
    return result;
}

}  // namespace

/// Reads forwards through a window, never past the end.
class GgufFile::Cursor {
 public:
    explicit Cursor(const ByteSource& source) : source_(source) {}

    uint64_t position() const { return position_; }
    uint64_t left() const { return source_.size() - position_; }

    void take(std::span<std::byte> out) {
        if (out.size() > left())
            fail(Code::data_loss, source_.name(), " ends inside its header: the download is incomplete");
        if (position_ < start_ || position_ + out.size() > start_ + window_.size()) {
            if (out.size() > window_bytes) {
                source_.read(position_, out);
                position_ += out.size();
                return;
            }
            window_.resize(size_t(std::min<uint64_t>(window_bytes, left())));
            start_ = position_;
            source_.read(start_, window_);
        }
        if (!out.empty()) std::memcpy(out.data(), window_.data() + (position_ - start_), out.size());
        position_ += out.size();
    }

    template <typename T>
    T value() {
        T result;
        take(std::as_writable_bytes(std::span(&result, 1)));
        return result;
    }

    std::string text(uint64_t limit, const char* what) {
        const auto length = value<uint64_t>();
        if (length > left())
            fail(Code::data_loss, source_.name(), " has ", what, " of ", length, " bytes at byte ", position_ - 8,
                 " but only ", left(), " bytes follow: the file is damaged or the download incomplete");
        if (length > limit)
            fail(Code::invalid_argument, source_.name(), " has ", what, " of ", length, " bytes, expected at most ",
                 limit);
        std::string result(size_t(length), '\0');
        take(std::as_writable_bytes(std::span(result)));
        return result;
    }

    void skip(uint64_t bytes) {
        if (bytes > left())
            fail(Code::data_loss, source_.name(), " ends inside its header: the download is incomplete");
        position_ += bytes;
    }

    int64_t integer(uint32_t type) {
        switch (type) {
            case t_u8:
                return value<uint8_t>();
            case t_i8:
                return value<int8_t>();
            case t_u16:
                return value<uint16_t>();
            case t_i16:
                return value<int16_t>();
            case t_u32:
                return value<uint32_t>();
            case t_i32:
                return value<int32_t>();
            case t_u64:
                return int64_t(std::min(value<uint64_t>(), uint64_t(std::numeric_limits<int64_t>::max())));
            default:
                return value<int64_t>();
        }
    }

 private:
    const ByteSource& source_;
    uint64_t position_ = 0, start_ = 0;
    std::vector<std::byte> window_;
};

std::string GgufTensor::describe() const {
    std::string text = concat(type->name, " [");
    for (size_t i = 0; i < shape.size(); ++i) text += concat(i ? ", " : "", shape[i]);
    return text + "]";
}

GgufFile::GgufFile(const ByteSource& source) : source_(source) {
    const std::string& name = source.name();
    if (source.size() == 0) fail(Code::data_loss, name, " is empty: the download failed, fetch the file again");
    std::string start(size_t(std::min<uint64_t>(source.size(), 64)), '\0');
    source.read(0, std::as_writable_bytes(std::span(start)));
    if (start.starts_with("version https://git-lfs"))
        fail(Code::data_loss, name, " is a Git-LFS pointer, not the model: run `git lfs pull` in its folder");
    if (!start.starts_with("GGUF"))
        fail(Code::invalid_argument, name, " is no GGUF file: it does not begin with \"GGUF\"");

    Cursor cursor(source);
    cursor.skip(4);
    const auto version = cursor.value<uint32_t>();
    if (version >> 16 != 0 && (version & 0xffff) == 0)
        fail(Code::unimplemented, name,
             " is a big-endian GGUF file, which is not supported: get the little-endian one");
    if (version != 2 && version != 3)
        fail(Code::unimplemented, name, " is GGUF version ", version,
             ", supported are 2 and 3: convert the model again");
    const auto n_tensors = cursor.value<uint64_t>();
    const auto n_pairs = cursor.value<uint64_t>();
    // The least that a tensor takes is 32 bytes, a pair 13.
    if (n_tensors > max_tensors || n_tensors > cursor.left() / 32)
        fail(Code::data_loss, name, " claims ", n_tensors, " tensors, more than its ", source.size(),
             " bytes can describe");
    if (n_pairs > max_pairs || n_pairs > cursor.left() / 13)
        fail(Code::data_loss, name, " claims ", n_pairs, " metadata entries, more than its ", source.size(),
             " bytes can hold");
    read_metadata(cursor, n_pairs);
    read_tensors(cursor, n_tensors);
    place_tensors(cursor.position());
}

void GgufFile::read_metadata(Cursor& cursor, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) {
        const std::string key = cursor.text(max_name, "a metadata key");
        const auto type = cursor.value<uint32_t>();
        Value value = type == t_array ? read_array(cursor, key) : read_value(cursor, key, type);
        if (!values_.emplace(key, std::move(value)).second)
            fail(Code::invalid_argument, source_.name(), " has the metadata key \"", printable(key), "\" twice");
    }
}

GgufFile::Value GgufFile::read_value(Cursor& cursor, const std::string& key, uint32_t type) {
    switch (type) {
        case t_f32:
            return shortest(cursor.value<float>());
        case t_f64:
            return cursor.value<double>();
        case t_bool:
            return cursor.value<uint8_t>() != 0;
        case t_string:
            return cursor.text(max_string, "a string");
        default:
            break;
    }
    if (least_bytes(type) == 0)
        fail(Code::invalid_argument, source_.name(), ": the metadata key \"", printable(key),
             "\" has the unknown type ", type);
    return cursor.integer(type);
}

GgufFile::Value GgufFile::read_array(Cursor& cursor, const std::string& key) {
    const auto type = cursor.value<uint32_t>();
    const auto count = cursor.value<uint64_t>();
    const uint64_t least = least_bytes(type);
    if (least == 0)
        fail(Code::invalid_argument, source_.name(), ": the metadata key \"", printable(key), "\" is a list of type ",
             type, type == t_array ? " (lists in lists are not supported)" : "");
    if (count > max_array || count > cursor.left() / least)
        fail(Code::data_loss, source_.name(), ": the metadata key \"", printable(key), "\" claims ", count,
             " entries, more than the file can hold");
    // Only the tokenizer's lists are needed whole, and short ones such as sizes per layer.
    const bool keep = key.starts_with("tokenizer.") || count <= max_small_array;
    if (type == t_string) {
        std::vector<std::string> list;
        for (uint64_t i = 0; i < count; ++i) {
            std::string text = cursor.text(max_string, "a string");
            if (keep) list.push_back(std::move(text));
        }
        return list;
    }
    if (!keep) {
        cursor.skip(count * least);
        return std::vector<int64_t>();
    }
    if (is_integer(type)) {
        std::vector<int64_t> list(static_cast<size_t>(count));
        for (int64_t& value : list) value = cursor.integer(type);
        return list;
    }
    if (type == t_bool) {
        std::vector<int64_t> list(static_cast<size_t>(count));
        for (int64_t& value : list) value = cursor.value<uint8_t>() != 0;
        return list;
    }
    std::vector<double> list(static_cast<size_t>(count));
    for (double& value : list) value = type == t_f32 ? double(cursor.value<float>()) : cursor.value<double>();
    return list;
}

void GgufFile::read_tensors(Cursor& cursor, uint64_t count) {
    tensors_.reserve(size_t(count));
    for (uint64_t i = 0; i < count; ++i) {
        GgufTensor tensor;
        tensor.name = cursor.text(max_name, "a tensor name");
        const std::string name = concat(source_.name(), ": tensor \"", printable(tensor.name), "\"");
        const auto dimensions = cursor.value<uint32_t>();
        if (dimensions == 0 || dimensions > 4)
            fail(Code::invalid_argument, name, " has ", dimensions, " dimensions, expected 1 to 4");
        uint64_t values = 1;
        for (uint32_t k = 0; k < dimensions; ++k) {
            const auto n = cursor.value<uint64_t>();
            if (n == 0 || __builtin_mul_overflow(values, n, &values) || values > uint64_t{1} << 48)
                fail(Code::invalid_argument, name, " has an impossible dimension of ", n);
            tensor.shape.insert(tensor.shape.begin(), int64_t(n));
        }
        const auto type = cursor.value<uint32_t>();
        tensor.type = gguf_type(type);
        if (!tensor.type)
            fail(Code::unimplemented, name, " is ", gguf_type_name(type),
                 ", which is not supported: use an F32, F16, BF16, Q8_0, Q5_1, "
                 "Q5_0, Q4_1 or Q4_0 version of the model");
        if (tensor.shape.back() % tensor.type->block_values != 0)
            fail(Code::invalid_argument, name, " is ", tensor.describe(), ", but blocks have ",
                 tensor.type->block_values, " values");
        tensor.bytes = values / uint64_t(tensor.type->block_values) * uint64_t(tensor.type->block_bytes);
        tensor.offset = cursor.value<uint64_t>();  // from the start of the data until place_tensors
        if (!by_name_.emplace(tensor.name, tensors_.size()).second)
            fail(Code::invalid_argument, name, " is there twice");
        tensors_.push_back(std::move(tensor));
    }
}

void GgufFile::place_tensors(uint64_t head_end) {
    const int64_t alignment = integer("general.alignment").value_or(32);
    if (alignment < 1 || uint64_t(alignment) > max_alignment || !std::has_single_bit(uint64_t(alignment)))
        fail(Code::invalid_argument, source_.name(), ": general.alignment is ", alignment, ", expected a power of two");
    const uint64_t step = uint64_t(alignment);
    const uint64_t data_start = (head_end + step - 1) / step * step;
    std::vector<const GgufTensor*> order;
    for (GgufTensor& tensor : tensors_) {
        const std::string name = concat(source_.name(), ": tensor \"", printable(tensor.name), "\"");
        if (tensor.offset % step != 0)
            fail(Code::invalid_argument, name, " begins at byte ", tensor.offset, ", which is not aligned to ",
                 alignment);
        if (tensor.offset > uint64_t{1} << 50) fail(Code::invalid_argument, name, " begins at byte ", tensor.offset);
        tensor.offset += data_start;
        if (tensor.offset > source_.size() || tensor.bytes > source_.size() - tensor.offset)
            fail(Code::data_loss, source_.name(), " claims ", tensor.offset + tensor.bytes, " bytes but the file has ",
                 source_.size(), ": the download is incomplete (tensor \"", printable(tensor.name), "\" is cut off)");
        order.push_back(&tensor);
    }
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->offset < b->offset; });
    for (size_t i = 1; i < order.size(); ++i)
        if (order[i]->offset < order[i - 1]->offset + order[i - 1]->bytes)
            fail(Code::invalid_argument, source_.name(), ": the tensors \"", printable(order[i - 1]->name), "\" and \"",
                 printable(order[i]->name), "\" overlap");
}

const GgufTensor* GgufFile::find(std::string_view name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

const GgufFile::Value* GgufFile::find_value(const std::string& key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? nullptr : &found->second;
}

void GgufFile::wrong_type(const std::string& key, const char* expected) const {
    fail(Code::invalid_argument, source_.name(), ": the metadata key \"", printable(key), "\" must be ", expected);
}

std::optional<int64_t> GgufFile::integer(const std::string& key) const {
    const Value* value = find_value(key);
    if (!value) return std::nullopt;
    if (const auto* number = std::get_if<int64_t>(value)) return *number;
    wrong_type(key, "an integer");
}

std::optional<double> GgufFile::number(const std::string& key) const {
    const Value* value = find_value(key);
    if (!value) return std::nullopt;
    if (const auto* number = std::get_if<int64_t>(value)) return double(*number);
    if (const auto* number = std::get_if<double>(value)) return *number;
    wrong_type(key, "a number");
}

std::optional<bool> GgufFile::boolean(const std::string& key) const {
    const Value* value = find_value(key);
    if (!value) return std::nullopt;
    if (const auto* flag = std::get_if<bool>(value)) return *flag;
    wrong_type(key, "true or false");
}

std::optional<std::string> GgufFile::string(const std::string& key) const {
    const Value* value = find_value(key);
    if (!value) return std::nullopt;
    if (const auto* text = std::get_if<std::string>(value)) return *text;
    wrong_type(key, "a string");
}

std::vector<int64_t> GgufFile::integers(const std::string& key) const {
    const Value* value = find_value(key);
    if (!value) return {};
    if (const auto* number = std::get_if<int64_t>(value)) return {*number};
    if (const auto* list = std::get_if<std::vector<int64_t>>(value)) return *list;
    wrong_type(key, "an integer or a list of integers");
}

std::vector<double> GgufFile::numbers(const std::string& key) const {
    const Value* value = find_value(key);
    if (!value) return {};
    if (const auto* number = std::get_if<double>(value)) return {*number};
    if (const auto* list = std::get_if<std::vector<double>>(value)) return *list;
    wrong_type(key, "a number or a list of numbers");
}

const std::vector<std::string>* GgufFile::strings(const std::string& key) const {
    const Value* value = find_value(key);
    if (!value) return nullptr;
    if (const auto* list = std::get_if<std::vector<std::string>>(value)) return list;
    wrong_type(key, "a list of strings");
}

}  // namespace quantplug::engine
