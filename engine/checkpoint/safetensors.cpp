#include "engine/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <unordered_set>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"

namespace quantplug::engine {

namespace {

// The reference implementation's limit.
constexpr uint64_t max_header_bytes = 100'000'000;
constexpr size_t max_dimensions = 16;

struct TypeRow {
    StoredType type;
    std::string_view name;
    uint64_t bytes;
};
constexpr std::array<TypeRow, 15> type_rows{{
    {StoredType::boolean, "BOOL", 1},
    {StoredType::u8, "U8", 1},
    {StoredType::i8, "I8", 1},
    {StoredType::f8_e4m3, "F8_E4M3", 1},
    {StoredType::f8_e5m2, "F8_E5M2", 1},
    {StoredType::u16, "U16", 2},
    {StoredType::i16, "I16", 2},
    {StoredType::f16, "F16", 2},
    {StoredType::bf16, "BF16", 2},
    {StoredType::u32, "U32", 4},
    {StoredType::i32, "I32", 4},
    {StoredType::f32, "F32", 4},
    {StoredType::u64, "U64", 8},
    {StoredType::i64, "I64", 8},
    {StoredType::f64, "F64", 8},
}};

}  // namespace

uint64_t size_of(StoredType type) {
    for (const TypeRow& row : type_rows)
        if (row.type == type) return row.bytes;
    return 0;
}

std::string_view name_of(StoredType type) {
    for (const TypeRow& row : type_rows)
        if (row.type == type) return row.name;
    return "?";
}

StoredType stored_type(std::string_view name) {
    for (const TypeRow& row : type_rows)
        if (row.name == name) return row.type;
    return StoredType::unknown;
}

uint64_t TensorInfo::count() const {
    return std::accumulate(shape.begin(), shape.end(), uint64_t{1},
                           [](uint64_t product, int64_t n) { return product * uint64_t(n); });
}

std::string TensorInfo::describe() const {
    std::string text = printable(type_name) + " [";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
}

namespace {

/// Takes the header's events: a model with many experts has 100,000 tensors, whose DOM would be several times the
/// header.
class HeaderHandler final : public nlohmann::json_sax<nlohmann::json> {
 public:
    HeaderHandler(const ByteSource& source, uint64_t data_start) : source_(source), data_start_(data_start) {}

    SafetensorsHeader take() {
        if (!done_) damaged("it ends early");
        return std::move(header_);
    }

    bool start_object(size_t) override {
        if (depth_ == 0 && !done_) {
            depth_ = 1;
        } else if (depth_ == 1) {
            depth_ = 2;
            if (!in_metadata_) {
                tensor_ = TensorInfo{};
                tensor_.name = key_;
                has_type_ = has_shape_ = false;
                offsets_.clear();
            }
        } else {
            unexpected("an object");
        }
        return true;
    }

    bool end_object() override {
        if (depth_ == 2) {
            if (!in_metadata_) finish_tensor();
            in_metadata_ = false;
        } else {
            done_ = true;
        }
        --depth_;
        return true;
    }

    bool key(std::string& name) override {
        if (depth_ == 1) {
            if (!names_.insert(name).second)
                fail(Code::invalid_argument, source_.name(), " has the tensor \"", printable(name), "\" twice");
            in_metadata_ = name == "__metadata__";
            key_ = name;
        } else {
            field_ = name;
        }
        return true;
    }

    bool string(std::string& value) override {
        if (depth_ == 2 && in_metadata_) {
            header_.metadata.insert_or_assign(field_, value);
        } else if (depth_ == 2 && field_ == "dtype" && !has_type_) {
            has_type_ = true;
            tensor_.type = stored_type(value);
            tensor_.type_name = value;
        } else {
            unexpected("a string");
        }
        return true;
    }

    bool start_array(size_t) override {
        if (depth_ == 2 && !in_metadata_ && field_ == "shape" && !has_shape_) {
            has_shape_ = true;
        } else if (!(depth_ == 2 && !in_metadata_ && field_ == "data_offsets" && offsets_.empty())) {
            unexpected("a list");
        }
        depth_ = 3;
        return true;
    }

    bool end_array() override {
        depth_ = 2;
        return true;
    }

    bool number_unsigned(uint64_t value) override {
        if (depth_ != 3) unexpected("a number");
        if (field_ == "shape") {
            if (value > uint64_t{1} << 62)
                damaged(concat("tensor \"", printable(key_), "\" has a dimension of ", value));
            if (tensor_.shape.size() == max_dimensions)
                damaged(concat("tensor \"", printable(key_), "\" has more than ", max_dimensions, " dimensions"));
            tensor_.shape.push_back(int64_t(value));
        } else {
            if (offsets_.size() == 2)
                damaged(concat("tensor \"", printable(key_), "\" has more than two data_offsets"));
            offsets_.push_back(value);
        }
        return true;
    }

    bool number_integer(int64_t value) override {
        damaged(concat("tensor \"", printable(key_), "\" has the negative number ", value));
    }
    bool number_float(double value, const std::string&) override {
        damaged(concat("tensor \"", printable(key_), "\" has the number ", value));
    }
    bool null() override {
        if (depth_ == 1 && in_metadata_) return true;
        unexpected("null");
    }
    bool boolean(bool) override { unexpected("a boolean"); }
    bool binary(nlohmann::json::binary_t&) override { unexpected("binary data"); }
    bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
        damaged(concat("it is not valid JSON near byte ", position));
    }

 private:
    [[noreturn]] void damaged(const std::string& what) const {
        fail(Code::invalid_argument, source_.name(), " has a damaged safetensors header: ", what);
    }
    [[noreturn]] void unexpected(const char* what) const {
        damaged(concat(
            what, " where none belongs",
            depth_ == 0 ? std::string() : concat(" (in \"", printable(key_), "\", twice or of the wrong type)")));
    }

    void finish_tensor() {
        const std::string name = printable(key_);
        if (!has_type_ || !has_shape_ || offsets_.size() != 2)
            damaged(concat("tensor \"", name, "\" needs dtype, shape and two data_offsets"));
        const uint64_t begin = offsets_[0], end = offsets_[1];
        if (begin > end) damaged(concat("tensor \"", name, "\" begins at ", begin, " and ends before, at ", end));
        if (end > source_.size() - data_start_) {
            // Not wrong but cut off, as far as one can see: what the largest claims is told at the end.
            if (end > claimed_) claimed_ = end, claimed_by_ = name;
        }
        uint64_t count = 1;
        for (const int64_t n : tensor_.shape)
            if (__builtin_mul_overflow(count, uint64_t(n), &count))
                damaged(concat("the shape of \"", name, "\" overflows"));
        if (tensor_.type != StoredType::unknown) {
            uint64_t bytes = 0;
            if (__builtin_mul_overflow(count, size_of(tensor_.type), &bytes) || bytes != end - begin)
                damaged(concat("tensor \"", name, "\" is ", tensor_.describe(), " but has ", end - begin, " bytes"));
        }
        tensor_.offset = begin;  // the file's size is checked before data_start is added
        tensor_.bytes = end - begin;
        header_.tensors.push_back(std::move(tensor_));
    }

 public:
    /// The end that the tensors claim, where it lies outside the file; 0 otherwise.
    uint64_t claimed_end() const { return claimed_; }
    const std::string& claimed_by() const { return claimed_by_; }

 private:
    const ByteSource& source_;
    uint64_t data_start_;
    SafetensorsHeader header_;
    std::unordered_set<std::string> names_;
    std::string key_, field_, claimed_by_;
    TensorInfo tensor_;
    std::vector<uint64_t> offsets_;
    uint64_t claimed_ = 0;
    int depth_ = 0;  // 1 header, 2 tensor or metadata, 3 list
    bool done_ = false, in_metadata_ = false, has_type_ = false, has_shape_ = false;
};

void refuse_overlap(const ByteSource& source, const std::vector<TensorInfo>& tensors) {
    std::vector<const TensorInfo*> order;
    order.reserve(tensors.size());
    for (const TensorInfo& tensor : tensors)
        if (tensor.bytes > 0) order.push_back(&tensor);
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->offset < b->offset; });
    for (size_t i = 1; i < order.size(); ++i)
        if (order[i]->offset < order[i - 1]->offset + order[i - 1]->bytes)
            fail(Code::invalid_argument, source.name(), " has a damaged safetensors header: the tensors \"",
                 printable(order[i - 1]->name), "\" and \"", printable(order[i]->name), "\" overlap");
}

}  // namespace

SafetensorsHeader read_safetensors_header(const ByteSource& source) {
    const uint64_t size = source.size();
    if (size == 0) fail(Code::data_loss, source.name(), " is empty: the download failed, fetch the file again");
    // A Git-LFS pointer is a text of about 130 bytes.
    std::string start(size_t(std::min<uint64_t>(size, 128)), '\0');
    source.read(0, std::as_writable_bytes(std::span(start)));
    if (start.starts_with("version https://git-lfs"))
        fail(Code::data_loss, source.name(),
             " is a Git-LFS pointer, not the weights: run `git lfs pull` in the model folder");
    if (size < 8) fail(Code::data_loss, source.name(), " has only ", size, " bytes: the download is incomplete");
    uint64_t header_bytes = 0;
    for (size_t i = 0; i < 8; ++i) header_bytes |= uint64_t(uint8_t(start[i])) << (8 * i);
    if (header_bytes > max_header_bytes)
        fail(Code::invalid_argument, source.name(), " is no safetensors file, or a damaged one: its header would have ",
             header_bytes, " bytes");
    if (header_bytes > size - 8)
        fail(Code::data_loss, source.name(), " claims a header of ", header_bytes, " bytes but the file has ", size,
             ": the download is incomplete");
    std::string text(size_t(header_bytes), '\0');
    source.read(8, std::as_writable_bytes(std::span(text)));
    if (!text.starts_with('{'))
        fail(Code::invalid_argument, source.name(), " is no safetensors file: its header does not begin with a brace");

    const uint64_t data_start = 8 + header_bytes;
    HeaderHandler handler(source, data_start);
    nlohmann::json::sax_parse(text, &handler);
    SafetensorsHeader header = handler.take();
    if (handler.claimed_end() > 0) {
        // A header is only trusted with "incomplete" where its numbers can be a file's.
        if (handler.claimed_end() > uint64_t{1} << 50)
            fail(Code::invalid_argument, source.name(), " has a damaged safetensors header: tensor \"",
                 handler.claimed_by(), "\" ends at byte ", handler.claimed_end());
        fail(Code::data_loss, source.name(), " claims ", data_start + handler.claimed_end(), " bytes but the file has ",
             size, ": the download is incomplete (tensor \"", handler.claimed_by(), "\" is cut off)");
    }
    refuse_overlap(source, header.tensors);
    for (TensorInfo& tensor : header.tensors) tensor.offset += data_start;
    return header;
}

SafetensorsFile::SafetensorsFile(std::unique_ptr<ByteSource> source)
    : source_(std::move(source)), header_(read_safetensors_header(*source_)) {}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
    return SafetensorsFile(std::make_unique<File>(File::open(path)));
}

void SafetensorsFile::read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const {
    if (tensor.type == StoredType::unknown)
        fail(Code::unimplemented, source_->name(), ": tensor \"", printable(tensor.name), "\" has the type ",
             printable(tensor.type_name), ", which is not supported");
    if (offset > tensor.bytes || out.size() > tensor.bytes - offset)
        fail(Code::out_of_range, source_->name(), ": tensor \"", printable(tensor.name), "\" has ", tensor.bytes,
             " bytes, but bytes ", offset, " to ", offset + out.size(), " were asked for");
    source_->read(tensor.offset + offset, out);
}

}  // namespace quantplug::engine
