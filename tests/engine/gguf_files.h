// GGUF files made by hand: the container by its specification, and a tiny model in it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "checkpoint_files.h"

namespace quantplug::test {

inline std::string gguf_string(const std::string& text) { return bytes_of(uint64_t(text.size())) + text; }

/// Keys and tensors in the order they were added; a key that is set again is replaced.
class GgufBuilder {
 public:
    enum Type : uint32_t { u32 = 4, i32 = 5, f32 = 6, boolean = 7, string = 8, array = 9, u64 = 10 };

    GgufBuilder& raw(const std::string& key, uint32_t type, const std::string& bytes) {
        for (auto& pair : pairs_)
            if (pair.first == key) {
                pair.second = bytes_of(type) + bytes;
                return *this;
            }
        pairs_.emplace_back(key, bytes_of(type) + bytes);
        return *this;
    }
    GgufBuilder& drop(const std::string& key) {
        std::erase_if(pairs_, [&](const auto& pair) { return pair.first == key; });
        return *this;
    }
    GgufBuilder& number(const std::string& key, uint32_t value) { return raw(key, u32, bytes_of(value)); }
    GgufBuilder& real(const std::string& key, float value) { return raw(key, f32, bytes_of(value)); }
    GgufBuilder& flag(const std::string& key, bool value) { return raw(key, boolean, std::string(1, char(value))); }
    GgufBuilder& text(const std::string& key, const std::string& value) { return raw(key, string, gguf_string(value)); }
    GgufBuilder& texts(const std::string& key, const std::vector<std::string>& list) {
        std::string bytes = bytes_of(uint32_t(string)) + bytes_of(uint64_t(list.size()));
        for (const std::string& item : list) bytes += gguf_string(item);
        return raw(key, array, bytes);
    }
    template <typename T>
    GgufBuilder& list(const std::string& key, Type type, const std::vector<T>& values) {
        return raw(key, array, bytes_of(uint32_t(type)) + bytes_of(uint64_t(values.size())) + bytes_of(values));
    }
    /// `shape` outermost first.
    GgufBuilder& tensor(const std::string& name, uint32_t type, std::vector<int64_t> shape, const std::string& bytes) {
        std::erase_if(tensors_, [&](const auto& other) { return other.name == name; });
        tensors_.push_back({name, type, std::move(shape), bytes});
        return *this;
    }
    GgufBuilder& drop_tensor(const std::string& name) {
        std::erase_if(tensors_, [&](const auto& other) { return other.name == name; });
        return *this;
    }

    std::string head() const { return build().first; }
    std::string bytes() const {
        const auto [head, data] = build();
        return head + data;
    }

 private:
    struct Tensor {
        std::string name;
        uint32_t type;
        std::vector<int64_t> shape;
        std::string bytes;
    };

    static std::string padded(std::string text) {
        text.resize((text.size() + 31) / 32 * 32, '\0');
        return text;
    }

    std::pair<std::string, std::string> build() const {
        std::string head =
            "GGUF" + bytes_of(uint32_t{3}) + bytes_of(uint64_t(tensors_.size())) + bytes_of(uint64_t(pairs_.size()));
        for (const auto& [key, value] : pairs_) head += gguf_string(key) + value;
        std::string data;
        for (const Tensor& tensor : tensors_) {
            head += gguf_string(tensor.name) + bytes_of(uint32_t(tensor.shape.size()));
            for (size_t i = tensor.shape.size(); i-- > 0;) head += bytes_of(uint64_t(tensor.shape[i]));
            head += bytes_of(tensor.type) + bytes_of(uint64_t(data.size()));
            data = padded(data + tensor.bytes);
        }
        return {padded(head), data};
    }

    std::vector<std::pair<std::string, std::string>> pairs_;
    std::vector<Tensor> tensors_;
};

/// A byte-level vocabulary of all 256 bytes, a few merges and two control tokens: GPT-2's table of bytes.
struct TinyVocabulary {
    std::vector<std::string> tokens, merges{"h e", "l l", "he ll", "hell o", "\xc4\xa0 w"};
    std::vector<int32_t> types;

    TinyVocabulary() {
        int next = 256;
        for (int byte = 0; byte < 256; ++byte) {
            const bool shown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
            const int code = shown ? byte : next++;
            tokens.push_back(code < 128 ? std::string(1, char(code))
                                        : std::string{char(0xc0 | (code >> 6)), char(0x80 | (code & 63))});
        }
        for (const std::string& merge : merges)
            tokens.push_back(merge.substr(0, merge.find(' ')) + merge.substr(merge.find(' ') + 1));
        types.assign(tokens.size(), 1);
        tokens.insert(tokens.end(), {"<|begin|>", "<|end|>", "<tool>", "[PAD264]"});
        types.insert(types.end(), {3, 3, 4, 5});
    }
};

}  // namespace quantplug::test
