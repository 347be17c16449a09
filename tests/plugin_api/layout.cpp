// Sizes and offsets of every struct of the ABI, and every constant, pinned by layout.golden. QUANTPLUG_UPDATE_GOLDEN=1
// writes the file anew.
#include <doctest/doctest.h>
#include <quantplug/ext/chat.h>
#include <quantplug/ext/engine.h>
#include <quantplug/ext/logits.h>
#include <quantplug/ext/quantize.h>
#include <quantplug/ext/score.h>
#include <quantplug/ext/tools.h>
#include <quantplug/plugin.h>

#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

#include "tests/support/data.h"

namespace {

class Layout {
 public:
    void begin(const char* name, size_t size, size_t alignment) {
        close();
        name_ = name;
        size_ = size;
        end_ = 0;
        text_ << name << " size " << size << " align " << alignment << "\n";
    }
    void field(const char* name, size_t offset, size_t size) {
        INFO(name_ << "::" << name << ": a field before it is missing from the list, or there is padding");
        CHECK(offset == end_);
        end_ = offset + size;
        text_ << "  " << name << " " << offset << " " << size << "\n";
    }
    void constant(const char* name, unsigned long long value) { text_ << name << " " << value << "\n"; }
    std::string text() {
        close();
        return text_.str();
    }

 private:
    void close() {
        INFO(name_ << ": its last field is missing from the list, or there is padding at its end");
        CHECK(end_ == size_);
        end_ = size_ = 0;
    }

    std::ostringstream text_;
    std::string name_;
    size_t size_ = 0, end_ = 0;
};

// The lists read by struct.
// clang-format off
#define STRUCT(T) { using S = T; layout.begin(#T, sizeof(S), alignof(S));
#define F(f) layout.field(#f, offsetof(S, f), sizeof(S::f));
#define END }
#define C(c) layout.constant(#c, c);

void structs(Layout& layout) {
    STRUCT(qp_error) F(struct_size) F(code) F(message) END
    STRUCT(qp_host) F(struct_size) F(reserved) F(context) F(log) F(get_extension) END
    STRUCT(qp_option) F(key) F(value) END
    STRUCT(qp_option_info) F(struct_size) F(type) F(key) F(help) F(default_value) F(choices) F(minimum) F(maximum) END
    STRUCT(qp_probe_result) F(struct_size) F(score) F(format) F(reason) END
    STRUCT(qp_load_params) F(struct_size) F(n_options) F(path) F(options) F(progress) F(user) END
    STRUCT(qp_device_memory)
        F(device) F(n_layers) F(reserved) F(weights) F(kv_cache) F(scratch) F(total) F(free)
    END
    STRUCT(qp_memory_plan)
        F(struct_size) F(ctx) F(weights) F(kv_cache) F(scratch) F(other) F(total) F(available) F(n_devices) F(reserved)
        F(devices)
    END
    STRUCT(qp_model_info)
        F(struct_size) F(n_layers) F(hidden_size) F(n_vocab) F(n_ctx) F(adds_bos) F(bos_id) F(eos_id) F(n_params)
        F(file_bytes) F(bits_per_weight) F(bits_per_weight_head) F(format) F(architecture) F(tokenizer) F(device)
        F(compute) F(warnings)
    END
    STRUCT(qp_token_bias) F(id) F(bias) END
    STRUCT(qp_sampling)
        F(struct_size) F(top_k) F(set) F(seed) F(temperature) F(top_p) F(min_p) F(typical_p) F(repetition_penalty)
        F(frequency_penalty) F(presence_penalty) F(top_a) F(tfs) F(mirostat_tau) F(mirostat_eta) F(xtc_probability)
        F(xtc_threshold) F(dry_multiplier) F(dry_base) F(dynatemp_low) F(dynatemp_high) F(dynatemp_exponent)
        F(smoothing_factor) F(smoothing_curve) F(top_n_sigma) F(penalty_range) F(dry_allowed_length) F(dry_range)
        F(min_tokens) F(n_bias) F(n_banned) F(n_dry_breakers) F(reserved) F(bias) F(banned) F(dry_breakers) F(order)
    END
    STRUCT(qp_text) F(data) F(size) END
    STRUCT(qp_generate_params)
        F(struct_size) F(flags) F(prompt) F(n_prompt) F(sampling) F(stop) F(stop_ids) F(n_stop) F(n_stop_ids)
        F(max_tokens) F(n_top)
    END
    STRUCT(qp_top) F(id) F(logprob) END
    STRUCT(qp_token) F(id) F(logprob) F(first_top) F(n_top) END
    STRUCT(qp_event)
        F(struct_size) F(kind) F(n_tokens) F(n_top) F(tokens) F(top) F(text) F(text_size) F(n_done) F(n_prompt)
        F(n_generated) F(prefill_seconds) F(decode_seconds) F(ignored) F(finish_reason) F(stop_id)
        F(n_cached) F(status) F(reserved) F(error)
    END
    STRUCT(qp_plugin)
        F(struct_size) F(reserved) F(init) F(deinit) F(probe) F(list_load_options) F(inspect) F(plan_memory) F(load)
        F(unload) F(model_info) F(default_sampling) F(tokenize) F(detokenize) F(detokenizer_create)
        F(detokenizer_push) F(detokenizer_finish) F(detokenizer_destroy) F(generate) F(get_extension)
    END
    STRUCT(qp_entry) F(struct_size) F(draft) F(name) F(version) F(formats) F(plugin) END
    STRUCT(qp_score) F(struct_size) F(reserved) F(score) END
    STRUCT(qp_logits) F(struct_size) F(reserved) F(open) F(next) F(close) END
    STRUCT(qp_engine_status)
        F(struct_size) F(n_running) F(n_waiting) F(n_streams_max) F(block_tokens) F(n_blocks) F(n_blocks_used)
        F(n_blocks_cached) F(n_steps) F(n_prompt_tokens) F(n_cached_tokens) F(n_generated_tokens)
    END
    STRUCT(qp_engine) F(struct_size) F(reserved) F(submit) F(step) F(cancel) F(wake) F(status) END
    STRUCT(qp_chat) F(struct_size) F(reserved) F(render) F(parse) F(describe) END
    STRUCT(qp_tool_info) F(struct_size) F(reserved) F(name) F(help) F(arguments) END
    STRUCT(qp_tools) F(struct_size) F(reserved) F(get) F(run) END
    STRUCT(qp_quantize) F(struct_size) F(reserved) F(describe) F(run) END
}

void constants(Layout& layout) {
    C(QP_ABI_MAJOR) C(QP_ABI_DRAFT)
    C(QP_OK) C(QP_CANCELLED) C(QP_UNKNOWN) C(QP_INVALID_ARGUMENT) C(QP_DEADLINE_EXCEEDED) C(QP_NOT_FOUND)
    C(QP_ALREADY_EXISTS) C(QP_PERMISSION_DENIED) C(QP_RESOURCE_EXHAUSTED) C(QP_FAILED_PRECONDITION) C(QP_ABORTED)
    C(QP_OUT_OF_RANGE) C(QP_UNIMPLEMENTED) C(QP_INTERNAL) C(QP_UNAVAILABLE) C(QP_DATA_LOSS)
    C(QP_LOG_ERROR) C(QP_LOG_WARNING) C(QP_LOG_INFO) C(QP_LOG_DEBUG)
    C(QP_OPTION_INT) C(QP_OPTION_BOOL) C(QP_OPTION_CHOICE) C(QP_OPTION_TEXT)
    C(QP_BOS_AUTO) C(QP_BOS_ON) C(QP_BOS_OFF) C(QP_SPECIAL_TEXT)
    C(QP_SET_TEMPERATURE) C(QP_SET_TOP_K) C(QP_SET_TOP_P) C(QP_SET_MIN_P) C(QP_SET_SEED)
    C(QP_SET_TYPICAL_P) C(QP_SET_REPETITION_PENALTY) C(QP_SET_FREQUENCY_PENALTY) C(QP_SET_PRESENCE_PENALTY)
    C(QP_SET_PENALTY_RANGE) C(QP_SET_TOP_A) C(QP_SET_TFS) C(QP_SET_MIROSTAT) C(QP_SET_XTC) C(QP_SET_DRY)
    C(QP_SET_DYNATEMP) C(QP_SET_SMOOTHING) C(QP_SET_TOP_N_SIGMA) C(QP_SET_MIN_TOKENS) C(QP_SET_LOGIT_BIAS)
    C(QP_SET_BANNED) C(QP_SET_ORDER)
    C(QP_GENERATE_IGNORE_EOS) C(QP_GENERATE_SPECIAL_TEXT)
    C(QP_EVENT_PREFILL) C(QP_EVENT_TOKENS) C(QP_EVENT_END)
    C(QP_FINISH_NONE) C(QP_FINISH_STOP) C(QP_FINISH_LENGTH) C(QP_FINISH_CANCELLED) C(QP_FINISH_ERROR)
}
// clang-format on

}  // namespace

TEST_CASE("the layout of the ABI is the one of layout.golden") {
    Layout layout;
    structs(layout);
    constants(layout);
    const std::string now = layout.text();
    const auto path = quantplug::test::source_dir() / "tests" / "plugin_api" / "layout.golden";
    if (std::getenv("QUANTPLUG_UPDATE_GOLDEN")) std::ofstream(path) << now;
    std::ifstream file(path);
    const std::string golden{std::istreambuf_iterator<char>(file), {}};
    REQUIRE(!golden.empty());
    std::istringstream a(golden), b(now);
    std::string expected, got;
    for (size_t line = 1;; ++line) {
        const bool more_expected = bool(std::getline(a, expected)), more_got = bool(std::getline(b, got));
        if (!more_expected && !more_got) break;
        CAPTURE(line);
        REQUIRE(more_expected == more_got);
        REQUIRE(expected == got);
    }
    CHECK(std::string(QP_ENTRY_SYMBOL) == "quantplug_entry_v1");
    CHECK(std::string(QP_EXT_SCORE) == "quantplug.score/1");
    CHECK(std::string(QP_EXT_LOGITS) == "quantplug.logits/1");
    CHECK(std::string(QP_EXT_ENGINE) == "quantplug.engine/1");
    CHECK(std::string(QP_EXT_CHAT) == "quantplug.chat/1");
    CHECK(std::string(QP_EXT_TOOLS) == "quantplug.tools/1");
    CHECK(std::string(QP_EXT_QUANTIZE) == "quantplug.quantize/1");
}
