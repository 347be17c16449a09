#include "host_stub/cli/command_line.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "host_stub/cli/failure.h"
#include "host_stub/cli/sampling.h"
#include "host_stub/cli/session.h"
#include "host_stub/cli/spelling.h"
#include "host_stub/cli/text_input.h"

namespace quantplug::host {
namespace {

using Words = std::vector<std::string>;

CommandLine parse(const Words& words) {
    CommandLine line;
    parse_command_line(words, line);
    return line;
}

std::string usage_error(const Words& words) {
    try {
        parse(words);
    } catch (const UsageError& error) {
        return error.what();
    }
    return "";
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("ExLlamaV2's spellings become long forms") {
    CHECK(expand_spellings({"quantize", "-cf", "out", "-hb", "6", "-i", "in", "-nr"}) ==
          Words{"quantize", "--compile-full", "out", "--head-bits", "6", "-i", "in", "--no-resume"});
    CHECK(expand_spellings({"chat", "-mode", "llama"}) == Words{"chat", "--mode", "llama"});
    CHECK(expand_spellings({"-om", "-mr", "-ml", "-ss", "-rs", "-ra"}) ==
          Words{"--output-measurement", "--measurement-rows", "--measurement-length", "--shard-size", "--rope-scale",
                "--rope-alpha"});
    CHECK(expand_spellings({"generate", "-p", "-hb", "--stop", "-cf"}) ==
          Words{"generate", "-p", "-hb", "--stop", "-cf"});
    CHECK(expand_spellings({"generate", "--", "-cf"}) == Words{"generate", "--", "-cf"});
    CHECK(expand_spellings({"-model", "-c", "cf"}) == Words{"-model", "-c", "cf"});
}

TEST_CASE("generate takes its flags") {
    const CommandLine line = parse({"generate",
                                    "dir",
                                    "-p",
                                    "",
                                    "-n",
                                    "7",
                                    "--temp",
                                    "0",
                                    "--top-k",
                                    "40",
                                    "--seed",
                                    "18446744073709551615",
                                    "--stop",
                                    "a",
                                    "--stop",
                                    "b,c",
                                    "--bos",
                                    "off",
                                    "--special",
                                    "on",
                                    "--logprobs",
                                    "3",
                                    "--json",
                                    "--ctx",
                                    "512",
                                    "--threads",
                                    "64",
                                    "--device",
                                    "cuda:1",
                                    "--compute",
                                    "exact",
                                    "--option",
                                    "a=b",
                                    "--option",
                                    "c=d=e",
                                    "--ignore-eos",
                                    "-v",
                                    "-v",
                                    "--gpu-layers",
                                    "-1",
                                    "--deterministic"});
    CHECK(line.command == "generate");
    const GenerateArguments& g = line.generate;
    CHECK(g.model == "dir");
    CHECK(g.input.has_text);  // an empty prompt is a prompt
    CHECK(!g.input.has_ids);
    CHECK(g.n_tokens == 7);
    CHECK(g.sampling.temperature == 0.0);
    CHECK(g.sampling.top_k == 40);
    CHECK(!g.sampling.top_p);
    CHECK(g.sampling.seed == UINT64_MAX);
    CHECK(g.sampling.stop == Words{"a", "b,c"});
    CHECK(g.bos == Bos::kOff);
    CHECK(g.special);
    CHECK(g.n_top == 3);
    CHECK(g.ignore_eos);
    CHECK(g.json);
    CHECK(g.verbosity() == 2);
    const Options options = load_options(g);
    const Options expected = {{"device", "cuda:1"}, {"compute", "exact"},   {"threads", "64"}, {"ctx", "512"},
                              {"gpu_layers", "-1"}, {"deterministic", "1"}, {"a", "b"},        {"c", "d=e"}};
    CHECK(options == expected);
}

TEST_CASE("the model is a flag or the first positional argument") {
    CHECK(parse({"info", "-m", "x"}).info.model == "x");
    CHECK(parse({"info", "--model", "x"}).info.model == "x");
    CHECK(parse({"info", "x"}).info.model == "x");
    CHECK(parse({"info", "--json", "x"}).info.model == "x");
    CHECK(parse({"dequantize", "x", "y"}).dequantize.out == "y");
    CHECK(parse({"generate", "-p", "-hb", "x"}).generate.input.text == "-hb");
}

TEST_CASE("the largest threads and context are passed on") {
    const Options options = load_options(parse({"info", "x", "--threads", "1024", "--ctx", "16777216"}).info);
    CHECK(options == Options{{"threads", "1024"}, {"ctx", "16777216"}});
}

TEST_CASE("what is not given is not passed on") {
    const CommandLine line = parse({"generate", "x", "-p", "a"});
    CHECK(load_options(line.generate).empty());
    CHECK(line.generate.n_tokens == 0);
    CHECK(line.generate.bos == Bos::kAuto);
}

TEST_CASE("quantize takes the converter's flags") {
    const QuantizeArguments q = parse({"quantize", "-i", "in", "-o", "work", "-cf", "out", "--to", "gptq", "--method",
                                       "rtn", "-b", "4.25", "-hb", "6", "--group-size", "-1"})
                                    .quantize;
    CHECK(q.in == "in");
    CHECK(q.work == "work");
    CHECK(q.out == "out");
    CHECK(q.format == "gptq");
    CHECK(q.bits == 4.25);
    CHECK(q.head_bits == 6);
    CHECK(q.group_size == -1);
    CHECK(parse({"quantize", "-i", "i", "-cf", "o", "--to", "exl2", "--method", "rtn", "--bits", "3"}).quantize.bits ==
          3.0);
}

TEST_CASE("wrong usage is one sentence that names the flag") {
    const std::vector<std::pair<Words, const char*>> cases = {
        {{}, "subcommand"},
        {{"chat"}, "required"},
        {{"serve", "x"}, "there is no command 'serve'"},
        {{"generate", "x", "--grammar", "g"}, "--grammar is not a flag of quantplug generate"},
        {{"generate", "x", "--batch", "0"}, "--batch"},
        {{"generate", "x", "--typical", "1.5"}, "--typical"},
        {{"generate", "x", "--repeat-penalty", "0"}, "--repeat-penalty"},
        {{"generate", "x", "--repeat-last-n", "-2"}, "--repeat-last-n"},
        {{"generate", "x", "--mirostat", "1"}, "--mirostat"},
        {{"generate", "x", "--xtc-threshold", "0.1"}, "--xtc-probability"},
        {{"generate", "x", "--dry-base", "2"}, "--dry-multiplier"},
        {{"generate", "x", "--dynatemp-low", "1"}, "--dynatemp-high"},
        {{"generate", "x", "--smoothing-curve", "2"}, "--smoothing-factor"},
        {{"generate", "x", "--temperature-last", "--sampler-order", "top_k"}, "--sampler-order"},
        {{"chat", "x", "--ids", "1"}, "--ids is not a flag of quantplug chat"},
        {{"generate", "x", "-mode", "raw"}, "--mode is not a flag"},
        {{"generate"}, "required"},
        {{"generate", "x", "--temp", "-1"}, "--temp"},
        {{"generate", "x", "--temp", "warm"}, "--temp"},
        {{"generate", "x", "--top-p", "1.5"}, "--top-p"},
        {{"generate", "x", "-n", "0"}, "-n"},
        {{"generate", "x", "-n", "99999999999"}, "-n"},
        {{"generate", "x", "--ctx", "-5"}, "--ctx"},
        {{"generate", "x", "--ctx", "16777217"}, "--ctx"},
        {{"generate", "x", "--threads", "0"}, "--threads"},
        {{"generate", "x", "--threads", "1025"}, "--threads"},
        {{"generate", "x", "--device", "gpu"}, "'gpu' is not auto, cpu, cuda, cuda:N, or a list"},
        {{"generate", "x", "--device", "cuda:"}, "cuda:N"},
        {{"generate", "x", "--device", "cuda:x"}, "cuda:N"},
        {{"generate", "x", "--device", "cuda:0,"}, "cuda:N"},
        {{"generate", "x", "--device", "auto,cpu"}, "cuda:N"},
        {{"generate", "x", "--gpu-layers", "-2"}, "--gpu-layers"},
        {{"generate", "x", "--gpu-layers", "all"}, "--gpu-layers"},
        {{"generate", "x", "--compute", "quick"}, "--compute"},
        {{"generate", "x", "--compute", "fast"}, "--compute"},
        {{"perplexity", "x", "--kl-base", "y", "--kl-base-compute", "fast"}, "--kl-base-compute"},
        {{"generate", "x", "--bos", "maybe"}, "--bos"},
        {{"generate", "x", "--special", "1"}, "--special"},
        {{"info", "x", "y"}, "'y' is one argument too many"},
        {{"info", "x", "-m", "y"}, "--model"},
        {{"perplexity", "x", "--kl-base-compute", "exact"}, "--kl-base"},
        {{"dequantize", "x"}, "OUT"},
        {{"dequantize", "x", "y", "--dtype", "q4"}, "--dtype"},
        {{"quantize", "-i", "a", "-cf", "b", "--to", "awq", "--method", "rtn"}, "--to"},
        {{"quantize", "-i", "a", "-cf", "b", "--to", "exl2", "--method", "gptq"}, "--method"},
        {{"quantize", "-i", "a", "-cf", "b", "--to", "exl2", "--method", "rtn", "-m", "f"}, "-m is not a flag"},
        {{"quantize", "-i", "a", "-cf", "b", "--to", "exl2", "--method", "rtn", "-om", "f"},
         "--output-measurement is not a flag"},
    };
    for (const auto& [words, part] : cases) {
        const std::string error = usage_error(words), expected = part;
        CAPTURE(error);
        CAPTURE(expected);
        CHECK(contains(error, part));
        CHECK(!contains(error, "\n"));
    }
}

TEST_CASE("each command has help with a worked example") {
    for (const char* name : {"plugins", "info", "generate", "chat", "tokenize", "detokenize", "perplexity",
                             "dequantize", "import-gguf", "quantize"}) {
        CAPTURE(name);
        const CommandLine line = parse({name, "--help"});
        CHECK(line.command.empty());
        CHECK(contains(line.text, (std::string("  quantplug ") + name + " ").c_str()) !=
              contains(line.text, "  quantplug plugins\n"));
        CHECK(contains(line.text, "Example: "));
    }
    CHECK(contains(parse({"--help"}).text, "perplexity"));
    CHECK(parse({"--version"}).text.rfind("quantplug ", 0) == 0);
}

TEST_CASE("token ids are read in three spellings") {
    const std::vector<int32_t> ids = {1, 22, 333};
    CHECK(parse_ids("1,22,333") == ids);
    CHECK(parse_ids(" 1 22\t333\n") == ids);
    CHECK(parse_ids("[1, 22, 333]") == ids);
    CHECK(parse_ids("").empty());
    CHECK(parse_ids("[]").empty());
    for (const char* bad : {"1,,2", ",1", "1,", "a", "1a", "-1", "1.5", "2147483648", "[1", "1]", "1;2"}) {
        CAPTURE(bad);
        CHECK_THROWS_AS(parse_ids(bad), UsageError);
    }
}

TEST_CASE("load options are given once, as KEY=VALUE") {
    ModelArguments arguments;
    for (const char* bad : {"novalue", "=x", ""}) {
        arguments.options = {bad};
        CHECK_THROWS_AS(load_options(arguments), UsageError);
    }
    arguments.options = {"key="};
    CHECK(load_options(arguments) == Options{{"key", ""}});
    arguments.options = {"a=1", "a=2"};
    CHECK_THROWS_AS(load_options(arguments), UsageError);
    arguments.ctx = 5;
    arguments.options = {"ctx=6"};
    CHECK_THROWS_AS(load_options(arguments), UsageError);
}

TEST_CASE("sampling is resolved key by key: flag, the model's own, the program's") {
    auto model = make<qp_sampling>();
    SamplingArguments flags;
    const auto resolve = [&] {
        GenerateRequest request;
        resolve_sampling(flags, model, 77, request);
        return request;
    };
    qp_sampling s = resolve().sampling;
    CHECK(s.set == (QP_SET_TEMPERATURE | QP_SET_TOP_P | QP_SET_MIN_P | QP_SET_SEED));
    CHECK(s.temperature == 0.8);
    CHECK(s.top_p == 0.95);
    CHECK(s.min_p == 0.05);
    CHECK(s.seed == 77);

    model.set = QP_SET_TEMPERATURE | QP_SET_TOP_K | QP_SET_REPETITION_PENALTY;
    model.temperature = 0.2;
    model.top_k = 20;
    model.repetition_penalty = 1.05;
    model.min_p = 0.9;  // not set: not read
    flags.top_p = 0.5;
    flags.seed = 5;
    s = resolve().sampling;
    CHECK(s.temperature == 0.2);
    CHECK(s.top_k == 20);
    CHECK(s.top_p == 0.5);
    CHECK(s.min_p == 0.05);
    CHECK(s.repetition_penalty == 1.05);
    CHECK(s.seed == 5);
    CHECK((s.set & QP_SET_TOP_K) != 0);

    flags.temperature = 0;
    flags.top_k = 0;
    flags.repetition_penalty = 1;
    s = resolve().sampling;
    CHECK(s.temperature == 0);
    CHECK((s.set & (QP_SET_TOP_K | QP_SET_REPETITION_PENALTY)) == 0);
    CHECK(sampling_names(QP_SET_TOP_K | QP_SET_SEED) == "--top-k, --seed");
    CHECK(given_sampling(flags) ==
          (QP_SET_TEMPERATURE | QP_SET_TOP_K | QP_SET_TOP_P | QP_SET_REPETITION_PENALTY | QP_SET_SEED));
}

TEST_CASE("every sampling flag reaches its field") {
    const auto request_of = [](Words words) {
        words.insert(words.begin(), {"generate", "x", "-p", "a"});
        const SamplingArguments given = parse(words).generate.sampling;
        GenerateRequest request;
        resolve_sampling(given, make<qp_sampling>(), 1, request);
        return std::pair{request, given_sampling(given)};
    };
    const uint64_t always = QP_SET_TEMPERATURE | QP_SET_TOP_P | QP_SET_MIN_P | QP_SET_SEED;
    struct Case {
        Words words;
        uint64_t bit;
        std::vector<std::pair<double qp_sampling::*, double>> values;
    };
    const std::vector<Case> cases = {
        {{"--temp", "0.5"}, QP_SET_TEMPERATURE, {{&qp_sampling::temperature, 0.5}}},
        {{"--temperature", "0.5"}, QP_SET_TEMPERATURE, {{&qp_sampling::temperature, 0.5}}},
        {{"--top-p", "0.5"}, QP_SET_TOP_P, {{&qp_sampling::top_p, 0.5}}},
        {{"--min-p", "0.5"}, QP_SET_MIN_P, {{&qp_sampling::min_p, 0.5}}},
        {{"--typical", "0.5"}, QP_SET_TYPICAL_P, {{&qp_sampling::typical_p, 0.5}}},
        {{"--typical-p", "0.5"}, QP_SET_TYPICAL_P, {{&qp_sampling::typical_p, 0.5}}},
        {{"--top-a", "0.5"}, QP_SET_TOP_A, {{&qp_sampling::top_a, 0.5}}},
        {{"--tfs", "0.5"}, QP_SET_TFS, {{&qp_sampling::tfs, 0.5}}},
        {{"--top-n-sigma", "1.5"}, QP_SET_TOP_N_SIGMA, {{&qp_sampling::top_n_sigma, 1.5}}},
        {{"--repeat-penalty", "1.5"}, QP_SET_REPETITION_PENALTY, {{&qp_sampling::repetition_penalty, 1.5}}},
        {{"--repetition-penalty", "1.5"}, QP_SET_REPETITION_PENALTY, {{&qp_sampling::repetition_penalty, 1.5}}},
        {{"--frequency-penalty", "-0.5"}, QP_SET_FREQUENCY_PENALTY, {{&qp_sampling::frequency_penalty, -0.5}}},
        {{"--presence-penalty", "0.5"}, QP_SET_PRESENCE_PENALTY, {{&qp_sampling::presence_penalty, 0.5}}},
        {{"--mirostat", "2"}, QP_SET_MIROSTAT, {{&qp_sampling::mirostat_tau, 5}, {&qp_sampling::mirostat_eta, 0.1}}},
        {{"--mirostat-tau", "3", "--mirostat-eta", "0.2"},
         QP_SET_MIROSTAT,
         {{&qp_sampling::mirostat_tau, 3}, {&qp_sampling::mirostat_eta, 0.2}}},
        {{"--xtc-probability", "0.5"},
         QP_SET_XTC,
         {{&qp_sampling::xtc_probability, 0.5}, {&qp_sampling::xtc_threshold, 0.1}}},
        {{"--xtc-probability", "0.5", "--xtc-threshold", "0.2"}, QP_SET_XTC, {{&qp_sampling::xtc_threshold, 0.2}}},
        {{"--dry-multiplier", "0.8"},
         QP_SET_DRY,
         {{&qp_sampling::dry_multiplier, 0.8}, {&qp_sampling::dry_base, 1.75}}},
        {{"--dry-multiplier", "0.8", "--dry-base", "2"}, QP_SET_DRY, {{&qp_sampling::dry_base, 2}}},
        {{"--dynatemp-low", "0.5", "--dynatemp-high", "1.5"},
         QP_SET_DYNATEMP,
         {{&qp_sampling::dynatemp_low, 0.5}, {&qp_sampling::dynatemp_high, 1.5}, {&qp_sampling::dynatemp_exponent, 1}}},
        {{"--min-temp", "0.5", "--max-temp", "1.5", "--dynatemp-exponent", "2"},
         QP_SET_DYNATEMP,
         {{&qp_sampling::dynatemp_exponent, 2}}},
        {{"--smoothing-factor", "0.3"},
         QP_SET_SMOOTHING,
         {{&qp_sampling::smoothing_factor, 0.3}, {&qp_sampling::smoothing_curve, 1}}},
        {{"--smoothing-factor", "0.3", "--smoothing-curve", "2"},
         QP_SET_SMOOTHING,
         {{&qp_sampling::smoothing_curve, 2}}},
    };
    for (const Case& c : cases) {
        CAPTURE(c.words.front());
        const auto [request, given] = request_of(c.words);
        CHECK(request.sampling.set == (always | c.bit));
        CHECK(given == c.bit);
        for (const auto& [field, value] : c.values) CHECK(request.sampling.*field == value);
    }
    auto [request, given] =
        request_of({"--top-k", "7", "--repeat-last-n", "64", "--min-tokens", "3", "--dry-multiplier", "1",
                    "--dry-allowed-length", "4", "--dry-penalty-last-n", "99"});
    CHECK(request.sampling.top_k == 7);
    CHECK(request.sampling.penalty_range == 64);
    CHECK(request.sampling.min_tokens == 3);
    CHECK(request.sampling.dry_allowed_length == 4);
    CHECK(request.sampling.dry_range == 99);
    CHECK(request.dry_breakers == Words{"\n", ":", "\"", "*"});
    CHECK(given == (QP_SET_TOP_K | QP_SET_PENALTY_RANGE | QP_SET_MIN_TOKENS | QP_SET_DRY));

    request = request_of({"--logit-bias", "5=-1.5", "--logit-bias", "6=+2", "--logit-bias", "7=-inf", "--ban-tokens",
                          "8,9", "--dry-multiplier", "1", "--dry-sequence-breakers", "-hb", "--dry-sequence-breakers",
                          ";", "--sampler-order", "top-k, min_p"})
                  .first;
    REQUIRE(request.bias.size() == 3);
    CHECK(request.bias[0].id == 5);
    CHECK(request.bias[0].bias == -1.5f);
    CHECK(request.bias[1].bias == 2.0f);
    CHECK(request.bias[2].bias == -std::numeric_limits<float>::infinity());
    CHECK(request.banned == std::vector<int32_t>{8, 9});
    CHECK(request.dry_breakers == Words{"-hb", ";"});
    CHECK(request.sampler_order == "top_k,min_p");
    CHECK((request.sampling.set & (QP_SET_LOGIT_BIAS | QP_SET_BANNED | QP_SET_ORDER | QP_SET_DRY)) ==
          (QP_SET_LOGIT_BIAS | QP_SET_BANNED | QP_SET_ORDER | QP_SET_DRY));
    // What is named first is everything but the temperature's own three, which follow.
    const std::string last = request_of({"--temperature-last"}).first.sampler_order;
    CHECK(std::count(last.begin(), last.end(), ',') == 11);
    CHECK(!contains(last, "temp"));
    CHECK(!contains(last, "smoothing"));

    for (const Words& off : std::vector<Words>{{"--typical", "1"},
                                               {"--tfs", "1"},
                                               {"--top-a", "0"},
                                               {"--top-k", "0"},
                                               {"--top-n-sigma", "0"},
                                               {"--repeat-penalty", "1"},
                                               {"--frequency-penalty", "0"},
                                               {"--presence-penalty", "0"},
                                               {"--mirostat", "0"},
                                               {"--mirostat", "0", "--mirostat-tau", "4"},
                                               {"--xtc-probability", "0"},
                                               {"--dry-multiplier", "0"},
                                               {"--smoothing-factor", "0"},
                                               {"--min-tokens", "0"}}) {
        CAPTURE(off.front());
        CHECK(request_of(off).first.sampling.set == always);
    }
    for (const char* bad : {"", "5", "=1", "-1=1", "x=1", "5=", "5=x", "5=1x", "5 =1", "99999999999=1", "5=+"}) {
        CAPTURE(bad);
        CHECK_THROWS_AS(request_of({"--logit-bias", bad}), UsageError);
    }
    CHECK_THROWS_AS(request_of({"--ban-tokens", "1,x"}), UsageError);
}

TEST_CASE("chat takes its flags, ExLlamaV2's too") {
    const ChatArguments c =
        parse({"chat", "dir", "-mode", "chatml", "--system", "-hb", "-p", "", "-n", "9", "--temp", "0", "--json"}).chat;
    CHECK(c.model == "dir");
    CHECK(c.mode == "chatml");
    CHECK(c.system == "-hb");
    CHECK(c.has_system);
    CHECK(c.has_text);
    CHECK(c.n_tokens == 9);
    CHECK(c.json);
    CHECK_FALSE(parse({"chat", "dir"}).chat.has_system);
    CHECK(parse({"chat", "dir", "--system", ""}).chat.has_system);
}

TEST_CASE("lines end in a line feed, which begins no line of its own") {
    using Lines = std::vector<std::string_view>;
    CHECK(split_lines("").empty());
    CHECK(split_lines("a") == Lines{"a"});
    CHECK(split_lines("a\n") == Lines{"a"});
    CHECK(split_lines("a\n\n b\r\n") == Lines{"a", "", " b\r"});
    CHECK(split_lines("\n") == Lines{""});
}

}  // namespace quantplug::host
