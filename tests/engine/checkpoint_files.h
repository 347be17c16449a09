// Small checkpoint files made by hand, good and bad ones.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/checkpoint/bytes.h"

namespace quantplug::test {

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

template <typename T>
std::string bytes_of(T value) {
    return {reinterpret_cast<const char*>(&value), sizeof value};
}

inline std::span<const std::byte> as_span(const std::string& bytes) {
    return std::as_bytes(std::span(bytes.data(), bytes.size()));
}

inline void write_file(const std::filesystem::path& path, std::string_view bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
}

inline std::string read_file(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

struct RawTensor {
    std::string name, type;
    std::vector<int64_t> shape;
    std::string bytes;
};

/// A safetensors file with this header text and data.
inline std::string with_header(const std::string& header, const std::string& data = "") {
    return bytes_of(uint64_t(header.size())) + header + data;
}

inline std::string safetensors(const std::vector<RawTensor>& tensors, const std::string& metadata = "") {
    std::string header = "{" + metadata, data;
    for (const RawTensor& tensor : tensors) {
        if (header.size() > 1) header += ",";
        header += "\"" + tensor.name + "\":{\"dtype\":\"" + tensor.type + "\",\"shape\":[";
        for (size_t i = 0; i < tensor.shape.size(); ++i) header += (i ? "," : "") + std::to_string(tensor.shape[i]);
        header += "],\"data_offsets\":[" + std::to_string(data.size()) + "," +
                  std::to_string(data.size() + tensor.bytes.size()) + "]}";
        data += tensor.bytes;
    }
    return with_header(header + "}", data);
}

inline std::string safetensors_of(std::initializer_list<const char*> names) {
    std::vector<RawTensor> tensors;
    for (const char* name : names) tensors.push_back({name, "F16", {2, 2}, std::string(8, '\1')});
    return safetensors(tensors);
}

struct Outcome {
    std::optional<engine::Code> code;  // empty: no error
    std::string message;

    bool mentions(std::initializer_list<std::string_view> parts) const {
        for (const std::string_view part : parts)
            if (message.find(part) == std::string::npos) return false;
        return true;
    }
};

template <typename Function>
Outcome outcome_of(Function function) {
    try {
        function();
        return {};
    } catch (const engine::Error& error) {
        return {error.code(), error.what()};
    }
}

// The refusal must have this code and name these things, in one line.
#define CHECK_REFUSED(expression, wanted, ...)                                           \
    do {                                                                                 \
        const auto outcome = ::quantplug::test::outcome_of([&] { (void)(expression); }); \
        INFO(outcome.message);                                                           \
        CHECK(outcome.code == (wanted));                                                 \
        CHECK(outcome.mentions({__VA_ARGS__}));                                          \
        CHECK(outcome.message.find('\n') == std::string::npos);                          \
    } while (false)

inline uint32_t fresh_seed() { return std::random_device{}(); }

}  // namespace quantplug::test
