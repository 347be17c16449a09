// What a device refuses, what it plans and allocates, and what the host's floating-point mode cannot change.
#include "model.h"
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

using namespace quantplug::test;

namespace {

const KvSpec kv_options{KvSpec::f16, 8, 16};

std::vector<int32_t> plain_table(int32_t n) {
    std::vector<int32_t> table(static_cast<size_t>(n));
    std::iota(table.begin(), table.end(), 0);
    return table;
}

}  // namespace

TEST_CASE("plans equal what is allocated") {
    const uint64_t seed = fresh_seed();
    Random random(seed);
    for (const char* name : {"portable", "reference"}) {
        const auto make = [&] {
            return std::string(name) == "portable" ? cpu_device(nullptr, 3) : make_reference_device();
        };
        auto device = make();
        CHECK(device->memory().weights == 0);
        for (const Shape& shape : shapes()) {
            INFO("seed " << seed << ", " << std::string(name) << ", " << std::string(shape.name));
            const auto quant = random_quant(shape, random);
            const uint64_t before = device->memory().weights;
            Matrix matrix;
            REQUIRE(device->pack(quant->source, &matrix).ok());
            CHECK(device->memory().weights - before == device->matrix_bytes(quant->source.shape()));
        }
        for (DType type : {DType::f32, DType::f16, DType::bf16}) {
            const auto dense = random_dense(33, 5, type, type == DType::f16, random);
            const uint64_t before = device->memory().weights;
            Matrix matrix;
            REQUIRE(device->pack(dense->source, &matrix).ok());
            CHECK(device->memory().weights - before == device->matrix_bytes(dense->source.shape()));
        }
        for (Compute compute : {Compute::standard, Compute::exact}) {
            TinyOptions options;
            options.compute = compute;
            options.n_experts = 3;
            options.shared_inner = 112;
            options.embedding_size = 24;
            const TinyModel model(options, seed);
            Loaded loaded(make(), model, 37, 5, kv_options);
            CHECK(loaded.device->memory().kv == loaded.device->kv_bytes(loaded.spec, kv_options));
            CHECK(loaded.device->memory().scratch == loaded.device->scratch_bytes(loaded.spec, 37, 5));
            ModelSpec plan = loaded.spec;  // plans need no handles
            for (LayerSpec& layer : plan.layers) layer = {};
            plan.embedding = plan.head = {};
            CHECK(loaded.device->memory().scratch == loaded.device->scratch_bytes(plan, 37, 5));
            CHECK(loaded.device->memory().kv == loaded.device->kv_bytes(plan, kv_options));
            loaded.device->free_kv(loaded.kv);
            CHECK(loaded.device->memory().kv == 0);
        }
    }
}

TEST_CASE("memory that the system does not have is RESOURCE_EXHAUSTED, and the device goes on") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    const auto device = cpu_device(nullptr, 2);
    DenseSource huge;
    huge.in_features = 1 << 24;
    huge.out_features = 1 << 26;
    huge.dtype = DType::f32;
    huge.read_rows = [](int32_t, int32_t, void*) { return Status::error(internal, "not reached"); };
    Matrix matrix;
    CHECK(device->pack(huge, &matrix).code == resource_exhausted);
    ModelSpec spec;
    spec.hidden_size = spec.intermediate_size = spec.n_vocab = 1 << 24;
    spec.n_heads = spec.n_kv_heads = 8192;
    spec.head_dim = 1024;
    spec.max_positions = 1 << 24;
    CHECK(device->prepare(spec, 65536, 65536).code == resource_exhausted);
    spec.layers.resize(1000);
    Kv kv;
    CHECK(device->make_kv(spec, {KvSpec::f32, 1 << 20, 2147483647}, &kv).code == resource_exhausted);
    CHECK(device->memory().weights + device->memory().kv + device->memory().scratch == 0);
    CHECK(device->kv_bytes(spec, {KvSpec::f32, 1 << 20, 2147483647}) == UINT64_MAX);
    CHECK(device->matrix_bytes({INT32_MAX, INT32_MAX, {}, DType::f32, false, false, true}) >
          uint64_t(INT32_MAX) * INT32_MAX);
    CHECK(device->pack(random_quant(shapes()[0], random)->source, &matrix).ok());
}

TEST_CASE("a step that leaves its bounds is refused with what and where") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    const TinyModel model({}, seed);
    for (bool reference : {false, true}) {
        Loaded loaded(reference ? make_reference_device() : cpu_device(nullptr, 2), model, 8, 4, kv_options);
        const auto table = plain_table(16);  // two sequences of 8 blocks
        StepResult result;
        const auto refuse = [&](const char* part, const std::vector<Row>& rows, const std::vector<Wanted>& wanted,
                                const std::vector<int32_t>& t, int32_t max_blocks) {
            const Status status = loaded.run(rows, t, max_blocks, wanted, &result);
            INFO(status.message);
            CHECK(status.code == invalid_argument);
            CHECK(status.message.find(part) != std::string::npos);
            CHECK(result.values.empty());
        };
        CHECK(loaded.run({{0, 1, 0}}, table, 8, {{0, Wanted::argmax, 0}}, &result).ok());
        refuse("no rows", {}, {}, table, 8);
        refuse("9 rows", std::vector<Row>(9), {}, table, 8);
        refuse("token 101", {{0, 101, 0}}, {}, table, 8);
        refuse("position 64 in row 0", {{0, 1, 64}}, {}, table, 8);
        refuse("position -1", {{0, 1, -1}}, {}, table, 8);
        refuse("length of 65 tokens in row 0", {{0, 1, 0, 65}}, {}, table, 8);
        refuse("length of -1", {{0, 1, 0, -1}}, {}, table, 8);
        refuse("sequence 2 in row 1", {{0, 1, 0}, {2, 1, 0}}, {}, table, 8);
        refuse("sequence -1", {{-1, 1, 0}}, {}, table, 8);
        refuse("needs 2 blocks", {{0, 1, 8}}, {}, table, 1);
        refuse("not a multiple", {{0, 1, 0}}, {}, table, 7);
        refuse("not a multiple", {{0, 1, 0}}, {}, table, 0);
        auto bad = table;
        bad[8] = 16;
        refuse("block 16 of sequence 1", {{0, 1, 0}, {1, 1, 20}}, {}, bad, 8);
        bad[8] = -1;
        refuse("block -1 of sequence 1", {{1, 1, 3}}, {}, bad, 8);
        bad[8] = 0;
        refuse("same place", {{0, 1, 3}, {1, 1, 3}}, {}, bad, 8);
        refuse("same place", {{0, 1, 3}, {0, 2, 3}}, {}, table, 8);
        refuse("row 1 is wanted", {{0, 1, 0}}, {{1, Wanted::logits, 0}}, table, 8);
        refuse("row -1 is wanted", {{0, 1, 0}}, {{-1, Wanted::logits, 0}}, table, 8);
        refuse("token 101", {{0, 1, 0}}, {{0, Wanted::logprob_of, 101}}, table, 8);
        refuse("5 rows of logits", {{0, 1, 0}}, std::vector<Wanted>(5), table, 8);
        CHECK(loaded.run({{0, 1, 0}}, table, 8, {{0, Wanted::argmax, 0}}, &result).ok());
    }
}

TEST_CASE("tickets, cancel, walks that break the order, specs that do not fit") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    const TinyModel model({}, seed);
    for (bool reference : {false, true}) {
        const auto make = [&] { return reference ? make_reference_device() : cpu_device(nullptr, 2); };
        Loaded loaded(make(), model, 8, 4, kv_options);
        Device& device = *loaded.device;
        const auto table = plain_table(16);
        const std::vector<Row> rows{{0, 1, 0}};
        const std::vector<Wanted> wanted{{0, Wanted::argmax, 0}};
        const Step step{rows, loaded.kv, table, 8, wanted, false};
        const ModelSpec& spec = loaded.spec;
        StepResult result;
        const auto run = [&](const ModelSpec& s, const Step& st, const Walk& walk) {
            return device.wait(device.submit(s, st, walk), &result).code;
        };

        const Ticket ticket = device.submit(spec, step, [&](Ops& ops) { return walk_all(spec, ops); });
        CHECK(device.finished(ticket));
        CHECK(device.wait(ticket, &result).ok());
        CHECK(device.wait(ticket, &result).code == not_found);
        CHECK(device.wait({12345}, &result).code == not_found);

        int32_t layers = 0;
        CHECK(run(spec, step, [&](Ops& ops) {
                  const Activations x = ops.embed(spec);
                  ops.norm_qkv(spec, spec.layers[0], x);
                  ++layers;
                  return false;
              }) == cancelled);
        CHECK(layers == 1);
        CHECK(result.tokens.empty());

        CHECK(run(spec, step, [](Ops&) { return true; }) == invalid_argument);  // no head_sample
        CHECK(run(spec, step, [&](Ops& ops) {
                  ops.head_sample(spec, {});
                  return true;
              }) == invalid_argument);  // no embed
        CHECK(run(spec, step, [&](Ops& ops) {
                  ops.norm_qkv(spec, spec.layers[0], {77});
                  return true;
              }) == invalid_argument);
        CHECK(run(spec, step, [&](Ops& ops) {
                  ops.down_add(spec, spec.layers[0], ops.embed(spec), ops.embed(spec));
                  return true;
              }) == invalid_argument);
        const LayerSpec foreign = spec.layers[0];
        CHECK(run(spec, step, [&](Ops& ops) {
                  ops.norm_qkv(spec, foreign, ops.embed(spec));
                  return true;
              }) == invalid_argument);
        const ModelSpec copy = spec;
        CHECK(run(spec, step, [&](Ops& ops) {
                  ops.embed(copy);
                  return true;
              }) == invalid_argument);
        CHECK(run(spec, step, [&](Ops& ops) {
                  ops.rope_append_attend(spec, spec.layers[0], 2, ops.norm_qkv(spec, spec.layers[0], ops.embed(spec)));
                  return true;
              }) == invalid_argument);

        const auto refuse = [&](auto&& change) {
            ModelSpec other = spec;
            change(other);
            const int32_t code = run(other, step, [&](Ops& ops) { return walk_all(other, ops); });
            CHECK((code == invalid_argument || code == failed_precondition));
        };
        refuse([](ModelSpec& s) { s.layers[1].q = {}; });
        refuse([](ModelSpec& s) { s.layers[1].q = {9999}; });
        refuse([](ModelSpec& s) { s.layers[1].down = s.layers[1].up; });
        refuse([](ModelSpec& s) { s.layers[0].attention_norm.weight = {9999}; });
        refuse([](ModelSpec& s) { s.layers[0].k_norm = s.layers[0].attention_norm; });
        refuse([](ModelSpec& s) { s.layers[0].rope = 1; });
        refuse([](ModelSpec& s) { s.layers[0].window = -1; });
        refuse([](ModelSpec& s) { s.head = s.layers[0].q; });
        refuse([](ModelSpec& s) { s.n_kv_heads = 3; });
        refuse([](ModelSpec& s) { s.head_dim = 0; });
        refuse([](ModelSpec& s) { s.hidden_size = 65; });
        refuse([](ModelSpec& s) { s.ropes[0].inv_freq.clear(); });
        refuse([](ModelSpec& s) { s.ropes[0].inv_freq[0] = INFINITY; });
        refuse([](ModelSpec& s) { s.attention_scale = NAN; });
        refuse([](ModelSpec& s) { s.ropes[0].length_limit = -1; });
        refuse([](ModelSpec& s) { s.ropes[0].length_limit = 8, s.ropes[0].factor = 0; });
        refuse([](ModelSpec& s) { s.ropes[0].length_limit = 8, s.ropes[0].theta = INFINITY; });
        refuse([](ModelSpec& s) { s.ropes[0].length_limit = 8, s.ropes[0].long_inv_freq = {1}; });
        refuse([](ModelSpec& s) { s.ropes[0].long_inv_freq = {INFINITY}; });
        refuse([](ModelSpec& s) { s.layers[0].attention_scale = NAN; });
        refuse([](ModelSpec& s) { s.attention_softcap = -1; });
        refuse([](ModelSpec& s) { s.clip_qkv = NAN; });
        refuse([](ModelSpec& s) { s.alibi_slopes = {1}; });
        refuse([](ModelSpec& s) { s.alibi_slopes = {1, 2, 3, INFINITY}; });
        refuse([](ModelSpec& s) { s.residual_scale = INFINITY; });
        refuse([](ModelSpec& s) { s.embedding_scale = NAN; });
        refuse([](ModelSpec& s) { s.logit_scale = NAN; });
        refuse([](ModelSpec& s) { s.logit_softcap = -2; });
        refuse([](ModelSpec& s) { s.layers[0].activation = Activation(6); });
        refuse([](ModelSpec& s) { s.layers[0].block = Block(3); });
        refuse([](ModelSpec& s) { s.layers[0].mlp_norm.kind = NormSpec::Kind(3); });
        refuse([](ModelSpec& s) { s.layers[0].mlp_norm.weight = {}; });
        refuse([](ModelSpec& s) { s.layers[0].mlp_norm.bias = s.layers[0].mlp_norm.weight; });
        refuse([](ModelSpec& s) { s.layers[0].mlp_norm.eps = -1; });
        refuse([](ModelSpec& s) { s.layers[0].mlp_post_norm = {NormSpec::rms, 0, {9999}, {}}; });
        refuse([](ModelSpec& s) {
            s.layers[0].block = Block::parallel, s.layers[0].mlp_post_norm = s.layers[0].mlp_norm;
        });
        refuse([](ModelSpec& s) { s.layers[0].block = Block::post, s.residual_scale = 2; });
        refuse([](ModelSpec& s) { s.layers[0].moe.experts.resize(2); });
        refuse([](ModelSpec& s) { s.embedding_norm = {NormSpec::rms, 0, {}, {}}; });
        refuse([](ModelSpec& s) { s.positions = s.embedding, s.max_positions = 64, s.position_offset = 38; });
        refuse([](ModelSpec& s) { s.positions = s.layers[0].down; });
        refuse([](ModelSpec& s) { s.project_in = s.layers[0].q; });
        refuse([](ModelSpec& s) { s.layers.pop_back(); });  // the cache has two layers

        ModelSpec parallel = spec;
        for (LayerSpec& layer : parallel.layers) layer.block = Block::parallel;
        const auto attended = [&](Ops& ops, Activations x) {
            const Activations qkv = ops.norm_qkv(parallel, parallel.layers[0], x);
            return ops.rope_append_attend(parallel, parallel.layers[0], 0, qkv);
        };
        CHECK(run(parallel, step, [&](Ops& ops) {
                  const Activations x = ops.embed(parallel);
                  ops.project_add(parallel, parallel.layers[0], attended(ops, x), x);
                  return true;
              }) == invalid_argument);  // the MLP would read the x of after
        CHECK(run(spec, step, [&](Ops& ops) {
                  ops.moe_add(spec, spec.layers[0], ops.embed(spec));
                  return true;
              }) == invalid_argument);  // a dense layer

        Step no_cache = step;
        no_cache.kv = {7};
        CHECK(run(spec, no_cache, [&](Ops& ops) { return walk_all(spec, ops); }) == not_found);
        CHECK(device.truncate({7}, table, 0).code == not_found);
        CHECK(device.truncate(loaded.kv, table, 3).ok());
        CHECK(device.prepare(spec, 1, 1).code == failed_precondition);
        CHECK(run(spec, step, [&](Ops& ops) { return walk_all(spec, ops); }) == ok_code);

        const auto fresh = make();
        CHECK(fresh->wait(fresh->submit(spec, step, [&](Ops& ops) { return walk_all(spec, ops); }), nullptr).code ==
              failed_precondition);
        CHECK(fresh->prepare(spec, 0, 1).code == invalid_argument);
        CHECK(fresh->prepare(spec, 1, -1).code == invalid_argument);
        Kv kv;
        CHECK(fresh->make_kv(spec, {KvSpec::f16, 0, 1}, &kv).code == invalid_argument);
        CHECK(fresh->make_kv(spec, {KvSpec::f16, 8, 0}, &kv).code == invalid_argument);
        CHECK(fresh->upload({}, &loaded.spec.final_norm.weight).code == invalid_argument);
    }
}

TEST_CASE("layers of experts are refused where their parts do not fit") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    TinyOptions options;
    options.n_experts = 4;
    options.shared_inner = 40;
    options.shared_gate = true;
    for (bool reference : {false, true}) {
        Loaded loaded(reference ? make_reference_device() : cpu_device(nullptr, 2), {options, seed}, 8, 4, kv_options);
        const auto table = plain_table(16);
        const std::vector<Row> rows{{0, 1, 0}};
        StepResult result;
        const ModelSpec whole = loaded.spec;
        REQUIRE(loaded.run(rows, table, 8, {}, &result).ok());
        const auto refuse = [&](const char* part, auto&& change) {
            loaded.spec = whole;
            change(loaded.spec, loaded.spec.layers[1].moe);
            const Status status = loaded.run(rows, table, 8, {}, &result);
            INFO(status.message);
            CHECK(status.code == invalid_argument);
            CHECK(status.message.find(part) != std::string::npos);
        };
        refuse("has 3 experts, n_experts is 4", [](ModelSpec&, MoeSpec& m) { m.experts.pop_back(); });
        refuse("takes 0 of 4", [](ModelSpec&, MoeSpec& m) { m.top_k = 0; });
        refuse("takes 5 of 4", [](ModelSpec&, MoeSpec& m) { m.top_k = 5; });
        refuse("router matrix is not on", [](ModelSpec&, MoeSpec& m) { m.router = {}; });
        refuse("layer 1 expert 2 down matrix", [](ModelSpec&, MoeSpec& m) { m.experts[2].down = m.experts[2].up; });
        refuse("layer 1 expert 3 up matrix", [](ModelSpec&, MoeSpec& m) { m.experts[3].up = m.shared.up; });
        refuse("half of a shared expert", [](ModelSpec&, MoeSpec& m) { m.shared.down = {}; });
        refuse("layer 1 shared expert gate matrix", [](ModelSpec&, MoeSpec& m) { m.shared = m.experts[0]; });
        refuse("layer 1 shared_gate matrix", [](ModelSpec&, MoeSpec& m) { m.shared_gate = m.router; });
        loaded.spec = whole;
        CHECK(loaded.run(rows, table, 8, {}, &result).ok());
    }
}

TEST_CASE("decoding on after truncate gives what a fresh sequence gives") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    const TinyModel model({}, seed);
    Loaded a(cpu_device(nullptr, 2), model, 8, 1, kv_options), b(cpu_device(nullptr, 2), model, 8, 1, kv_options);
    const auto table = plain_table(8);
    const std::vector<Wanted> wanted{{0, Wanted::logits, 0}};
    StepResult ra, rb;
    for (int32_t p = 0; p < 20; ++p) REQUIRE(a.run({{0, 50 - p, p}}, table, 8, wanted, &ra).ok());
    REQUIRE(a.device->truncate(a.kv, table, 7).ok());
    for (int32_t p = 0; p < 7; ++p) REQUIRE(b.run({{0, 50 - p, p}}, table, 8, wanted, &rb).ok());
    REQUIRE(a.run({{0, 3, 7}}, table, 8, wanted, &ra).ok());
    REQUIRE(b.run({{0, 3, 7}}, table, 8, wanted, &rb).ok());
    CHECK(ra.values == rb.values);
}

TEST_CASE("instruction sets and thread counts are chosen by name and number, others refused") {
    std::unique_ptr<Device> device;
    {
        const ForceCpu force("portable");
        REQUIRE(make_cpu_device(3, &device).ok());
        CHECK(device->describe() == "cpu (portable, 3 threads)");
    }
    {
        const ForceCpu force("sse9");
        const Status status = make_cpu_device(1, &device);
        CHECK(status.code == invalid_argument);
        CHECK(status.message.find("QUANTPLUG_CPU=sse9") != std::string::npos);
    }
    {
        const ForceCpu force("");
        CHECK(make_cpu_device(0, &device).ok());
    }
    CHECK(make_cpu_device(-1, &device).code == invalid_argument);
    CHECK(make_cpu_device(1025, &device).code == invalid_argument);
    ModelSpec spec;
    spec.hidden_size = spec.intermediate_size = spec.n_vocab = spec.n_heads = spec.n_kv_heads = spec.max_positions = 2;
    spec.head_dim = 2;
    spec.compute = Compute::fast;
    CHECK(device->prepare(spec, 1, 1).code == unimplemented);
    if (!cuda_devices().empty()) return;
    const Status status = make_cuda_device(0, &device);
    INFO(status.message);
    CHECK(status.code == unavailable);
    CHECK(status.message.find("--device cpu") != std::string::npos);
}

#if defined(__SSE__)
TEST_CASE("the host's flush-to-zero and rounding mode change nothing and come back") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    const TinyModel model({}, seed);
    const auto table = plain_table(8);
    const std::vector<Wanted> wanted{{0, Wanted::logits, 0}};
    const unsigned before = _mm_getcsr();
    std::vector<float> results[2];
    Random random(seed);
    const auto head = random_quant({"", 64, model.options.n_vocab, groups_of(5, 64, 32)}, random, 1e-4f);
    for (int odd = 0; odd < 2; ++odd) {
        Loaded loaded(cpu_device(nullptr, 3), model, 8, 1, kv_options);
        const unsigned mode =
            odd ? 0x1f80u | 0x8040u | 0x6000u : 0x1f80u;  // flush to zero, denormals are zero, round towards zero
        _mm_setcsr(mode);
        {
            REQUIRE(loaded.device->pack(head->source, &loaded.spec.head).ok());
            for (int32_t p = 0; p < 5; ++p) {
                StepResult result;
                REQUIRE(loaded.run({{0, p, p}}, table, 8, wanted, &result).ok());
                results[odd].insert(results[odd].end(), result.values.begin(), result.values.end());
            }
        }
        CHECK((_mm_getcsr() & 0xffc0u) == mode);
    }
    _mm_setcsr(before);
    CHECK(std::memcmp(results[0].data(), results[1].data(), results[0].size() * sizeof(float)) == 0);
}
#endif
