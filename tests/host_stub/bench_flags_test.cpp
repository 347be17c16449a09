// The flags of `bench`.
#include <doctest/doctest.h>

#include "host_stub/cli/command_line.h"
#include "host_stub/cli/failure.h"

namespace quantplug::host {
namespace {

CommandLine parse(const std::vector<std::string>& words) {
    CommandLine line;
    parse_command_line(words, line);
    return line;
}

}  // namespace

TEST_CASE("bench takes its flags, and has cli.md's defaults") {
    const BenchArguments defaults = parse({"bench", "dir"}).bench;
    CHECK(defaults.folder == "dir");
    CHECK(defaults.pp == 512);
    CHECK(defaults.tg == 128);
    CHECK(defaults.depth == 0);
    CHECK(defaults.batch == std::vector<int32_t>{1, 2, 4});
    CHECK(defaults.repeat == 5);
    CHECK(!defaults.limits);
    CHECK(!defaults.gpu_layers);
    const BenchArguments all =
        parse({"bench",  "--synthetic", "llama2-7b",  "--bits",       "3",         "--group", "-1",
               "--pp",   "0",           "--tg",       "16",           "--depth",   "4096",    "--batch",
               "1,8,16", "--repeat",    "3",          "--limits",     "--threads", "2",       "--compute",
               "exact",  "--device",    "cpu,cuda:1", "--gpu-layers", "7",         "--json"})
            .bench;
    CHECK(all.folder.empty());
    CHECK(all.synthetic == "llama2-7b");
    CHECK(all.bits == 3);
    CHECK(all.group == -1);
    CHECK(all.pp == 0);
    CHECK(all.tg == 16);
    CHECK(all.depth == 4096);
    CHECK(all.batch == std::vector<int32_t>{1, 8, 16});
    CHECK(all.repeat == 3);
    CHECK(all.limits);
    CHECK(all.threads == 2);
    CHECK(all.compute == "exact");
    CHECK(all.device == "cpu,cuda:1");
    CHECK(all.gpu_layers == 7);
    CHECK(all.json);
}

TEST_CASE("bench refuses what it cannot measure") {
    CHECK_THROWS_AS(parse({"bench", "dir", "--bits", "7"}), UsageError);
    CHECK_THROWS_AS(parse({"bench", "--synthetic", "gpt-5"}), UsageError);
    CHECK_THROWS_AS(parse({"bench", "dir", "--batch", "0"}), UsageError);
    CHECK_THROWS_AS(parse({"bench", "dir", "--pp", "-1"}), UsageError);
    CHECK_THROWS_AS(parse({"bench", "dir", "--repeat", "0"}), UsageError);
    Console console;
    Program program{console, {}};
    CHECK_THROWS_AS(run_bench(BenchArguments(), program), UsageError);
    BenchArguments both;
    both.folder = "dir";
    both.synthetic = "llama2-7b";
    CHECK_THROWS_AS(run_bench(both, program), UsageError);
}

}  // namespace quantplug::host
