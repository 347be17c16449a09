// Arguments that several commands share, and the functions that declare them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace CLI {
class App;
}

namespace quantplug::host {

/// What every command takes.
struct OutputArguments {
    bool json = false;
    bool progress = false;
    bool quiet = false;
    int verbose = 0;  // number of -v

    int verbosity() const { return quiet ? -1 : verbose; }
};

/// Which plugin, and options for it.
struct BackendArguments {
    std::string backend;               // a plugin's name, or the path of a library or manifest; empty: by probe
    std::vector<std::string> options;  // KEY=VALUE
};

/// How to load a model; what is not given is not passed to the plugin.
struct ModelArguments : BackendArguments {
    std::string model;
    std::string device, compute;
    std::optional<uint32_t> threads, ctx;
    std::optional<int32_t> gpu_layers;
    bool deterministic = false;
};

/// What is not given comes from the model's files, or is off.
struct SamplingArguments {
    std::optional<double> temperature, top_p, min_p, typical_p, top_a, tfs, top_n_sigma;
    std::optional<double> repetition_penalty, frequency_penalty, presence_penalty;
    std::optional<double> mirostat_tau, mirostat_eta;
    std::optional<double> xtc_probability, xtc_threshold;
    std::optional<double> dry_multiplier, dry_base;
    std::optional<double> dynatemp_low, dynatemp_high, dynatemp_exponent;
    std::optional<double> smoothing_factor, smoothing_curve;
    std::optional<int32_t> top_k, penalty_range, dry_allowed_length, dry_range;
    std::optional<uint32_t> mirostat, min_tokens;  // mirostat: 0 or 2
    std::optional<uint64_t> seed;
    std::vector<std::string> logit_bias;  // ID=B
    std::string ban_tokens;               // 1,2,3
    std::optional<std::vector<std::string>> dry_breakers;
    std::string order;
    bool temperature_last = false;
    std::vector<std::string> stop;
};

enum class Bos { kAuto, kOn, kOff };

void add_output_arguments(CLI::App& command, OutputArguments& output);
void add_backend_arguments(CLI::App& command, BackendArguments& backend);
/// Also the backend's arguments. The model is -m, --model or the first positional argument.
void add_model_arguments(CLI::App& command, ModelArguments& model);
void add_sampling_arguments(CLI::App& command, SamplingArguments& sampling);
void add_bos(CLI::App& command, Bos& bos);
void add_special(CLI::App& command, bool& special, const std::string& help);

/// Token ids of "1,2,3", "1 2 3" or "[1, 2, 3]". Throws UsageError that names the first piece that is none.
std::vector<int32_t> parse_ids(const std::string& text);

/// "key=value" as its two sides. Throws UsageError.
std::pair<std::string, std::string> parse_option(const std::string& text);

}  // namespace quantplug::host
