// The program itself, in a process of its own, with the fake plugin.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <thread>

#include "tests/host_stub/plugins/fake_model.h"
#include "tests/host_stub/process.h"

namespace quantplug::host {
namespace {

using namespace test;
using Json = nlohmann::json;

std::vector<std::string> keys(const Json& object) {
    std::vector<std::string> names;
    for (const auto& item : object.items()) names.push_back(item.key());
    return names;
}

void check_has_keys(const Json& object, const Words& expected) {
    for (const std::string& key : expected) {
        CAPTURE(key);
        CHECK(object.contains(key));
    }
}

}  // namespace

TEST_CASE("plugins lists what is found") {
    const Setup setup;
    const Json list = setup.run({"plugins", "--json"}).json().at("plugins");
    const auto fake =
        std::find_if(list.begin(), list.end(), [](const Json& entry) { return entry.at("name") == "fake"; });
    REQUIRE(fake != list.end());
    check_has_keys(*fake, {"name", "version", "abi", "path", "status", "reason", "formats"});
    CHECK(fake->at("status") == "ok");
    CHECK(fake->at("abi") == 1);
    CHECK(fake->at("formats") == Json{"salt", "pepper"});
    CHECK(setup.run({"plugins", "--backend", "fake"}).exit_code == 2);
    const std::string library = kBuilt / "stripped" / "libstripped.so";
    const Json with_path = setup.run({"plugins", "--json", "--backend", library}).json().at("plugins");
    CHECK(with_path.at(0).at("path") == library);
    CHECK(with_path.at(0).at("status") == "ok");
    CHECK(contains(with_path.at(1).at("reason").get<std::string>(), "another plugin named 'fake' comes first"));
    const Result table = setup.run({"plugins"});
    CHECK(table.exit_code == 0);
    CHECK(contains(table.out, "salt,pepper"));

    const Result none = setup.run({"plugins"}, "", {{"QUANTPLUG_PLUGIN_PATH", ""}});
    CHECK(none.exit_code == 0);
    CHECK(contains(none.out, "/usr/local/lib/quantplug"));
    const Result bad =
        setup.run({"plugins", "--json"}, "", {{"QUANTPLUG_PLUGIN_PATH", (kBuilt / "variants").string() + ":/nowhere"}});
    CHECK(bad.exit_code == 0);
    const Json listed = bad.json();
    for (const Json& entry : listed.at("plugins")) CHECK(entry.at("status") == "rejected");
    CHECK(contains(bad.out, "has no manifest beside it"));
    CHECK(contains(bad.out, "nowhere cannot be opened"));
}

TEST_CASE("info has every key and reads no weights") {
    const Setup setup;
    const Json info = setup.run({"info", setup.model, "--ctx", "77", "--json"}).json();
    check_has_keys(info, {"format", "architecture", "n_layers", "hidden_size", "n_vocab", "n_params", "bits_per_weight",
                          "bits_per_weight_head", "file_bytes", "backend", "tokenizer", "plan", "warnings"});
    check_has_keys(info.at("plan"), {"ctx", "weights", "kv_cache", "scratch", "other", "total"});
    CHECK(info.at("plan").at("ctx") == 77);
    CHECK(info.at("plan").at("total") == 1100);
    const Json devices = info.at("plan").at("devices");
    REQUIRE(devices.size() == 2);
    CHECK(devices[1].at("device") == "cuda:0");
    CHECK(devices[1].at("n_layers") == 2);
    CHECK(devices[1].at("total") == 550);
    CHECK(devices[1].at("free") == 1000);
    check_has_keys(devices[0], {"device", "n_layers", "weights", "kv_cache", "scratch", "total", "free"});
    CHECK(info.at("bits_per_weight") == 4.125);
    CHECK(info.at("warnings") == Json{"first", "second"});
    const Result text = setup.run({"info", setup.model});
    CHECK(contains(text.out, "4.125 bits per weight"));
    CHECK(contains(text.out, "warning         first\nwarning         second\n"));
}

TEST_CASE("generate: keys, log-probabilities, streams, timing") {
    const Setup setup;
    const Result result = setup.run({"generate", setup.model, "-p", "AB", "-n", "3", "--logprobs", "2", "--json"});
    CHECK(result.exit_code == 0);
    CHECK(result.err == "");
    const Json out = result.json();
    check_has_keys(out, {"prompt_ids", "ids", "text", "logprobs", "finish_reason", "timing", "peak_rss_bytes",
                         "backend", "device"});
    check_has_keys(out.at("timing"),
                   {"load_s", "first_token_s", "prompt_tokens", "prefill_s", "decode_tokens", "decode_s"});
    CHECK(out.at("prompt_ids") == Json(test::fake_tokens("AB")));
    CHECK(out.at("ids") == Json{0, 1, 2});
    CHECK(out.at("text") == "abc");
    CHECK(out.at("finish_reason") == "length");
    CHECK(out.at("logprobs").at(2) == Json::parse(R"({"id": 2, "logprob": -0.5, "top": [[2, -0.5], [1, -1.5]]})"));
    CHECK(out.at("timing").at("decode_tokens") == 2);
    CHECK(out.at("timing").at("first_token_s").get<double>() >= out.at("timing").at("load_s").get<double>());
    CHECK(out.at("peak_rss_bytes").get<uint64_t>() > 1000000);
    CHECK(out.at("device") == "cpu (fake)");

    const Result text = setup.run({"generate", setup.model, "-n", "4", "-f", "-"}, "from standard input");
    CHECK(text.out == "abcd\n");
    CHECK(contains(text.err, "load "));
    CHECK(setup.run({"generate", setup.model, "-n", "4", "-p", "x", "-q"}).err == "");
    CHECK(setup.run({"generate", setup.model, "-n", "1", "--ids", "4,5", "--json"}).json().at("prompt_ids") ==
          Json{4, 5});
    const Json bos = setup.run({"generate", setup.model, "-n", "1", "-p", "", "--bos", "on", "--json"}).json();
    CHECK(bos.at("prompt_ids") == Json{test::kFakeBos});
}

TEST_CASE("generate --batch: every stream, and an error where greedy ones differ") {
    const Setup setup;
    const Result result = setup.run({"generate", setup.model, "-p", "AB", "-n", "3", "--batch", "4", "--json"});
    CHECK(result.exit_code == 0);
    CHECK(result.err == "");
    const Json out = result.json();
    CHECK(out.at("streams") == Json(std::vector<std::vector<int>>(4, {0, 1, 2})));
    CHECK(out.at("ids") == Json{0, 1, 2});
    CHECK(out.at("text") == "abc");
    CHECK(out.at("finish_reason") == "length");
    CHECK(out.at("timing").at("batch_tokens") == 12);
    CHECK(!setup.run({"generate", setup.model, "-p", "AB", "-n", "1", "--json"}).json().contains("streams"));

    const Words odd = {"generate", setup.model, "-p", "#", "-n", "2", "--batch", "2", "--json"};  // '#' is id 35
    const Result differ = setup.run(odd);
    CHECK(differ.exit_code == 1);
    const Json streams = differ.json().at("streams");
    CHECK(streams[0] == Json{0, 1});
    CHECK(streams[1] == Json{1, 2});
    CHECK(contains(differ.err, "the greedy streams of one prompt differ"));
    Words drawn = odd;
    drawn.insert(drawn.end(), {"--temp", "1"});
    CHECK(setup.run(drawn).exit_code == 0);
    const Result text = setup.run({"generate", setup.model, "-p", "AB", "-n", "3", "--batch", "2"});
    CHECK(text.out == "abc\n");
    CHECK(contains(text.err, "2 streams: 6 tokens in"));

    Process process(setup.dir.path(), {"generate", setup.model, "-p", "x", "--batch", "3"});
    while (process.read_some().size() < 3) {
    }
    process.signal(SIGINT);
    const Result stopped = process.wait();
    CHECK(stopped.exit_code == 130);
    CHECK(contains(stopped.err, "cancelled"));
}

TEST_CASE("samplers that a plugin does not know are named once") {
    const Setup setup;
    const Result result = setup.run({"generate", setup.model, "-p", "A", "-n", "1", "--tfs", "0.5", "--top-k", "3",
                                     "--logit-bias", "1=2", "--temperature-last"});
    CHECK(result.exit_code == 0);
    CHECK(contains(result.err,
                   "warning: plugin fake does not know --tfs, --logit-bias, --sampler-order: no effect on this text"));
}

TEST_CASE("tokenize and detokenize, by line too; text out is valid UTF-8") {
    const Setup setup;
    CHECK(setup.run({"tokenize", setup.model, "-p", "AB", "--json"}).json() == Json{{"ids", test::fake_tokens("AB")}});
    CHECK(setup.run({"tokenize", setup.model, "-p", "AB"}).out == "29,30\n");
    CHECK(setup.run({"tokenize", setup.model, "--lines", "--json"}, "A\n\nB\n").out ==
          "{\"ids\":[29]}\n{\"ids\":[]}\n{\"ids\":[30]}\n");
    CHECK(setup.run({"tokenize", setup.model, "-p", "A", "--bos", "on"}).out == "36,29\n");
    CHECK(setup.run({"tokenize", setup.model, "-p", "A", "--option", "adds_bos=1"}).out == "36,29\n");
    CHECK(setup.run({"detokenize", setup.model, "--ids", "0,1,36"}).out == "ab\n");
    CHECK(setup.run({"detokenize", setup.model, "--ids", "[0, 36]", "--special", "on"}).out == "a<bos>\n");
    CHECK(setup.run({"detokenize", setup.model, "--lines", "--ids", "0,1\n2"}).out == "ab\nc\n");
    CHECK(setup.run({"detokenize", setup.model, "--lines", "--json"}, "0,1\n2\n").out ==
          "{\"text\":\"ab\"}\n{\"text\":\"c\"}\n");
    CHECK(setup.run({"detokenize", setup.model, "--ids", "35,0", "--json"}).json().at("text") ==
          "\xef\xbf\xbd"
          "a");
    const Result bad = setup.run({"detokenize", setup.model, "--lines"}, "0\nx\n");
    CHECK(bad.exit_code == 1);
    CHECK(contains(bad.err, "line 2: 'x' is not a token id"));
}

TEST_CASE("perplexity and KL agree with the naive formulas") {
    const Setup setup;
    std::string text;
    for (int i = 0; i < 500; ++i) text += static_cast<char>('0' + (i * i) % 47);
    const std::string file = setup.dir.path() / "text", dump = setup.dir.path() / "dump.npy";
    std::ofstream(file) << text;
    const size_t ctx = 16;
    const std::vector<int32_t> ids = test::fake_tokens(text);

    for (const bool bos : {false, true}) {
        CAPTURE(bos);
        std::vector<double> nll, kl;
        double base_nll = 0;
        size_t rows = 0, same = 0;
        std::vector<float> all_logprobs;
        const size_t taken = bos ? ctx - 1 : ctx;
        for (size_t at = 0; at + taken <= ids.size(); at += taken, ++rows) {
            std::vector<int32_t> row(ids.begin() + static_cast<std::ptrdiff_t>(at),
                                     ids.begin() + static_cast<std::ptrdiff_t>(at + taken));
            if (bos) row.insert(row.begin(), test::kFakeBos);
            for (size_t i = 0; i + 1 < row.size(); ++i) {
                std::vector<double> q, p;
                for (auto* out : {&q, &p}) {
                    double sum = 0;
                    const std::vector<float> logits = test::fake_logits(row[i], i, out == &q ? 5 : 6);
                    for (const float logit : logits) sum += std::exp(double{logit});
                    for (const float logit : logits) out->push_back(std::exp(double{logit}) / sum);
                }
                const auto next = static_cast<size_t>(row[i + 1]);
                nll.push_back(-std::log(q[next]));
                base_nll -= std::log(p[next]);
                kl.push_back(0);
                for (size_t v = 0; v < q.size(); ++v) kl.back() += p[v] * std::log(p[v] / q[v]);
                same += std::max_element(p.begin(), p.end()) - p.begin() ==
                        std::max_element(q.begin(), q.end()) - q.begin();
                for (const double value : q) all_logprobs.push_back(static_cast<float>(std::log(value)));
            }
        }
        const double n = static_cast<double>(nll.size());
        double mean = 0, squares = 0, kl_mean = 0;
        for (const double value : nll) mean += value / n;
        for (const double value : nll) squares += (value - mean) * (value - mean);
        for (const double value : kl) kl_mean += value / n;
        std::sort(kl.begin(), kl.end());

        const Words arguments = {"perplexity", setup.model,        "-f", file, "--ctx", "16", "--json",
                                 "--bos",      bos ? "on" : "auto"};
        const Json plain = setup.run(arguments).json();
        Words with_base = arguments;
        with_base.insert(with_base.end(), {"--kl-base", setup.base, "--dump-logprobs", dump});
        const Json compared = setup.run(with_base).json();
        CHECK(keys(plain) == Words{"nll", "nll_se", "perplexity", "predictions", "rows", "text_tokens"});
        for (const Json& out : {plain, compared}) {
            CHECK(out.at("nll").get<double>() == doctest::Approx(mean).epsilon(1e-6));  // score's results are float32
            CHECK(out.at("perplexity").get<double>() == doctest::Approx(std::exp(mean)).epsilon(1e-6));
            CHECK(out.at("nll_se").get<double>() == doctest::Approx(std::sqrt(squares / (n - 1) / n)).epsilon(1e-6));
            CHECK(out.at("predictions") == nll.size());
            CHECK(out.at("rows") == rows);
            CHECK(out.at("text_tokens") == ids.size());
        }
        CHECK(compared.at("kl").get<double>() == doctest::Approx(kl_mean).epsilon(1e-9));
        const double rank = 0.99 * (n - 1), low = kl[static_cast<size_t>(rank)],
                     high = kl[static_cast<size_t>(rank) + 1];
        CHECK(compared.at("kl_p99").get<double>() ==
              doctest::Approx(low + (rank - std::floor(rank)) * (high - low)).epsilon(1e-9));
        CHECK(compared.at("top1").get<double>() == doctest::Approx(static_cast<double>(same) / n));
        CHECK(compared.at("base_perplexity").get<double>() == doctest::Approx(std::exp(base_nll / n)).epsilon(1e-9));

        std::ifstream npy(dump, std::ios::binary);
        const std::string bytes{std::istreambuf_iterator<char>(npy), {}};
        const size_t size = all_logprobs.size() * sizeof(float);
        REQUIRE(bytes.size() > size);
        std::vector<float> dumped(all_logprobs.size(), NAN);
        std::memcpy(dumped.data(), bytes.data() + bytes.size() - size, size);
        double worst = 0;
        for (size_t i = 0; i < dumped.size(); ++i)
            worst = std::max(worst, std::abs(double{dumped[i]} - double{all_logprobs[i]}));
        CHECK(worst < 1e-5);
    }
    const Json itself =
        setup.run({"perplexity", setup.model, "-f", file, "--ctx", "16", "--kl-base", setup.model, "--json"}).json();
    CHECK(itself.at("kl") == 0.0);
    CHECK(itself.at("top1") == 1.0);
    CHECK(itself.at("base_perplexity") == itself.at("perplexity"));
    CHECK(contains(setup.run({"perplexity", setup.model, "-f", file}).err,
                   "the text has 500 tokens, less than one row of --ctx 512"));
}

TEST_CASE("tools and the quantiser get their arguments, and their last event is the result") {
    const Setup setup;
    const Json plain =
        setup.run({"dequantize", setup.model, "out", "--dtype", "f32", "--option", "x=[1]", "--json"}).json();
    CHECK(plain.at("tensors") == 3);
    CHECK(plain.at("bytes") == 12);
    CHECK(!plain.contains("event"));
    CHECK(plain.at("arguments") == Json{{"in", setup.model}, {"out", "out"}, {"dtype", "f32"}, {"x", Json{1}}});
    const Json gguf = setup.run({"import-gguf", "a.gguf", "out", "--json"}).json();
    CHECK(gguf.at("tool") == "import-gguf");
    CHECK(gguf.at("arguments") == Json{{"in", "a.gguf"}, {"out", "out"}, {"dtype", "f16"}});
    check_has_keys(gguf, {"tensors", "bytes", "architecture", "tokenizer"});
    CHECK(setup.run({"dequantize", setup.model, "out"}).out == "wrote out: 3 tensors, 12 bytes\n");

    const Result fault = setup.run({"import-gguf", "fault.gguf", "out"});
    CHECK(fault.exit_code == 1);
    CHECK(contains(fault.err, "sent an event that is no JSON object"));

    const Result lines = setup.run({"quantize", "-i", setup.model, "-cf", "o", "--to", "exl2", "--method", "rtn", "-b",
                                    "4", "-hb", "6", "--group-size", "32", "--json"});
    std::vector<Json> events;
    for (size_t at = 0; at < lines.out.size();) {
        const size_t end = lines.out.find('\n', at);
        events.push_back(Json::parse(lines.out.substr(at, end - at)));
        at = end + 1;
    }
    REQUIRE(events.size() == 2);
    CHECK(events[0].at("event") == "layer");
    CHECK(events[1].at("event") == "done");
    check_has_keys(events[1], {"bits_per_weight", "seconds"});
    CHECK(
        events[1].at("arguments") ==
        Json{{"in", setup.model}, {"out", "o"}, {"method", "rtn"}, {"bits", 4}, {"head_bits", 6}, {"group_size", 32}});
    CHECK(events[1].at("arguments").at("bits").is_number_integer());
    CHECK(contains(setup.run({"quantize", "-i", setup.model, "-cf", "o", "--to", "gptq", "--method", "rtn"}).err,
                   "no plugin makes gptq folders; those that are there make exl2"));
}

TEST_CASE("refusals say what and what to do") {
    const Setup setup;
    const fs::path gguf = setup.dir.path() / "m.gguf", other = setup.dir.path() / "other.bin",
                   empty = setup.dir.path() / "empty";
    std::ofstream(gguf) << "GGUF and more";
    std::ofstream(other) << "x";
    fs::create_directory(empty);
    const auto refused = [&](const Words& arguments, const std::map<std::string, std::string>& environment = {}) {
        const Result result = setup.run(arguments, "", environment);
        CHECK(result.exit_code == 1);
        CHECK(result.out == "");
        CHECK(result.err.rfind("error: ", 0) == 0);
        CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
        return result.err;
    };
    CHECK(contains(refused({"generate", "/nowhere", "-p", "x"}), "there is no folder /nowhere"));
    CHECK(contains(refused({"generate", gguf, "-p", "x"}),
                   "is a GGUF file; turn it into a model folder first: quantplug import-gguf"));
    CHECK(contains(refused({"generate", other, "-p", "x"}), "is a file; give the folder that holds it"));
    CHECK(contains(refused({"generate", empty, "-p", "x"}), "(fake: it has no salt.txt)"));
    CHECK(contains(refused({"generate", setup.model, "-p", "x", "--backend", "exl3"}),
                   "there is no such plugin; known are fake"));
    CHECK(contains(refused({"generate", setup.model, "-p", "x", "--backend", other}), "other.bin is a text file"));
    CHECK(contains(refused({"generate", setup.model, "-p", "x", "--backend", empty}), "is a folder; name a library"));
    CHECK(contains(refused({"generate", setup.model, "-p", "x", "--option", "nope=1"}), "'nope'"));
    CHECK(contains(refused({"generate", setup.model, "-p", ""}), "the prompt has no tokens"));
    CHECK(contains(refused({"generate", setup.model, "-f", "/nowhere"}), "/nowhere cannot be opened"));
    CHECK(contains(refused({"generate", setup.model, "-p", "x"}, {{"QUANTPLUG_PLUGIN_PATH", ""}}),
                   "no plugin was found in "));
    CHECK(contains(refused({"generate", setup.model, "-p", "x"}, {{"QUANTPLUG_PLUGIN_PATH", kBuilt / "variants"}}),
                   "no plugin can be used: "));

    const Result json = setup.run({"info", "/no\xffwhere", "--json"});
    CHECK(json.exit_code == 1);
    CHECK(json.json().at("error").at("code") == "NOT_FOUND");
    CHECK(contains(json.json().at("error").at("message").get<std::string>(), "\xef\xbf\xbd"));
    const Result usage = setup.run({"info", setup.model, "--nope", "--json"});
    CHECK(usage.exit_code == 2);
    CHECK(usage.json().at("error").at("code") == "INVALID_ARGUMENT");
    CHECK(setup.run({"generate", setup.model, "-p", "x", "-n", "1", "--logprobs", "1"}).exit_code == 2);
    CHECK(setup.run({"generate", setup.model, "-p", "x", "--ids", "1"}).exit_code == 2);
}

TEST_CASE("Ctrl-C once stops cleanly after the partial result, twice at once") {
    const Setup setup;
    {
        Process process(setup.dir.path(), {"generate", setup.model, "-p", "x"});
        while (process.read_some().size() < 3) {
        }
        process.signal(SIGINT);
        const Result result = process.wait();
        CHECK(result.exit_code == 130);
        CHECK(result.out.rfind("abc", 0) == 0);
        CHECK(result.out.back() == '\n');
        CHECK(contains(result.err, "cancelled"));
    }
    {
        Process process(setup.dir.path(), {"generate", setup.model, "-p", "x", "--json"});
        std::this_thread::sleep_for(std::chrono::milliseconds(500));
        process.signal(SIGINT);
        const Result result = process.wait();
        CHECK(result.exit_code == 130);
        CHECK(result.json().at("finish_reason") == "cancelled");
        CHECK(result.json().at("ids").size() > 0);
    }
}

TEST_CASE("Ctrl-C within a row of perplexity: complete rows alone count") {
    const Setup setup;
    const std::string file = setup.dir.path() / "text";
    std::ofstream(file) << std::string(5000, 'a');
    // A row takes at least 15 x 2 x 4 ms.
    Process process(setup.dir.path(), {"perplexity", setup.model, "-f", file, "--ctx", "16", "--kl-base", setup.model,
                                       "--option", "delay_ms=4", "--json"});
    std::this_thread::sleep_for(std::chrono::milliseconds(1000));
    process.signal(SIGINT);
    const Result result = process.wait();
    CHECK(result.exit_code == 130);
    const Json out = result.json();
    CHECK(out.at("rows").get<size_t>() > 0);
    CHECK(out.at("predictions").get<size_t>() == 15 * out.at("rows").get<size_t>());
    CHECK(out.at("top1") == 1.0);
    CHECK(out.at("kl") == 0.0);
}

TEST_CASE("a reader that leaves ends the program without a word") {
    const Setup setup;
    Process process(setup.dir.path(), {"generate", setup.model, "-p", "x"});
    process.read_some();
    process.close_output();
    const Result result = process.wait();
    CHECK(result.exit_code == 1);
    CHECK(result.err == "");
}

}  // namespace quantplug::host
