// Loading: plan, refuse what does not fit, stream every matrix into the device's packer.
#include <algorithm>
#include <array>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/model/devices.h"
#include "engine/model/model.h"
#include "engine/model/weights.h"

namespace quantplug::engine {

namespace {

using kernels::Status;

void check(const Status& status, const std::string& what) {
    if (!status.ok()) fail(Code(status.code), what.empty() ? "" : what + ": ", status.message);
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

MemoryPlan plan_with(Devices& devices, Decoder& decoder, const LoadOptions& options, int32_t ctx) {
    StepNeeds needs;
    const int32_t cache_tokens = options.cache_tokens > 0 ? options.cache_tokens : ctx;
    needs.positions = ctx;
    needs.kv = kv_spec(options, cache_tokens);
    needs.compute = options.compute;
    needs.max_wanted = step_wanted(options);
    // A process with both plugins mapped measures about 12 MB; a tokenizer about 200 bytes a token with its tables.
    needs.other = (uint64_t(12) << 20) + uint64_t(decoder.spec.n_vocab) * 200 + decoder.largest_matrix_bytes();
    MemoryPlan plan = plan_parts(devices, decoder, needs);
    plan.ctx = ctx;
    plan.cache_tokens = cache_tokens;
    return plan;
}

/// The context that is asked for, or the model's own reduced to what memory allows.
MemoryPlan choose_context(Devices& devices, Decoder& decoder, const LoadOptions& options, const Log& log) {
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
        return plan_with(devices, decoder, options, options.ctx);
    }
    if (options.cache_tokens > 0) return plan_with(devices, decoder, options, std::min(own, options.cache_tokens));
    MemoryPlan plan = plan_with(devices, decoder, options, own);
    if (plan.fits()) return plan;
    // The cache grows in proportion to the context: halve until it fits.
    int32_t ctx = own;
    while (ctx > 512 && !plan.fits()) {
        ctx = std::max(512, ctx / 2 / kv_block_tokens * kv_block_tokens);
        plan = plan_with(devices, decoder, options, ctx);
    }
    if (log && ctx < own) {
        std::string room;
        for (const MemoryPlan::Pool& pool : plan.pools()) {
            if (pool.free > 0)
                room += concat(room.empty() ? "" : ", ", pool.free >> 20, " MiB of ",
                               pool.device == "cpu" ? "memory" : pool.device);
        }
        log(concat("context reduced from ", own, " to ", ctx, " tokens: ", room, " are available"));
    }
    return plan;
}

void refuse_if_too_large(const MemoryPlan& plan, const LoadOptions& options, const std::string& folder) {
    const std::vector<MemoryPlan::Pool> pools = plan.pools();
    const auto small = std::find_if(pools.begin(), pools.end(), [](const auto& pool) { return !pool.fits(); });
    if (small == pools.end()) return;
    uint64_t fits = UINT64_MAX;  // tokens, in all of them
    for (const MemoryPlan::Pool& pool : pools) {
        if (pool.free == 0) continue;
        const uint64_t fixed = pool.total() - pool.kv_cache;
        const uint64_t per_token = pool.kv_cache / uint64_t(plan.cache_tokens);
        if (pool.free <= fixed)
            fits = 0;
        else if (per_token > 0)
            fits = std::min(fits, (pool.free - fixed) / per_token / kv_block_tokens * kv_block_tokens);
    }
    const bool on_host = small->device == "cpu";
    const char* option = options.cache_tokens > 0 ? "--option cache_tokens=" : "--ctx ";
    fail(Code::resource_exhausted, folder, ": needs ", small->total() >> 20, " MiB",
         pools.size() > 1 ? " on " + small->device : "", " (weights ", small->weights >> 20, ", cache of ",
         plan.cache_tokens, " tokens ", small->kv_cache >> 20, ", scratch ", small->scratch >> 20,
         on_host ? concat(", other ", small->other >> 20) : "", ") and ", small->free >> 20, " MiB are available; ",
         fits > 0 ? concat("a context of ", fits, " tokens would fit (", option, fits, ")")
                  : "even without a context it does not fit",
         fits == 0 && !on_host && options.gpu_layers < 0 ? "; leave the first layers to the CPU (--option gpu_layers=N)"
                                                         : "");
}

ChosenDevices choose(Decoder& decoder, const LoadOptions& options, const Log& log) {
    return choose_devices(
        decoder, options,
        [&](Devices& devices, const Log& lines) { return choose_context(devices, decoder, options, lines); }, log);
}

}  // namespace

MemoryPlan Model::plan(const ModelFolder& folder, const Format& format, const LoadOptions& options, const Log& log) {
    Decoder decoder = read_decoder(folder, format);
    return choose(decoder, options, log).plan;
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

    ChosenDevices chosen = choose(decoder, options, log);
    const MemoryPlan& plan = chosen.plan;
    refuse_if_too_large(plan, options, folder.name());
    model->max_step_rows_ = chosen.devices.max_rows();
    if (chosen.devices.all_gpu()) model->rows_per_step_ = model->max_step_rows_;
    model->device_ = std::move(chosen.devices.device);
    kernels::Device& device = *model->device_;
    model->ctx_ = plan.ctx;
    decoder.spec.max_positions = plan.ctx;
    decoder.spec.compute = options.compute;
    // The cache first: a mode that the model's heads do not allow is refused before anything is read.
    const kernels::KvSpec kv = kv_spec(options, plan.cache_tokens);
    check(device.make_kv(decoder.spec, kv, &model->kv_), folder.name());
    load_weights(folder, format, decoder, device, progress);
    check(device.prepare(decoder.spec, model->max_step_rows_, step_wanted(options)), folder.name());
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
