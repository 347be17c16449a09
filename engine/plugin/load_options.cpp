#include "engine/plugin/load_options.h"

#include <array>

namespace quantplug::engine {

namespace {

struct Option {
    uint32_t type;
    const char* key;
    const char* help;
    const char* default_value;
    const char* choices;
    int64_t minimum, maximum;
};

constexpr std::array options = {
    Option{QP_OPTION_TEXT, "device",
           "where the model is computed: auto, cpu, cuda[:N], or several with commas between them, first layers first",
           "auto", nullptr, 0, 0},
    Option{QP_OPTION_INT, "gpu_layers",
           "layers on the CUDA device, counted from the last; the CPU computes the others; -1: all", "-1", nullptr, -1,
           1 << 20},
    Option{QP_OPTION_CHOICE, "compute",
           "default: 16-bit activations and FP16 cache; exact: FP32 activations and cache, weights decoded to the "
           "format's FP16 values",
           "default", "default|exact", 0, 0},
    Option{QP_OPTION_INT, "threads", "threads of the CPU; 0: physical cores, affinity and cgroup quota decide", "0",
           nullptr, 0, 1024},
    Option{QP_OPTION_INT, "ctx", "tokens of context; 0: the model's own, or what memory allows", "0", nullptr, 0,
           int64_t(1) << 24},
    Option{QP_OPTION_INT, "max_streams", "generations that run at once; more wait for their turn", "16", nullptr, 1,
           max_streams_limit},
    Option{QP_OPTION_INT, "cache_tokens", "tokens that the cache holds of all generations together; 0: as many as ctx",
           "0", nullptr, 0, int64_t(1) << 24},
    Option{
        QP_OPTION_CHOICE, "cache_mode",
        "keys and values in the cache: f16 (FP32 where compute is exact), q8 or q4, which take half and a quarter of "
        "the memory",
        "f16", "f16|q8|q4", 0, 0},
    Option{QP_OPTION_BOOL, "deterministic",
           "1: a cached prefix is reused only where it was computed as this request would compute it, bit for bit", "0",
           nullptr, 0, 1},
    Option{QP_OPTION_BOOL, "vocab_only", "1: the tokenizer and the facts alone, no weights", "0", nullptr, 0, 1},
};

}  // namespace

bool load_option(uint32_t index, qp_option_info& out) {
    if (index >= options.size()) return false;
    const Option& o = options[index];
    out.type = o.type;
    out.key = o.key;
    out.help = o.help;
    out.default_value = o.default_value;
    out.choices = o.choices;
    out.minimum = o.minimum;
    out.maximum = o.maximum;
    return true;
}

engine::LoadOptions parse_load_options(const backend::LoadOptions& given) {
    engine::LoadOptions out;
    out.device = given.text("device");
    out.gpu_layers = int32_t(given.integer("gpu_layers"));
    out.deterministic = given.flag("deterministic");
    out.compute = given.text("compute") == "exact" ? kernels::Compute::exact : kernels::Compute::standard;
    out.threads = int32_t(given.integer("threads"));
    out.ctx = int32_t(given.integer("ctx"));
    out.max_streams = int32_t(given.integer("max_streams"));
    out.cache_tokens = int32_t(given.integer("cache_tokens"));
    const std::string mode = given.text("cache_mode");
    if (mode == "q8") out.cache_mode = kernels::KvSpec::q8;
    if (mode == "q4") out.cache_mode = kernels::KvSpec::q4;
    out.vocab_only = given.flag("vocab_only");
    return out;
}

const char* name_of(kernels::Compute compute) {
    switch (compute) {
        case kernels::Compute::exact:
            return "exact";
        case kernels::Compute::fast:
            return "fast";
        case kernels::Compute::standard:
            break;
    }
    return "default";
}

}  // namespace quantplug::engine
