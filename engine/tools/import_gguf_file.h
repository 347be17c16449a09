// The GGUF container, versions 2 and 3: metadata, tensor table, aligned data.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/checkpoint/bytes.h"
#include "engine/tools/import_gguf_blocks.h"

namespace quantplug::engine {

struct GgufTensor {
    std::string name;
    const GgufType* type = nullptr;
    std::vector<int64_t> shape;  // outermost first, as in Hugging Face's files; the file has them the other way round
    uint64_t offset = 0;         // from the start of the file
    uint64_t bytes = 0;

    std::string describe() const;  // "Q4_1 [576, 1536]"
};

/// The parsed head of a file. Borrows the source.
class GgufFile {
 public:
    /// Reads and checks everything before the data: counts, lengths and nesting before anything is allocated; every
    /// tensor inside the file, no overlap, no name twice; types that are not decoded are refused by name.
    explicit GgufFile(const ByteSource& source);

    const ByteSource& source() const { return source_; }
    const std::vector<GgufTensor>& tensors() const { return tensors_; }
    const GgufTensor* find(std::string_view name) const;

    // Metadata. Empty where the key is missing, an error that names it where its type is another.
    std::optional<int64_t> integer(const std::string& key) const;
    std::optional<double> number(const std::string& key) const;
    std::optional<bool> boolean(const std::string& key) const;
    std::optional<std::string> string(const std::string& key) const;
    /// One number or a list of them.
    std::vector<int64_t> integers(const std::string& key) const;
    std::vector<double> numbers(const std::string& key) const;
    const std::vector<std::string>* strings(const std::string& key) const;

 private:
    using Value = std::variant<int64_t, double, bool, std::string, std::vector<int64_t>, std::vector<double>,
                               std::vector<std::string>>;
    class Cursor;

    void read_metadata(Cursor& cursor, uint64_t count);
    Value read_value(Cursor& cursor, const std::string& key, uint32_t type);
    Value read_array(Cursor& cursor, const std::string& key);
    void read_tensors(Cursor& cursor, uint64_t count);
    void place_tensors(uint64_t head_end);
    const Value* find_value(const std::string& key) const;
    [[noreturn]] void wrong_type(const std::string& key, const char* expected) const;

    const ByteSource& source_;
    std::map<std::string, Value> values_;
    std::vector<GgufTensor> tensors_;  // in file order
    std::map<std::string, size_t, std::less<>> by_name_;
};

}  // namespace quantplug::engine
