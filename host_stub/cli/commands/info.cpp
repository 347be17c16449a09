// quantplug info: facts of a model folder and what loading it takes, before any weight is read.
#include <algorithm>
#include <array>
#include <cstdio>
#include <iterator>
#include <nlohmann/json.hpp>

#include "host_stub/cli/commands/commands.h"
#include "host_stub/cli/facts.h"
#include "host_stub/cli/session.h"
#include "host_stub/cli/text_input.h"
#include "host_stub/cli/utf8.h"

namespace quantplug::host {
namespace {

using Json = nlohmann::json;

std::string megabytes(uint64_t bytes) {
    std::array<char, 48> text{};
    std::snprintf(text.data(), text.size(), "%.1f MiB", static_cast<double>(bytes) / (1024.0 * 1024.0));
    return text.data();
}

std::string bits(double value) {
    if (value == 0) return "not quantised";
    std::array<char, 48> text{};
    std::snprintf(text.data(), text.size(), "%.3f bits per weight", value);
    return text.data();
}

Json warning_list(const std::string& warnings) {
    Json list = Json::array();
    for (const std::string_view line : split_lines(warnings)) list.push_back(std::string(line));
    return list;
}

Json devices_of(const qp_memory_plan& plan) {
    Json list = Json::array();
    for (uint32_t i = 0; i < std::min<uint32_t>(plan.n_devices, std::size(plan.devices)); ++i) {
        const qp_device_memory& d = plan.devices[i];
        list.push_back({{"device", field_text(d.device)},
                        {"n_layers", d.n_layers},
                        {"weights", d.weights},
                        {"kv_cache", d.kv_cache},
                        {"scratch", d.scratch},
                        {"total", d.total},
                        {"free", d.free}});
    }
    return list;
}

Json to_json(const qp_model_info& info, const qp_memory_plan& plan, const std::string& backend) {
    return {{"format", field_text(info.format)},
            {"architecture", field_text(info.architecture)},
            {"n_layers", info.n_layers},
            {"hidden_size", info.hidden_size},
            {"n_vocab", info.n_vocab},
            {"n_ctx", info.n_ctx},
            {"n_params", info.n_params},
            {"bits_per_weight", info.bits_per_weight},
            {"bits_per_weight_head", info.bits_per_weight_head},
            {"file_bytes", info.file_bytes},
            {"backend", backend},
            {"tokenizer", field_text(info.tokenizer)},
            {"plan",
             {{"ctx", plan.ctx},
              {"weights", plan.weights},
              {"kv_cache", plan.kv_cache},
              {"scratch", plan.scratch},
              {"other", plan.other},
              {"total", plan.total},
              {"available", plan.available},
              {"devices", devices_of(plan)}}},
            {"warnings", warning_list(field_text(info.warnings))}};
}

std::string to_text(const qp_model_info& info, const qp_memory_plan& plan, const Plugin& plugin) {
    std::string out;
    const auto row = [&](const char* name, const std::string& value) {
        out +=
            std::string(name) + std::string(16 - std::char_traits<char>::length(name), ' ') + printable(value) + "\n";
    };
    row("format", field_text(info.format) + " (backend " + plugin.name() + " " + plugin.version() + ")");
    row("architecture", field_text(info.architecture) + ", " + std::to_string(info.n_layers) + " layers, hidden size " +
                            std::to_string(info.hidden_size) + ", vocabulary " + std::to_string(info.n_vocab));
    row("parameters", std::to_string(info.n_params) + ", " + megabytes(info.file_bytes) + " of weight files");
    row("decoder", bits(info.bits_per_weight));
    row("head", bits(info.bits_per_weight_head));
    row("tokenizer", field_text(info.tokenizer));
    row("context", std::to_string(plan.ctx) + " of the model's own " + std::to_string(info.n_ctx));
    row("memory", megabytes(plan.total) + " = weights " + megabytes(plan.weights) + " + KV cache " +
                      megabytes(plan.kv_cache) + " + scratch " + megabytes(plan.scratch) + " + other " +
                      megabytes(plan.other));
    if (plan.available != 0) row("available", megabytes(plan.available));
    for (uint32_t i = 0; i < std::min<uint32_t>(plan.n_devices, std::size(plan.devices)); ++i) {
        const qp_device_memory& d = plan.devices[i];
        const std::string name = field_text(d.device);
        if (plan.n_devices == 1 && name == "cpu") break;  // the line above
        row("device", name + ": " + std::to_string(d.n_layers) + " layers, " + megabytes(d.total) + " = weights " +
                          megabytes(d.weights) + " + KV cache " + megabytes(d.kv_cache) + " + scratch " +
                          megabytes(d.scratch) + (d.free != 0 ? "; " + megabytes(d.free) + " are free" : ""));
    }
    const std::string warnings = field_text(info.warnings);
    for (const std::string_view line : split_lines(warnings)) row("warning", std::string(line));
    return out;
}

}  // namespace

int run_info(const InfoArguments& arguments, Program& program) {
    const Options options = load_options(arguments);
    Backends backends(program.console, arguments.backend);
    const Plugin& plugin = backends.for_model(arguments.model);
    const qp_model_info info = plugin.inspect(arguments.model);
    const qp_memory_plan plan = plugin.plan_memory(arguments.model, options);
    if (program.console.json())
        program.console.write_json(to_json(info, plan, plugin.name()));
    else
        program.console.write_text(to_text(info, plan, plugin));
    return kExitDone;
}

}  // namespace quantplug::host
