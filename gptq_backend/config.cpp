#include "gptq_backend/config.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"

namespace quantplug::gptq {

using engine::Code;
using engine::fail;
using engine::JsonObject;
using engine::ModelFolder;

namespace {

std::string lower(std::string text) {
    for (char& c : text)
        if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
    return text;
}

/// The first of the keys that the configuration has; value and key.
struct Text {
    std::string key, value;
};
std::optional<Text> text(const JsonObject& config, std::initializer_list<const char*> keys) {
    for (const char* key : keys)
        if (auto value = config.string(key)) return Text{key, lower(*value)};
    return std::nullopt;
}

std::optional<int64_t> integer(const JsonObject& config, std::initializer_list<const char*> keys) {
    for (const char* key : keys)
        if (const auto value = config.integer(key)) return value;
    return std::nullopt;
}

/// "gptqmodel:7.3.4" -> its numbers.
void read_producer(const std::string& quantizer, Config& out) {
    constexpr std::string_view name = "gptqmodel";
    const std::string producer = lower(quantizer);
    if (!producer.starts_with(name) || out.by_gptqmodel) return;
    out.by_gptqmodel = true;
    const char* at = producer.data() + name.size();
    const char* end = producer.data() + producer.size();
    for (int32_t* number : {&out.major, &out.minor}) {
        while (at < end && (*at < '0' || *at > '9')) ++at;
        const auto [next, error] = std::from_chars(at, end, *number);
        if (error != std::errc()) *number = 0;
        at = next;
    }
}

Encoding encoding_of(const std::string& value, const std::string& where) {
    if (value.empty() || value == "gptq") return Encoding::v1;
    if (value == "gptq_v2") return Encoding::v2;
    if (value == "gptq_p") return Encoding::planar;
    fail(Code::unimplemented, where, " is \"", engine::printable(value),
         "\", which is another packing: quantplug reads gptq, gptq_v2 and gptq_p, so get the model in one of these");
}

void read_group_size(const JsonObject& config, int32_t& out) {
    const auto value = integer(config, {"group_size", "q_group_size"});
    if (!value) return;
    if (*value < -1 || *value > (int64_t{1} << 24))
        fail(Code::invalid_argument, config.where("group_size"), " is ", *value,
             ", where -1 or a number of rows is expected");
    out = int32_t(*value);
}

void read_bits(const JsonObject& config, int32_t& out) {
    const auto value = integer(config, {"bits", "w_bit", "wbits"});
    if (!value) return;
    if (*value < 2 || *value > 8)
        fail(Code::unimplemented, config.where("bits"), " is ", *value, ", where GPTQ matrices have 2 to 8 bits");
    out = int32_t(*value);
}

/// `dynamic` (GPTQModel) and `extra_config` (AutoRound): values by module. Which module a pattern means is not needed:
/// shapes tell.
void read_overrides(const JsonObject& config, Config& out) {
    for (const char* key : {"dynamic", "extra_config"}) {
        const engine::Json* overrides = config.find(key);
        if (!overrides || !overrides->is_object()) continue;  // `"dynamic": false` occurs
        for (const auto& [pattern, values] : overrides->items()) {
            if (!values.is_object() || pattern.starts_with("-:")) continue;
            const JsonObject object(values, config.where(key));
            if (const auto bits = object.integer("bits"); bits && *bits >= 2 && *bits <= 8)
                out.override_bits.push_back(int32_t(*bits));
            if (const auto size = object.integer("group_size"); size && *size >= -1 && *size <= (int64_t{1} << 24))
                out.override_group_sizes.push_back(int32_t(*size));
        }
    }
}

/// Refuses what is not GPTQ.
void check_method(const JsonObject& config) {
    const auto method = text(config, {"quant_method", "method"});
    const auto names = [&](const char* part) { return method && method->value.find(part) != std::string::npos; };
    if (names("auto-round") || names("auto_round") || names("autoround")) {
        const auto packing = text(config, {"packing_format", "backend"});
        if (packing && packing->value.find("auto_gptq") == std::string::npos)
            fail(Code::unimplemented, config.where(packing->key), " is \"", engine::printable(packing->value),
                 "\": of AutoRound's packings only auto_round:auto_gptq is read");
    } else if (method && method->value != "gptq" && method->value != "gptq_v2") {
        fail(Code::unimplemented, config.where(method->key), " is \"", engine::printable(method->value),
             "\", which is not GPTQ");
    }
    if (config.boolean("is_marlin_format").value_or(false))
        fail(Code::unimplemented, config.where("is_marlin_format"),
             " is true: Marlin's packing is not read, so get the model in the plain gptq one");
    const auto pack = text(config, {"pack_dtype"});
    if (pack && pack->value != "int32" && pack->value != "torch.int32")
        fail(Code::unimplemented, config.where("pack_dtype"), " is \"", engine::printable(pack->value),
             "\", where only int32 is read");
}

}  // namespace

Config read_config(const ModelFolder& folder) {
    Config out;
    const auto config = folder.quantization_config();
    const auto embedded = folder.config().object("quantization_config");
    if (config) {
        check_method(*config);
        out.name = config->name();
        read_bits(*config, out.bits);
        read_group_size(*config, out.group_size);
        out.sym = config->boolean("sym").value_or(true);
        read_overrides(*config, out);
        if (const auto meta = config->object("meta")) {
            for (const std::string& quantizer : meta->strings("quantizer")) read_producer(quantizer, out);
        }
    }
    // A quantize_config.json of an old tool may lack the entry that config.json has.
    std::optional<Text> format;
    const JsonObject* said_by = nullptr;
    for (const auto* level : {&config, &embedded}) {
        if (format || !*level) continue;
        format = text(**level, {"checkpoint_format", "format"});
        said_by = &**level;
    }
    if (!format && config) {
        if (const auto method = text(*config, {"quant_method", "method"}); method && method->value == "gptq_v2")
            format = method;
        said_by = &*config;
    }
    if (format)
        out.encoding = encoding_of(format->value, said_by->where(format->key));
    else
        out.encoding =
            encoding_of(lower(folder.metadata("gptq_checkpoint_format")), "the header's gptq_checkpoint_format");
    return out;
}

}  // namespace quantplug::gptq
