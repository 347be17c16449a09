#include "engine/tools/sharded_writer.h"

#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "engine/base/error.h"

namespace quantplug::engine {

uint64_t bytes_of(const TensorDecl& tensor) {
    uint64_t bytes = size_of(tensor.type);
    for (const int64_t n : tensor.shape)
        if (n < 0 || __builtin_mul_overflow(bytes, uint64_t(n), &bytes))
            fail(Code::resource_exhausted, "tensor ", tensor.name, " would have more bytes than can be counted");
    return bytes;
}

ShardedWriter::ShardedWriter(std::filesystem::path folder, std::string stem, std::vector<TensorDecl> tensors,
                             uint64_t max_file_bytes)
    : folder_(std::move(folder)), stem_(std::move(stem)) {
    files_.emplace_back();
    uint64_t in_file = 0;
    for (TensorDecl& tensor : tensors) {
        const uint64_t bytes = bytes_of(tensor);
        if (in_file > 0 && (bytes > max_file_bytes || in_file > max_file_bytes - bytes)) {
            files_.emplace_back();
            in_file = 0;
        }
        in_file += bytes;
        tensor_bytes_ += bytes;
        file_of_.emplace(tensor.name, files_.size() - 1);
        files_.back().push_back(std::move(tensor));
    }
    open(0);
}

std::string ShardedWriter::file_name(size_t file) const {
    if (files_.size() == 1) return stem_ + ".safetensors";
    std::array<char, 64> numbers{};
    std::snprintf(numbers.data(), numbers.size(), "-%05zu-of-%05zu.safetensors", file + 1, files_.size());
    return stem_ + numbers.data();
}

void ShardedWriter::open(size_t file) {
    current_ = file;
    writer_ = std::make_unique<SafetensorsWriter>(folder_ / file_name(file), files_[file]);
}

void ShardedWriter::write(std::string_view name, std::span<const std::byte> bytes) {
    const auto found = file_of_.find(name);
    if (found == file_of_.end() || found->second < current_)
        fail(Code::internal, "tensor ", name, " was not declared, or its file is finished");
    while (current_ < found->second) {
        written_ += writer_->finish();
        open(current_ + 1);
    }
    writer_->write(name, bytes);
}

uint64_t ShardedWriter::finish() {
    written_ += writer_->finish();
    writer_.reset();
    if (current_ + 1 != files_.size())
        fail(Code::internal, "file ", current_ + 2, " of ", files_.size(), " was never written");
    return written_;
}

std::optional<std::string> ShardedWriter::index_json() const {
    if (files_.size() == 1) return std::nullopt;
    nlohmann::json map = nlohmann::json::object();
    for (const auto& [name, file] : file_of_) map[name] = file_name(file);
    return nlohmann::json{{"metadata", {{"total_size", tensor_bytes_}}}, {"weight_map", std::move(map)}}.dump(2) + "\n";
}

}  // namespace quantplug::engine
