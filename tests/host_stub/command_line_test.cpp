#include "host_stub/cli/command_line.h"

#include <doctest/doctest.h>

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
    const CommandLine line =
        parse({"generate",  "dir",       "-p",         "",         "-n",     "7",
               "--temp",    "0",         "--top-k",    "40",       "--seed", "18446744073709551615",
               "--stop",    "a",         "--stop",     "b,c",      "--bos",  "off",
               "--special", "on",        "--logprobs", "3",        "--json", "--ctx",
               "512",       "--threads", "64",         "--device", "cuda:1", "--compute",
               "exact",     "--option",  "a=b",        "--option", "c=d=e",  "--ignore-eos",
               "-v",        "-v"});
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
    const Options expected = {{"device", "cuda:1"}, {"compute", "exact"}, {"threads", "64"},
                              {"ctx", "512"},       {"a", "b"},           {"c", "d=e"}};
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
        {{"chat"}, "there is no command 'chat'"},
        {{"serve", "x"}, "there is no command 'serve'"},
        {{"generate", "x", "--typical", "0.5"}, "--typical is not a flag of quantplug generate"},
        {{"generate", "x", "--batch", "2"}, "--batch"},
        {{"generate", "x", "--repeat-penalty", "1.1"}, "--repeat-penalty"},
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
        {{"generate", "x", "--device", "gpu"}, "'gpu' is not auto, cpu, cuda or cuda:N"},
        {{"generate", "x", "--device", "cuda:"}, "cuda:N"},
        {{"generate", "x", "--device", "cuda:x"}, "cuda:N"},
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
    for (const char* name : {"plugins", "info", "generate", "tokenize", "detokenize", "perplexity", "dequantize",
                             "import-gguf", "quantize"}) {
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
    qp_sampling s = resolve_sampling(flags, model, 77);
    CHECK(s.set == (QP_SET_TEMPERATURE | QP_SET_TOP_P | QP_SET_MIN_P | QP_SET_SEED));
    CHECK(s.temperature == 0.8);
    CHECK(s.top_p == 0.95);
    CHECK(s.min_p == 0.05);
    CHECK(s.seed == 77);

    model.set = QP_SET_TEMPERATURE | QP_SET_TOP_K;
    model.temperature = 0.2;
    model.top_k = 20;
    model.min_p = 0.9;  // not set: not read
    flags.top_p = 0.5;
    flags.seed = 5;
    s = resolve_sampling(flags, model, 77);
    CHECK(s.temperature == 0.2);
    CHECK(s.top_k == 20);
    CHECK(s.top_p == 0.5);
    CHECK(s.min_p == 0.05);
    CHECK(s.seed == 5);
    CHECK((s.set & QP_SET_TOP_K) != 0);

    flags.temperature = 0;
    flags.top_k = 0;
    s = resolve_sampling(flags, model, 77);
    CHECK(s.temperature == 0);
    CHECK((s.set & QP_SET_TOP_K) == 0);
    CHECK(sampling_names(QP_SET_TOP_K | QP_SET_SEED) == "--top-k, --seed");
    CHECK(given_sampling(flags) == (QP_SET_TEMPERATURE | QP_SET_TOP_K | QP_SET_TOP_P | QP_SET_SEED));
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
