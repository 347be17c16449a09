// A model over several devices: the same bits as on one, whatever the stages; what is refused, and by which stage.
#include <deque>

#include "model.h"

using namespace quantplug::test;

namespace {

std::unique_ptr<Device> one_device(const std::string& name) {
    std::unique_ptr<Device> device;
    const Status status = name == "reference" ? (device = make_reference_device(), Status{})
                          : name == "cuda"    ? make_cuda_device(0, &device)
                                              : make_cpu_device(2, &device);
    REQUIRE_MESSAGE(status.ok(), status.message);
    return device;
}

std::unique_ptr<Device> split(const std::vector<std::string>& names) {
    std::vector<std::unique_ptr<Device>> stages;
    for (const std::string& name : names) stages.push_back(one_device(name));
    std::unique_ptr<Device> device;
    const Status status = make_split_device(std::move(stages), &device);
    REQUIRE_MESSAGE(status.ok(), status.message);
    return device;
}

struct Form {
    const char* name;
    void (*set)(TinyOptions&);
};
const Form forms[] = {
    {"plain, act order", [](TinyOptions& o) { o.perm = true; }},
    {"tied quantised head, exact", [](TinyOptions& o) { o.tied_quantised = true, o.compute = Compute::exact; }},
    {"parallel, one norm, residual scale",
     [](TinyOptions& o) { o.block = Block::parallel, o.mlp_norm = false, o.residual_scale = 0.4f; }},
    {"post, layer norm with biases",
     [](TinyOptions& o) {
         o.block = Block::post, o.pre_norms = o.final_norm = false, o.post_norms = true;
         o.norm = NormSpec::layer, o.norm_bias = true;
     }},
    {"all of 4 experts, gated shared expert",
     [](TinyOptions& o) { o.n_experts = o.top_k = 4, o.shared_inner = 40, o.shared_gate = true; }},
    {"2 of 5 experts, exact", [](TinyOptions& o) { o.n_experts = 5, o.compute = Compute::exact; }},
    {"dense experts in a parallel block",
     [](TinyOptions& o) {
         o.n_experts = 3, o.top_k = 1, o.dense = true, o.block = Block::parallel, o.mlp_norm = false;
         o.compute = Compute::exact;
     }},
    {"narrow embedding, positions, scales",
     [](TinyOptions& o) {
         o.embedding_size = 24, o.position_offset = 2, o.rope = false, o.embedding_scale = 7.5f;
         o.embedding_norm = true, o.logit_softcap = 1.5f;
     }},
    {"longrope, windows, QK norm",
     [](TinyOptions& o) { o.longrope = true, o.length_limit = 9, o.window = 5, o.qk_norm = QkNorm::per_head; }},
};

bool has_cuda() { return !cuda_devices().empty(); }

const std::vector<int32_t> table_of_one = {0, 1, 2, 3, 4, 5, 6, 7};

std::vector<Wanted> last_argmax(size_t n_rows) { return {{int32_t(n_rows) - 1, Wanted::argmax, 0}}; }

}  // namespace

TEST_CASE("stages on like devices give the bits of the whole, prefill and decode") {
    const uint64_t seed = fresh_seed();
    std::vector<std::vector<std::string>> stages = {
        {"reference", "reference"}, {"cpu", "cpu"}, {"cpu", "cpu", "cpu"}, {"cpu", "reference"}};
    if (has_cuda()) stages.insert(stages.end(), {{"cpu", "cuda"}, {"cuda", "cuda"}, {"cpu", "cuda", "cuda"}});
    for (const Form& form : forms) {
        TinyOptions options;
        options.n_layers = 4;
        form.set(options);
        const TinyModel model(options, seed);
        Random random(seed);
        const auto rows = two_sequences(random, 20, options.n_vocab);
        const auto table = scrambled_table(random, 2, 8);
        // A prefill of both, then steps of one and of two rows.
        const std::vector<size_t> cuts = {28, 29, 30, 32, 34, 40};
        const auto run = [&](std::unique_ptr<Device> device, const KvSpec& cache) {
            Loaded loaded(std::move(device), model, 64, 64, cache);
            return run_all(loaded, rows, table, 8, cuts);
        };
        const auto reference = run(one_device("reference"), small_blocks);
        for (const auto& names : stages) {
            std::string words;
            for (const std::string& name : names) words += name + " ";
            INFO("seed " << seed << ", " << std::string(form.name) << ", " << words);
            // CUDA computes `default` alone.
            if (names.back() == "cuda" && options.compute != Compute::standard) continue;
            const KvSpec cache = names.back() == "cuda" ? KvSpec{KvSpec::f16, 32, small_blocks.n_blocks} : small_blocks;
            const auto got = run(split(names), cache);
            if (names.back() == "cuda") {
                // A stage begins with a norm of its own where the whole model has it folded into the product before:
                // FP16 rounds apart. A router's near ties may flip by it.
                CHECK(distance(got, reference) < (options.n_experts > 0 ? 0.2 : 8e-3));
            } else if (names.front() == names.back() && names.front() != "reference") {
                const auto whole = run(one_device(names.front()), cache);
                CHECK(std::memcmp(got.data(), whole.data(), whole.size() * sizeof(float)) == 0);
            } else if (names.front() == "reference") {
                CHECK(distance(got, reference) < 2e-6);  // its residual stream is FP64, and FP32 between the stages
            } else {
                // As one CPU against the reference: 16-bit activations, weights that are not rounded to FP16; four
                // layers instead of two.
                CHECK(distance(got, reference) < 8e-3);
            }
        }
    }
}

TEST_CASE("plans and memory are of the selected part") {
    TinyOptions options;
    options.n_layers = 3;  // two on the first part, one on the second
    for (const char* name : {"cpu", "reference"}) {
        INFO(std::string(name));
        Loaded loaded(split({name, name}), {options, 1}, 37, 5, small_blocks);
        Device& device = *loaded.device;
        REQUIRE(device.n_parts() == 2);
        uint64_t kv[2] = {}, weights[2] = {};
        for (int32_t part = 0; part < 2; ++part) {
            device.select(part);
            const MemoryUse use = device.memory();
            kv[part] = use.kv;
            weights[part] = use.weights;
            CHECK(use.kv == device.kv_bytes(loaded.spec, small_blocks));
            CHECK(use.scratch == device.scratch_bytes(loaded.spec, 37, 5));
            CHECK_FALSE(device.free_memory().has_value());
            CHECK(device.reserve(1).ok());
        }
        CHECK(kv[0] > 0);
        CHECK(weights[0] > 0);
        CHECK(kv[0] == 2 * kv[1]);
        device.free_kv(loaded.kv);
        for (int32_t part = 0; part < 2; ++part) {
            device.select(part);
            CHECK(device.memory().kv == 0);
        }
        CHECK(device.describe().find(" + ") != std::string::npos);
        CHECK(device.max_rows() == one_device(name)->max_rows());
        CHECK(device.path(3, 9) == 0);
    }
}

TEST_CASE("the step before chooses tokens of the next, collected or not") {
    for (const char* name : {"cpu", "reference"}) {
        INFO(std::string(name));
        TinyOptions options;
        const uint64_t seed = fresh_seed();
        Loaded loaded(split({name, name}), {options, seed}, 8, 8, small_blocks);
        Device& device = *loaded.device;
        std::deque<std::pair<std::vector<Row>, std::vector<Wanted>>> kept;  // lives until the wait
        const auto submit = [&](std::vector<Row> of_step, std::vector<Wanted> wanted_of_it) {
            const auto& [rows, wanted] = kept.emplace_back(std::move(of_step), std::move(wanted_of_it));
            const Step step{rows, loaded.kv, table_of_one, 8, wanted, rows.size() > 1};
            return device.submit(loaded.spec, step, [&](Ops& ops) { return walk_all(loaded.spec, ops); });
        };
        const std::vector<Row> prompt = {{0, 5, 0, 0}, {0, 17, 1, 0}};
        const std::vector<Wanted> both = {{0, Wanted::logits, 0}, {1, Wanted::argmax, 0}};
        // One after the other, with the ids in the rows.
        StepResult result;
        REQUIRE(device.wait(submit(prompt, both), &result).ok());
        const int32_t first = result.tokens.at(0);
        REQUIRE(device.wait(submit({{0, first, 2, 0}}, last_argmax(1)), &result).ok());
        const StepResult expected = result;

        for (const bool collected : {false, true}) {
            const Ticket a = submit(prompt, both);
            StepResult of_a, of_b;
            if (collected) REQUIRE(device.wait(a, &of_a).ok());
            const Ticket b = submit({{0, chosen_before(1), 2, 0}}, last_argmax(1));
            while (!device.finished(b)) {
            }
            REQUIRE(device.wait(b, &of_b).ok());
            if (!collected) REQUIRE(device.wait(a, &of_a).ok());
            CHECK(of_a.tokens == std::vector<int32_t>{first});
            CHECK(of_b.tokens == expected.tokens);
            CHECK(of_b.values == expected.values);
            CHECK(device.wait(a, nullptr).code == not_found);
            CHECK(device.wait(b, nullptr).code == not_found);
        }
        // Wanted 0 was no argmax, there was no Wanted 2, and a step that failed chose none.
        for (const int32_t i : {0, 2}) {
            REQUIRE(device.wait(submit(prompt, both), nullptr).ok());
            CHECK(device.wait(submit({{0, chosen_before(i), 2, 0}}, {}), nullptr).code == invalid_argument);
        }
        CHECK(device.wait(submit({{0, chosen_before(1), 2, 0}}, {}), nullptr).code == failed_precondition);
    }
}

TEST_CASE("cancel in any stage gives the step up and leaves the device usable") {
    TinyOptions options;
    options.n_layers = 4;
    Loaded loaded(split({"cpu", "cpu"}), {options, 3}, 8, 8, small_blocks);
    const std::vector<Row> rows = {{0, 5, 0, 0}, {0, 17, 1, 0}};
    StepResult expected, result;
    REQUIRE(loaded.run(rows, table_of_one, 8, last_argmax(2), &expected).ok());
    const std::vector<Wanted> wanted = last_argmax(2);
    for (int32_t calls = 0; calls < 2; ++calls) {
        int32_t walks = 0;
        const Step step{rows, loaded.kv, table_of_one, 8, wanted, true};
        const Ticket ticket = loaded.device->submit(loaded.spec, step, [&](Ops& ops) {
            walk_all(loaded.spec, ops);
            return walks++ < calls;
        });
        const Status status = loaded.device->wait(ticket, &result);
        CHECK(status.code == cancelled);
        CHECK(walks == calls + 1);
        CHECK(result.tokens.empty());
        CHECK(result.values.empty());
    }
    REQUIRE(loaded.run(rows, table_of_one, 8, last_argmax(2), &result).ok());
    CHECK(result.values == expected.values);
}

TEST_CASE("a changed model is seen, an unchanged one keeps its stages") {
    // What a stage's device was given as its spec, step by step.
    struct Seen {
        std::vector<const ModelSpec*> specs;
    };
    class Watching : public Device {
     public:
        Watching(std::unique_ptr<Device> device, Seen& seen) : device_(std::move(device)), seen_(seen) {}
        std::string describe() const override { return "watched:0 (" + device_->describe() + ")"; }
        uint64_t matrix_bytes(const MatrixShape& shape) const override { return device_->matrix_bytes(shape); }
        uint64_t kv_bytes(const ModelSpec& spec, const KvSpec& kv) const override {
            return device_->kv_bytes(spec, kv);
        }
        uint64_t scratch_bytes(const ModelSpec& spec, int32_t rows, int32_t wanted) const override {
            return device_->scratch_bytes(spec, rows, wanted);
        }
        MemoryUse memory() const override { return device_->memory(); }
        Status pack(const QuantSource& source, Matrix* out) override { return device_->pack(source, out); }
        Status pack(const DenseSource& source, Matrix* out) override { return device_->pack(source, out); }
        Status upload(std::span<const float> values, Vector* out) override { return device_->upload(values, out); }
        Status prepare(const ModelSpec& spec, int32_t rows, int32_t wanted) override {
            return device_->prepare(spec, rows, wanted);
        }
        Status make_kv(const ModelSpec& spec, const KvSpec& kv, Kv* out) override {
            return device_->make_kv(spec, kv, out);
        }
        void free_kv(Kv kv) override { device_->free_kv(kv); }
        Status truncate(Kv kv, std::span<const int32_t> blocks, int32_t n_tokens) override {
            return device_->truncate(kv, blocks, n_tokens);
        }
        Ticket submit(const ModelSpec& spec, const Step& step, const Walk& walk) override {
            seen_.specs.push_back(&spec);
            return device_->submit(spec, step, walk);
        }
        Status wait(Ticket ticket, StepResult* out) override { return device_->wait(ticket, out); }
        bool finished(Ticket ticket) override { return device_->finished(ticket); }

     private:
        std::unique_ptr<Device> device_;
        Seen& seen_;
    };
    Seen seen;
    std::vector<std::unique_ptr<Device>> stages;
    for (int i = 0; i < 2; ++i) stages.push_back(std::make_unique<Watching>(one_device("cpu"), seen));
    std::unique_ptr<Device> device;
    REQUIRE(make_split_device(std::move(stages), &device).ok());
    Loaded loaded(std::move(device), {{}, 4}, 8, 8, small_blocks);
    StepResult result;
    const std::vector<Row> rows = {{0, 5, 0, 0}};
    const auto step = [&] { return loaded.run(rows, table_of_one, 8, last_argmax(1), &result); };
    REQUIRE(step().ok());
    const std::vector<float> before = result.values;
    REQUIRE(step().ok());
    REQUIRE(seen.specs.size() == 4);
    CHECK(seen.specs[0] == seen.specs[2]);
    CHECK(seen.specs[1] == seen.specs[3]);
    loaded.spec.layers[1].attention_scale = 0.9f;
    REQUIRE(step().ok());
    CHECK(seen.specs[4] != seen.specs[2]);
    CHECK(seen.specs[5] != seen.specs[3]);
    // One token attends to itself alone whatever the scale; the norm's epsilon it feels.
    loaded.spec.layers[1].mlp_norm.eps = 1;
    REQUIRE(step().ok());
    CHECK(result.values != before);
}

TEST_CASE("what a split device refuses, and who") {
    std::unique_ptr<Device> none;
    CHECK(make_split_device({}, &none).code == invalid_argument);
    {
        std::vector<std::unique_ptr<Device>> stages;
        stages.push_back(split({"cpu", "cpu"}));
        stages.push_back(nullptr);
        CHECK(make_split_device(std::move(stages), &none).code == invalid_argument);
    }
    CHECK(split({"cpu"})->n_parts() == 1);

    TinyOptions options;
    options.n_layers = 3;
    Loaded loaded(split({"cpu", "reference", "cpu"}), {options, 5}, 8, 4, small_blocks);
    StepResult result;
    const auto refuse = [&](int32_t code, const char* part, const std::vector<Row>& rows,
                            const std::vector<Wanted>& wanted = {}) {
        const Status status = loaded.run(rows, table_of_one, 8, wanted, &result);
        INFO(status.message);
        CHECK(status.code == code);
        CHECK(status.message.find(part) != std::string::npos);
        CHECK(result.values.empty());
    };
    refuse(invalid_argument, "no rows", {});
    refuse(invalid_argument, "token 101", {{0, 101, 0}});
    refuse(invalid_argument, "5 rows of logits", {{0, 1, 0}}, std::vector<Wanted>(5));
    const auto with_devices = [&](int32_t a, int32_t b, int32_t c, const char* part) {
        INFO(a << " " << b << " " << c);
        const ModelSpec kept = loaded.spec;
        const int32_t devices[] = {a, b, c};
        for (size_t l = 0; l < 3; ++l) loaded.spec.layers[l].device = devices[l];
        refuse(invalid_argument, part, {{0, 1, 0}});
        Kv kv;
        CHECK(loaded.device->make_kv(loaded.spec, small_blocks, &kv).code == invalid_argument);
        loaded.spec = kept;
    };
    with_devices(0, 1, 1, "device 2");
    with_devices(0, 2, 2, "device 1");
    with_devices(1, 1, 2, "device 0");
    with_devices(0, 1, 0, "layer 2");
    with_devices(0, 1, 3, "device 3");
    with_devices(-1, 1, 2, "device -1");

    // A matrix that is on another stage than its layer.
    ModelSpec kept = loaded.spec;
    loaded.spec.layers[1].down = loaded.spec.layers[0].down;
    refuse(invalid_argument, "reference: ", {{0, 1, 0}});
    loaded.spec = kept;
    loaded.spec.head = loaded.spec.embedding;
    refuse(invalid_argument, "cpu: ", {{0, 1, 0}});
    loaded.spec = kept;
    CHECK(loaded.run({{0, 1, 0}}, table_of_one, 8, last_argmax(1), &result).ok());

    // Walks that pass something else than the model's.
    const std::vector<Row> rows = {{0, 1, 0}};
    const std::vector<Wanted> wanted = last_argmax(1);
    const Step step{rows, loaded.kv, table_of_one, 8, wanted, false};
    const auto walked = [&](const Walk& walk) {
        return loaded.device->wait(loaded.device->submit(loaded.spec, step, walk), &result);
    };
    const ModelSpec copy = loaded.spec;
    CHECK(walked([&](Ops& ops) { return walk_all(copy, ops); }).message.find("not the one given") != std::string::npos);
    CHECK(walked([&](Ops& ops) {
              const LayerSpec other = loaded.spec.layers[2];
              const Activations x = ops.embed(loaded.spec);
              ops.norm_qkv(loaded.spec, other, x);
              ops.head_sample(loaded.spec, x);
              return true;
          }).code == invalid_argument);
    CHECK(walked([&](Ops& ops) { return ops.embed(loaded.spec), true; }).message.find("head_sample") !=
          std::string::npos);
    CHECK(walked([&](Ops& ops) { return walk_all(loaded.spec, ops); }).ok());

    CHECK(loaded.device->prepare(loaded.spec, 8, 4).code == failed_precondition);
    CHECK(loaded.device->truncate({7}, {}, 0).code == not_found);
    CHECK(loaded.device->truncate(loaded.kv, table_of_one, 3).ok());
    CHECK(loaded.device->truncate(loaded.kv, table_of_one, -1).message.find("cpu: ") == 0);
    KvSpec q4 = small_blocks;
    q4.type = KvSpec::q4;  // heads of 16
    Kv kv;
    CHECK(loaded.device->make_kv(loaded.spec, q4, &kv).message.find("cpu: ") == 0);
}
