// The load options of the cache and of batching: what they plan, what they allocate, what they refuse.
#include <doctest/doctest.h>

#include "checkpoint_files.h"
#include "engine/model/model.h"
#include "engine/plugin/load_options.h"
#include "tiny_folders.h"

namespace quantplug::test {

using engine::Code;
using engine::Model;
using kernels::KvSpec;

namespace {

engine::LoadOptions small(int32_t ctx) {
    engine::LoadOptions options;
    options.device = "cpu";
    options.threads = 1;
    options.ctx = ctx;
    return options;
}
engine::MemoryPlan plan_of(const engine::LoadOptions& options) {
    return Model::plan(TinyFolder("llama").open(), PlainFormat(), options, {});
}

}  // namespace

TEST_CASE("cache options: the plan counts cache_tokens, cache_mode and max_streams, and a device allocates as much") {
    const engine::Decoder decoder = engine::read_decoder(TinyFolder("llama").open(), PlainFormat());
    uint64_t bytes[3] = {};
    for (const auto mode : {KvSpec::f16, KvSpec::q8})
        for (const int32_t cache_tokens : {0, 64, 100, 4096})
            for (const int32_t max_streams : {1, 16, 64}) {
                CAPTURE(int(mode));
                CAPTURE(cache_tokens);
                CAPTURE(max_streams);
                engine::LoadOptions options = small(cache_tokens ? 64 : 256);
                options.cache_mode = mode;
                options.cache_tokens = cache_tokens;
                options.max_streams = max_streams;
                const engine::MemoryPlan plan = plan_of(options);
                CHECK(plan.ctx == options.ctx);
                CHECK(plan.cache_tokens == (cache_tokens ? cache_tokens : 256));

                std::unique_ptr<kernels::Device> device;
                REQUIRE(kernels::make_cpu_device(1, &device).ok());
                kernels::ModelSpec spec = decoder.spec;
                spec.max_positions = options.ctx;
                KvSpec kv;
                kv.type = mode;
                kv.block_tokens = engine::kv_block_tokens;
                kv.n_blocks = (plan.cache_tokens + 63) / 64;
                kernels::Kv cache;
                REQUIRE(device->make_kv(spec, kv, &cache).ok());
                REQUIRE(device->prepare(spec, device->max_rows(), std::max(32, max_streams)).ok());
                CHECK(plan.kv_cache == device->memory().kv);
                CHECK(plan.scratch == device->memory().scratch);
                if (cache_tokens == 4096) bytes[mode] = plan.kv_cache;

                const auto model = Model::load(TinyFolder("llama").open(), PlainFormat(), options, {}, {});
                CHECK(model->blocks().counts().total == kv.n_blocks);
                CHECK(model->ctx() == options.ctx);
            }
    // 2 layers, keys and values, 2 heads of 16 values: 2 bytes each, or 1 and an FP16 scale for each head.
    CHECK(bytes[KvSpec::f16] == 4096 * 2 * 2 * 2 * 16 * 2);
    CHECK(bytes[KvSpec::q8] == 4096 * 2 * 2 * 2 * (16 + 2));
}

TEST_CASE("cache options: a cache smaller than the model's context bounds the context") {
    engine::LoadOptions options = small(0);
    options.cache_tokens = 100;
    CHECK(plan_of(options).ctx == 100);
    options.cache_tokens = 1000;
    CHECK(plan_of(options).ctx == 256);
    options.ctx = 1001;
    CHECK_REFUSED(plan_of(options), Code::invalid_argument, "ctx is 1001", "cache_tokens 1000");
}

TEST_CASE("cache options: refusals name the option") {
    engine::LoadOptions options = small(64);
    for (const int32_t n : {0, -1, engine::max_streams_limit + 1}) {
        options.max_streams = n;
        CHECK_REFUSED(plan_of(options), Code::invalid_argument, "max_streams is " + std::to_string(n));
    }
    options.max_streams = 1;
    options.compute = kernels::Compute::exact;
    for (const auto mode : {KvSpec::q8, KvSpec::q4}) {
        options.cache_mode = mode;
        CHECK_REFUSED(plan_of(options), Code::invalid_argument, "exact", "cache_mode");
    }
    // Heads of 16 values: groups of 32 do not fit.
    options.compute = kernels::Compute::standard;
    options.cache_mode = KvSpec::q4;
    CHECK_REFUSED(Model::load(TinyFolder("llama").open(), PlainFormat(), options, {}, {}), Code::invalid_argument,
                  "32");
}

TEST_CASE("cache options: every key reaches the engine") {
    std::vector<qp_option_info> known;
    for (uint32_t i = 0;; ++i) {
        auto info = make<qp_option_info>();
        if (!engine::load_option(i, info)) break;
        CHECK(std::string(info.help).size() > 10);
        known.push_back(info);
    }
    const auto parsed = [&](const std::vector<qp_option>& given) {
        return engine::parse_load_options(backend::LoadOptions(known, given.data(), given.size()));
    };
    CHECK(parsed({}).max_streams == 16);
    CHECK(parsed({}).cache_tokens == 0);
    CHECK(parsed({}).cache_mode == KvSpec::f16);
    const auto given = parsed({{"max_streams", "3"}, {"cache_tokens", "16777216"}, {"cache_mode", "q4"}});
    CHECK(given.max_streams == 3);
    CHECK(given.cache_tokens == 1 << 24);
    CHECK(given.cache_mode == KvSpec::q4);
    CHECK(parsed({{"cache_mode", "q8"}}).cache_mode == KvSpec::q8);
    for (const qp_option& bad : {qp_option{"max_streams", "0"}, qp_option{"max_streams", "65"},
                                 qp_option{"cache_tokens", "-1"}, qp_option{"cache_mode", "f32"}})
        CHECK_THROWS_AS(parsed({bad}), Error);
}

}  // namespace quantplug::test
