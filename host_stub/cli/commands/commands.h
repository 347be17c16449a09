// The commands: what each takes, and what runs it. One file of this folder a command.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "host_stub/cli/arguments.h"
#include "host_stub/cli/console.h"

namespace quantplug::host {

/// What a command runs in.
struct Program {
    Console& console;
    std::chrono::steady_clock::time_point start;  // read first thing in main()
};

/// Text or ids that a command reads.
struct InputArguments {
    std::string text, file, ids;
    bool has_text = false, has_ids = false;  // an empty text is a text
    bool lines = false;
};

struct PluginsArguments : OutputArguments, BackendArguments {};

struct InfoArguments : OutputArguments, ModelArguments {};

struct GenerateArguments : OutputArguments, ModelArguments {
    InputArguments input;
    SamplingArguments sampling;
    uint32_t n_tokens = 0;  // 0: until the context is full
    uint32_t n_top = 0;
    std::optional<uint32_t> batch;
    bool ignore_eos = false;
    bool special = false;
    Bos bos = Bos::kAuto;
};

struct ChatArguments : OutputArguments, ModelArguments {
    std::string text, mode, system;
    bool has_text = false, has_system = false;  // an empty text is a text
    SamplingArguments sampling;
    uint32_t n_tokens = 0;  // 0: until the context is full
};

struct TokenizeArguments : OutputArguments, ModelArguments {
    InputArguments input;
    bool special = false;
    Bos bos = Bos::kAuto;
};

struct DetokenizeArguments : OutputArguments, ModelArguments {
    InputArguments input;
    bool special = false;
};

struct PerplexityArguments : OutputArguments, ModelArguments {
    std::string file;
    Bos bos = Bos::kAuto;
    std::string base_folder, base_compute, base_device;
    std::string dump_file;
};

struct BenchArguments : OutputArguments, BackendArguments {
    std::string folder, synthetic;
    std::string device = "auto", compute = "default";
    int32_t bits = 4, group = 128, pp = 512, tg = 128, depth = 0, repeat = 5;
    int32_t threads = 0;  // 0: cores, affinity and quota
    std::optional<int32_t> gpu_layers;
    std::vector<int32_t> batch = {1, 2, 4};
    bool limits = false;
};

struct DequantizeArguments : OutputArguments, BackendArguments {
    std::string folder, out, dtype = "f16";
};

struct ImportGgufArguments : OutputArguments, BackendArguments {
    std::string file, out, dtype = "f16";
};

struct QuantizeArguments : OutputArguments, BackendArguments {
    std::string in, work, out, format, method;
    std::optional<double> bits;
    std::optional<int64_t> group_size, head_bits;
};

// Declare the command's flags (flags.cpp).
void add_plugins(CLI::App& command, PluginsArguments& arguments);
void add_info(CLI::App& command, InfoArguments& arguments);
void add_generate(CLI::App& command, GenerateArguments& arguments);
void add_chat(CLI::App& command, ChatArguments& arguments);
void add_tokenize(CLI::App& command, TokenizeArguments& arguments);
void add_detokenize(CLI::App& command, DetokenizeArguments& arguments);
void add_perplexity(CLI::App& command, PerplexityArguments& arguments);
void add_bench(CLI::App& command, BenchArguments& arguments);
void add_dequantize(CLI::App& command, DequantizeArguments& arguments);
void add_import_gguf(CLI::App& command, ImportGgufArguments& arguments);
void add_quantize(CLI::App& command, QuantizeArguments& arguments);

// Run it. The exit code is the answer; failures are exceptions (failure.h).
int run_plugins(const PluginsArguments& arguments, Program& program);
int run_info(const InfoArguments& arguments, Program& program);
int run_generate(const GenerateArguments& arguments, Program& program);
int run_chat(const ChatArguments& arguments, Program& program);
int run_tokenize(const TokenizeArguments& arguments, Program& program);
int run_detokenize(const DetokenizeArguments& arguments, Program& program);
int run_perplexity(const PerplexityArguments& arguments, Program& program);
int run_bench(const BenchArguments& arguments, Program& program);
int run_dequantize(const DequantizeArguments& arguments, Program& program);
int run_import_gguf(const ImportGgufArguments& arguments, Program& program);
int run_quantize(const QuantizeArguments& arguments, Program& program);

constexpr int kExitDone = 0;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr int kExitInterrupted = 130;

}  // namespace quantplug::host
