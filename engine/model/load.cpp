// Loading: plan, refuse what does not fit, stream every matrix into the device's packer.
#include <algorithm>
#include <array>
#include <cmath>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/model/memory.h"
#include "engine/model/model.h"
#include "engine/model/weights.h"

namespace quantplug::engine {

namespace {

using kernels::Status;

uint64_t add(uint64_t a, uint64_t b) { return a + b < a ? UINT64_MAX : a + b; }

void check(const Status& status, const std::string& what) {
    if (!status.ok()) fail(Code(status.code), what.empty() ? "" : what + ": ", status.message);
}

std::unique_ptr<kernels::Device> make_device(const LoadOptions& options) {
    if (options.device.rfind("cuda", 0) == 0)
        fail(Code::unavailable, "device ", options.device,
             " is not there: this build computes on the CPU only; use --device cpu or auto");
    if (options.device != "auto" && options.device != "cpu")
        fail(Code::invalid_argument, "device ", options.device, " is unknown; auto, cpu and cuda[:N] are");
    std::unique_ptr<kernels::Device> device;
    check(kernels::make_cpu_device(options.threads, &device), "");
    return device;
}

kernels::KvSpec kv_spec(const LoadOptions& options, int32_t cache_tokens) {
    kernels::KvSpec kv;
    const bool exact = options.compute == kernels::Compute::exact;
    kv.type = exact && options.cache_mode == kernels::KvSpec::f16 ? kernels::KvSpec::f32 : options.cache_mode;
    kv.block_tokens = kv_block_tokens;
    kv.n_blocks = (cache_tokens + kv_block_tokens - 1) / kv_block_tokens;
    return kv;
}

int32_t step_wanted(const LoadOptions& options) { return std::max(max_step_wanted, options.max_streams); }

MemoryPlan plan_with(const kernels::Device& device, const Decoder& decoder, const LoadOptions& options, int32_t ctx) {
    MemoryPlan plan;
    plan.ctx = ctx;
    plan.cache_tokens = options.cache_tokens > 0 ? options.cache_tokens : ctx;
    plan.weights = weight_bytes(decoder, device);
    plan.kv_cache = device.kv_bytes(decoder.spec, kv_spec(options, plan.cache_tokens));
    kernels::ModelSpec spec = decoder.spec;
    spec.max_positions = ctx;
    spec.compute = options.compute;
    plan.scratch = device.scratch_bytes(spec, max_step_rows, step_wanted(options));
    // A process with both plugins mapped measures about 12 MB; a tokenizer about 200 bytes a token with its tables.
    plan.other = (uint64_t(12) << 20) + uint64_t(decoder.spec.n_vocab) * 200 + decoder.largest_matrix_bytes();
    plan.available = available_memory();
    return plan;
}

/// The context that is asked for, or the model's own reduced to what memory allows.
MemoryPlan choose_context(const kernels::Device& device, const Decoder& decoder, const LoadOptions& options,
                          const Log& log) {
    if (options.max_streams < 1 || options.max_streams > max_streams_limit)
        fail(Code::invalid_argument, "max_streams is ", options.max_streams, "; it must lie in 1..", max_streams_limit);
    if (options.compute == kernels::Compute::exact && options.cache_mode != kernels::KvSpec::f16)
        fail(Code::invalid_argument, "compute exact keeps its cache in FP32; leave cache_mode out");
    if (options.cache_tokens > 0 && options.ctx > options.cache_tokens)
        fail(Code::invalid_argument, "ctx is ", options.ctx, " and cache_tokens ", options.cache_tokens,
             "; the cache must hold at least one whole context");
    const int32_t own = decoder.spec.max_positions;
    if (options.ctx > 0) {
        if (decoder.position_limit > 0 && options.ctx > decoder.position_limit)
            fail(Code::invalid_argument, "ctx is ", options.ctx, " and the model knows ", decoder.position_limit,
                 " positions; ask for at most as many");
        if (options.ctx > own && log)
            log(concat("context ", options.ctx, " is above the model's own ", own, "; text may fall apart beyond it"));
        return plan_with(device, decoder, options, options.ctx);
    }
    if (options.cache_tokens > 0) return plan_with(device, decoder, options, std::min(own, options.cache_tokens));
    MemoryPlan plan = plan_with(device, decoder, options, own);
    if (plan.available == 0 || plan.total() <= plan.available) return plan;
    // The cache grows in proportion to the context: halve until it fits.
    int32_t ctx = own;
    while (ctx > 512 && plan.total() > plan.available) {
        ctx = std::max(512, ctx / 2 / kv_block_tokens * kv_block_tokens);
        plan = plan_with(device, decoder, options, ctx);
    }
    if (log && ctx < own)
        log(concat("context reduced from ", own, " to ", ctx, " tokens: ", plan.available >> 20,
                   " MiB of memory are available"));
    return plan;
}

void refuse_if_too_large(const MemoryPlan& plan, const LoadOptions& options, const std::string& folder) {
    if (plan.available == 0 || plan.total() <= plan.available) return;
    const uint64_t fixed = plan.total() - plan.kv_cache;
    const uint64_t per_token = std::max<uint64_t>(1, plan.kv_cache / uint64_t(plan.cache_tokens));
    const uint64_t fits =
        plan.available > fixed ? (plan.available - fixed) / per_token / kv_block_tokens * kv_block_tokens : 0;
    const char* option = options.cache_tokens > 0 ? "--option cache_tokens=" : "--ctx ";
    fail(Code::resource_exhausted, folder, ": needs ", plan.total() >> 20, " MiB (weights ", plan.weights >> 20,
         ", cache of ", plan.cache_tokens, " tokens ", plan.kv_cache >> 20, ", scratch ", plan.scratch >> 20,
         ", other ", plan.other >> 20, ") and ", plan.available >> 20, " MiB are available; ",
         fits > 0 ? concat("a context of ", fits, " tokens would fit (", option, fits, ")")
                  : "even without a context it does not fit");
}

}  // namespace

uint64_t MemoryPlan::total() const { return add(add(weights, kv_cache), add(scratch, other)); }

MemoryPlan Model::plan(const ModelFolder& folder, const Format& format, const LoadOptions& options, const Log& log) {
    const Decoder decoder = read_decoder(folder, format);
    const std::unique_ptr<kernels::Device> device = make_device(options);
    return choose_context(*device, decoder, options, log);
}

std::unique_ptr<Model> Model::load(const ModelFolder& folder, const Format& format, const LoadOptions& options,
                                   const Progress& progress, const Log& log) {
    std::unique_ptr<Model> model(new Model);
    model->options_ = options;
    model->decoder_ = read_decoder(folder, format);
    Decoder& decoder = model->decoder_;
    model->tokenizer_ = load_tokenizer(folder.path());
    if (model->tokenizer_->size() > decoder.spec.n_vocab)
        fail(Code::invalid_argument, folder.name(), ": the tokenizer has ", model->tokenizer_->size(),
             " ids and the model ", decoder.spec.n_vocab, "; the files do not belong together");
    model->token_texts_ = std::make_unique<TokenTexts>(*model->tokenizer_);
    model->stop_ids_ = find_stop_ids(decoder.config, *model->tokenizer_);
    if (log)
        for (const std::string& warning : decoder.warnings) log(warning);
    if (options.vocab_only) {
        model->ctx_ = decoder.spec.max_positions;
        return model;
    }

    model->device_ = make_device(options);
    const MemoryPlan plan = choose_context(*model->device_, decoder, options, log);
    refuse_if_too_large(plan, options, folder.name());
    model->ctx_ = plan.ctx;
    decoder.spec.max_positions = plan.ctx;
    decoder.spec.compute = options.compute;
    // The cache first: a mode that the model's heads do not allow is refused before anything is read.
    const kernels::KvSpec kv = kv_spec(options, plan.cache_tokens);
    check(model->device_->make_kv(decoder.spec, kv, &model->kv_), folder.name());
    load_weights(folder, format, decoder, *model->device_, progress);
    check(model->device_->prepare(decoder.spec, max_step_rows, step_wanted(options)), folder.name());
    model->blocks_ = std::make_unique<BlockPool>(kv.n_blocks, kv_block_tokens);
    return model;
}

std::vector<int32_t> find_stop_ids(const ModelConfig& config, const Tokenizer& tokenizer) {
    // End-of-turn tokens of the chat formats; most configurations name only the end of text.
    constexpr std::array names = {"<|eot_id|>",    "<|eom_id|>",
                                  "<|im_end|>",    "<|end|>",
                                  "<end_of_turn>", "<|END_OF_TURN_TOKEN|>",
                                  "<|endoftext|>", "<|end_of_text|>",
                                  "[|endofturn|]", "<｜end▁of▁sentence｜>",
                                  "<|EOT|>"};
    std::vector<int32_t> ids;
    for (const int64_t id : config.eos_ids)
        if (id >= 0 && id < config.n_vocab) ids.push_back(int32_t(id));
    if (const auto eos = tokenizer.eos_id()) ids.push_back(*eos);
    for (const char* name : names)
        if (const auto id = tokenizer.token_to_id(name); id && tokenizer.is_special(*id)) ids.push_back(*id);
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    return ids;
}

}  // namespace quantplug::engine
