// The measurement tool: its keys, its byte counts, its refusals. Times are the machine's and not looked at.
#include "engine/tools/bench.h"

#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint_files.h"
#include "engine/tools/bench_json.h"
#include "engine/tools/bench_model.h"
#include "tiny_folders.h"

namespace quantplug::test {

using namespace engine;

namespace {

json arguments() {
    return {{"model", (data_dir() / "tiny" / "llama").string()},
            {"pp", 40},
            {"tg", 3},
            {"depth", 70},
            {"batch", {1, 3}},
            {"repeat", 2},
            {"device", "cpu"},
            {"threads", 1}};
}

std::vector<json> run(const json& given, bool cancel = false) {
    std::vector<json> events;
    run_bench(PlainFormat(), given.dump(), [&](const std::string& text) {
        events.push_back(json::parse(text));
        return !cancel;
    });
    return events;
}

}  // namespace

TEST_CASE("bench: every key, a row for each test, rows as they are done") {
    const std::vector<json> events = run(arguments());
    REQUIRE(!events.empty());
    const json& done = events.back();
    CHECK(done.at("event") == "done");
    for (const char* key : {"read_gb_per_s", "int8_gops", "int16_gops", "fp32_gflops"})
        CHECK(done.at("limits").at(key).get<double>() > 0.1);
    CHECK(!done.at("cpu").get<std::string>().empty());
    CHECK(done.at("device").get<std::string>().find("cpu") == 0);

    const json& rows = done.at("rows");
    REQUIRE(rows.size() == 3);
    std::vector<json> sent;
    for (json event : events)
        if (event.at("event") == "row") {
            event.erase("event");
            sent.push_back(event);
        }
    CHECK(json(sent) == rows);
    const char* const tests[] = {"pp40", "tg3", "tg3"};
    const int batches[] = {1, 1, 3};
    for (size_t i = 0; i < rows.size(); ++i) {
        const json& row = rows[i];
        CHECK(row.size() == 14);
        CHECK(row.at("device") == "cpu");
        CHECK(row.at("shape") == "llama");
        CHECK(row.at("bits") == 32);  // the tiny models are FP32
        CHECK(row.at("threads") == 1);
        CHECK(row.at("depth") == 70);
        CHECK(row.at("test") == tests[i]);
        CHECK(row.at("batch") == batches[i]);
        const double speed = row.at("tokens_per_s"), bytes = row.at("bytes_per_token");
        CHECK(row.at("min").get<double>() > 0);
        CHECK(row.at("min").get<double>() <= speed);
        CHECK(row.at("max").get<double>() >= speed);
        CHECK(row.at("gb_per_s").get<double>() == doctest::Approx(bytes * speed * 1e-9));
        CHECK(row.at("share_of_bandwidth").get<double>() > 0);
        CHECK(row.at("share_of_peak").get<double>() > 0);
    }
    // Three sequences share the weights; the caches are their own.
    CHECK(rows[2].at("bytes_per_token").get<double>() < rows[1].at("bytes_per_token").get<double>());
}

TEST_CASE("bench: bytes and operations of a step are those of the model") {
    const Decoder tiny = synthetic_decoder("tinyllama-1.1b", 4, 128);
    double weights = 0;
    for (const LinearPart& l : tiny.linears) weights += double(l.shape.in_features) * l.shape.out_features;
    CHECK(weights == 1100048384.0 - 45.0 * 2048);  // TinyLlama's parameters but for its 45 norms

    BenchMemory memory;
    memory.n_blocks = 4;
    memory.max_wanted = 2;
    memory.positions = 128;
    LoadOptions options;
    options.device = "cpu";
    options.threads = 1;
    const TinyFolder folder("llama");
    const auto model = BenchModel::from_folder(data_dir() / "tiny" / "llama", PlainFormat(), options, memory, {});
    // 2 layers: q 32x64, k and v 32x32, o 64x32, three of 32x64; head 32x96. The embedding is read a row at a time.
    const double matrices = 2.0 * (2 * 32 * 64 + 2 * 32 * 32 + 3 * 32 * 64) + 32 * 96;
    const StepCost one = model->cost(1, 100, false), three = model->cost(3, 100, false),
                   shared = model->cost(3, 100, true);
    // Attention: a product with keys and one with values, 4 heads of 16.
    CHECK(one.operations == 2 * matrices + 2 * 4 * 100.0 * 4 * 16);
    CHECK(three.operations == 3 * one.operations);
    CHECK(one.bytes >= 4 * matrices);
    CHECK(one.bytes < 4 * matrices * 1.3 + 101 * 2 * 2 * 2 * 16 * 2 * 1.3);
    // FP16 cache: 2 layers, key and value, 2 heads of 16: 256 bytes a token.
    CHECK(three.bytes - shared.bytes == doctest::Approx(2 * 100 * 256.0));
}

TEST_CASE("bench: refusals and cancel") {
    const auto refused = [](json changes, const char* a, const char* b) {
        json given = arguments();
        given.update(changes);
        CHECK_REFUSED(run(given), Code::invalid_argument, a, b);
    };
    refused({{"synthetic", "llama2-7b"}}, "not both", "synthetic");
    refused({{"model", ""}, {"synthetic", "gpt-5"}}, "gpt-5", "tinyllama-1.1b");
    refused({{"model", ""}, {"synthetic", "smollm2-135m"}, {"bits", 7}}, "bits", "7");
    refused({{"model", ""}, {"synthetic", "smollm2-135m"}, {"group", 0}}, "group", "0");
    refused({{"batch", {1, 1000}}}, "batch", "1000");
    refused({{"batch", json::array()}}, "batch", "0");
    refused({{"repeat", 0}}, "repeat", "0");
    refused({{"compute", "quick"}}, "compute", "quick");
    refused({{"cache_mode", "q1"}}, "cache_mode", "q1");
    refused({{"colour", "blue"}}, "colour", "synthetic");
    json large = arguments();
    large.update({{"model", ""}, {"synthetic", "llama2-7b"}, {"depth", 4000000}, {"tg", 0}});
    CHECK_REFUSED(run(large), Code::resource_exhausted, "llama2-7b", "MiB");
    json far = arguments();
    far.update({{"depth", 1 << 24}, {"batch", {64}}});
    CHECK_REFUSED(run(far), Code::out_of_range, "too large", "64");
    CHECK_REFUSED(run(arguments(), true), Code::cancelled, "cancel", "");
    refused({{"device", "tpu"}}, "tpu", "cuda[:N]");
    refused({{"gpu_layers", 2}}, "gpu_layers", "cpu");
}

TEST_CASE("bench: a CUDA device is measured against its own copies") {
    if (kernels::cuda_devices().empty()) return;
    json given = arguments();
    given.update({{"device", "cpu,cuda"}, {"pp", 8}, {"tg", 2}, {"depth", 0}, {"batch", {1}}});
    const json done = run(given).back();
    REQUIRE(done.at("rows").size() == 2);
    for (const json& row : done.at("rows")) {
        CHECK(row.at("device") == "cpu+cuda:0");
        CHECK(row.at("share_of_bandwidth").get<double>() > 0);
        CHECK(row.at("share_of_peak") == 0);
    }
    REQUIRE(done.at("cuda").size() == 1);
    CHECK(done.at("cuda")[0].at("device") == "cuda:0");
    CHECK(done.at("cuda")[0].at("gb_per_s").get<double>() > 0);
}

TEST_CASE("bench: the limits alone") {
    const std::vector<json> events = run({{"threads", 1}});
    CHECK(events.back().at("rows").empty());
    CHECK(events.back().at("limits").at("read_gb_per_s").get<double>() > 0);
}

}  // namespace quantplug::test
