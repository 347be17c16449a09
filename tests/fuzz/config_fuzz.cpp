// config.json, as the model's and as the generation's: accepted numbers are inside the limits that later code relies
// on.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "engine/base/error.h"
#include "engine/checkpoint/config.h"

using namespace quantplug::engine;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    try {
        const Json document = parse_json({reinterpret_cast<const char*>(data), size}, "config.json");
        const JsonObject object(document, "config.json");
        const ModelConfig config = read_model_config(object, object);
        if (config.n_layers < 1 || config.n_layers > 10'000 || config.n_heads < 1 || config.n_kv_heads < 1 ||
            config.hidden_size < 1 || config.hidden_size > 1 << 20 || config.n_heads % config.n_kv_heads != 0 ||
            config.max_positions < 1)
            std::abort();
    } catch (const Error&) {
    }
    return 0;
}
