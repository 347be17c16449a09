// Copies of tests/data/tiny with changes, and a backend that finds nothing quantised.
#pragma once

#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/model/format.h"
#include "tests/support/data.h"
#include "tests/support/tensor_files.h"

namespace quantplug::test {

using nlohmann::json;

/// Every matrix is plain.
class PlainFormat : public engine::Format {
 public:
    const char* name() const override { return "none"; }
    engine::Probe probe(const engine::ModelFolder&) const override { return {50, "plain", ""}; }
    bool has(const engine::ModelFolder&, const std::string&) const override { return false; }
    engine::StoredMatrix describe(const engine::ModelFolder&, const std::string& module, int32_t,
                                  int32_t) const override {
        engine::fail(engine::Code::internal, module, " is asked for and is not quantised");
    }
    kernels::QuantSource open(const engine::ModelFolder&, const std::string& module, int32_t, int32_t) const override {
        engine::fail(engine::Code::internal, module, " is asked for and is not quantised");
    }
};

/// One of tests/data/tiny: 2 layers, hidden 32, intermediate 64, 4 heads of 16, 2 key/value heads, 96 ids, 256
/// positions, FP32.
class TinyFolder {
 public:
    explicit TinyFolder(const std::string& model) : source_(data_dir() / "tiny" / model) {
        config = json::parse(text_of(source_ / "config.json"));
        tensors = read_tensor_file(source_ / "model.safetensors");
        tokenizer = json::parse(text_of(source_ / "tokenizer.json"));
    }

    json config, tokenizer;
    json generation, tokenizer_config;  // null: no such file
    Tensors tensors;

    /// Sets keys of config.json; a key set to "<drop>" is removed, null stays null.
    TinyFolder& with(const json& changes) {
        for (const auto& [key, value] : changes.items())
            if (value == "<drop>")
                config.erase(key);
            else
                config[key] = value;
        return *this;
    }
    TinyFolder& without(std::initializer_list<const char*> names) {
        for (const char* name : names) tensors.erase(name);
        return *this;
    }

    /// Writes what the members hold now and opens it.
    engine::ModelFolder open() const {
        write_tensor_file(dir_.path() / "model.safetensors", tensors);
        write_file(dir_.path() / "config.json", config.dump());
        write_file(dir_.path() / "tokenizer.json", tokenizer.dump());
        write_or_remove("generation_config.json", generation);
        write_or_remove("tokenizer_config.json", tokenizer_config);
        return engine::ModelFolder::open(dir_.path());
    }

 private:
    void write_or_remove(const char* file, const json& value) const {
        if (value.is_null())
            std::filesystem::remove(dir_.path() / file);
        else
            write_file(dir_.path() / file, value.dump());
    }
    static std::string text_of(const std::filesystem::path& path) {
        std::ifstream in(path, std::ios::binary);
        return {std::istreambuf_iterator<char>(in), {}};
    }

    std::filesystem::path source_;
    TempDir dir_;
};

/// The tensor with its first dimension cut or filled up with zeros.
inline Tensor with_rows(Tensor tensor, int64_t rows) {
    tensor.bytes.resize(tensor.bytes.size() / size_t(tensor.shape[0]) * size_t(rows));
    tensor.shape[0] = rows;
    return tensor;
}

}  // namespace quantplug::test
