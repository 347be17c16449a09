// quantplug chat, in a process of its own: turns, history, a full context, Ctrl-C, and a terminal.
#include <algorithm>
#include <cstdlib>
#include <thread>

#include "tests/host_stub/process.h"

namespace quantplug::host {
namespace {

using namespace test;
using Json = nlohmann::json;

std::vector<Json> documents(const std::string& lines) {
    std::vector<Json> all;
    for (size_t at = 0; at < lines.size();) {
        const size_t end = lines.find('\n', at);
        all.push_back(Json::parse(lines.substr(at, end - at)));
        at = end + 1;
    }
    return all;
}

// The "turn" documents of an output.
std::vector<Json> turns(const std::string& lines) {
    std::vector<Json> all = documents(lines);
    all.erase(std::remove_if(all.begin(), all.end(), [](const Json& d) { return d.at("event") != "turn"; }), all.end());
    return all;
}

// The fake's prompt is the request for render itself: its length says what was in it.
size_t prompt_of(const std::vector<std::pair<std::string, std::string>>& messages, const std::string& mode = "") {
    Json list = Json::array();
    for (const auto& [role, content] : messages) list.push_back({{"role", role}, {"content", content}});
    Json request = {{"messages", list}, {"add_generation_prompt", true}};
    if (!mode.empty()) request["mode"] = mode;
    return request.dump().size();
}

// Both ends of a terminal without echo.
class Terminal {
 public:
    Terminal() : master_(::posix_openpt(O_RDWR | O_NOCTTY)) {
        REQUIRE(master_ >= 0);
        REQUIRE(::grantpt(master_) == 0);
        REQUIRE(::unlockpt(master_) == 0);
        slave_ = ::ptsname(master_);
    }
    ~Terminal() { ::close(master_); }
    Terminal(const Terminal&) = delete;
    Terminal& operator=(const Terminal&) = delete;
    const std::string& path() const { return slave_; }
    void type(const std::string& text) const {
        REQUIRE(::write(master_, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    }

 private:
    int master_;
    std::string slave_;
};

}  // namespace

TEST_CASE("chat -p: one turn, with the keys and the numbers of it") {
    const Setup setup;
    const Result result =
        setup.run({"chat", setup.model, "-p", "Hello", "--system", "Be brief.", "-n", "3", "--seed", "7", "--json"});
    CHECK(result.exit_code == 0);
    const std::vector<Json> all = documents(result.out);
    REQUIRE(all.size() == 4);
    CHECK(all[1] == Json{{"event", "text"}, {"text", "b"}});
    const size_t n = prompt_of({{"system", "Be brief."}, {"user", "Hello"}});
    CHECK(all[3].at("event") == "turn");
    CHECK(all[3].at("content") == "abc");
    CHECK(all[3].at("finish_reason") == "length");
    CHECK(all[3].at("prompt_tokens") == n);
    CHECK(all[3].at("cached_tokens") == n / 2);
    CHECK(all[3].at("completion_tokens") == 3);
    CHECK(all[3].at("seed") == 7);
    const Result text = setup.run({"chat", setup.model, "-p", "Hello", "-n", "3"});
    CHECK(text.out == "abc\n");
    CHECK(contains(text.err, "prompt " + std::to_string(prompt_of({{"user", "Hello"}})) + " tokens, "));
    CHECK(contains(text.err, "; answer 3, after the first 2 tokens"));
    CHECK(contains(text.err, "; length"));
    CHECK(setup.run({"chat", setup.model, "-p", "Hello", "-n", "3", "-q"}).err == "");
}

TEST_CASE("chat of a pipe: each line is a turn, and history goes with it") {
    const Setup setup;
    const Result result = setup.run({"chat", setup.model, "-n", "2", "-mode", "chatml", "--seed", "5", "--json"},
                                    "One\n\nTwo \\\nlines\n/system New.\n/unknown\n/clear\nThree\n/quit\nnever said\n");
    CHECK(result.exit_code == 0);
    const std::vector<Json> all = turns(result.out);
    REQUIRE(all.size() == 4);
    const auto prompt = [](std::vector<std::pair<std::string, std::string>> messages) {
        return prompt_of(messages, "chatml");
    };
    CHECK(all[0].at("prompt_tokens") == prompt({{"user", "One"}}));
    CHECK(all[1].at("prompt_tokens") == prompt({{"user", "One"}, {"assistant", "ab"}, {"user", "Two \nlines"}}));
    CHECK(all[2].at("prompt_tokens") == prompt({{"system", "New."},
                                                {"user", "One"},
                                                {"assistant", "ab"},
                                                {"user", "Two \nlines"},
                                                {"assistant", "ab"},
                                                {"user", "/unknown"}}));
    CHECK(all[3].at("prompt_tokens") == prompt({{"system", "New."}, {"user", "Three"}}));
    CHECK(all[0].at("seed") == 5);
    CHECK(all[3].at("seed") == 8);
    CHECK(setup.run({"chat", setup.model, "-n", "2"}, "One\nTwo").out == "ab\nab\n");
    CHECK(setup.run({"chat", setup.model}, "").exit_code == 0);
}

TEST_CASE("chat: the oldest turns go where the context is full, the system message stays") {
    const Setup setup;
    const std::string word(40, 'w');
    const size_t two = prompt_of({{"system", "S"}, {"user", word}, {"assistant", "abcdefgh"}, {"user", word}});
    const Result result =
        setup.run({"chat", setup.model, "-n", "8", "--system", "S", "--ctx", std::to_string(two + 8), "--json"},
                  word + "\n" + word + "\n" + word + "\n");
    CHECK(result.exit_code == 0);
    const std::vector<Json> all = turns(result.out);
    REQUIRE(all.size() == 3);
    CHECK(all[1].at("prompt_tokens") == two);
    CHECK(all[1].at("forgotten_turns") == 0);
    CHECK(all[2].at("prompt_tokens") == two);
    CHECK(all[2].at("forgotten_turns") == 1);
    CHECK(contains(result.err, "warning: the context is full: the oldest 1 turn is forgotten"));
    const Result long_one = setup.run({"chat", setup.model, "--ctx", "50", "-p", word});
    CHECK(long_one.exit_code == 1);
    CHECK(contains(long_one.err, "the context holds 50"));
}

TEST_CASE("chat: refusals of the template, the mode and the model") {
    const Setup setup;
    const auto error_of = [&](const Words& words, int exit_code) {
        const Result result = setup.run(words);
        CHECK(result.exit_code == exit_code);
        return result.err;
    };
    CHECK(contains(error_of({"chat", setup.model, "-p", "unsayable"}, 1), "error: the template says: not that"));
    CHECK(contains(error_of({"chat", setup.model, "-p", "x", "--mode", "nope"}, 2),
                   "--mode 'nope' is not known; there are raw, chatml"));
    CHECK(contains(error_of({"chat", setup.base, "-p", "x"}, 1),
                   "the model has no chat template; name a format with --mode: raw, chatml"));
    CHECK(error_of({"chat", setup.base, "-p", "x", "-n", "1", "--mode", "raw", "-q"}, 0) == "");
    CHECK(contains(error_of({"chat", setup.model, "-p", "x", "-n", "1", "--tfs", "0.5"}, 0),
                   "plugin fake does not know --tfs"));
}

TEST_CASE("chat: Ctrl-C ends a piped program after the partial answer") {
    const Setup setup;
    Process process(setup.dir.path(), {"chat", setup.model}, "One\nTwo\n");
    while (process.read_some().size() < 3) {
    }
    process.signal(SIGINT);
    const Result result = process.wait();
    CHECK(result.exit_code == 130);
    CHECK(result.out.rfind("abc", 0) == 0);
    CHECK(std::count(result.out.begin(), result.out.end(), '\n') == 1);
    CHECK(contains(result.err, "cancelled"));
}

TEST_CASE(
    "chat on a terminal: Ctrl-C stops the answer and not the program, errors end a turn, the second Ctrl-C ends") {
    const Setup setup;
    const Terminal terminal;
    Process process(setup.dir.path(), {"chat", setup.model}, "", {}, terminal.path());
    const auto wait_for = [&](const char* text, long count) {
        const auto seen = [&] {
            const std::string errors = process.errors();
            long n = 0;
            for (size_t at = errors.find(text); at != std::string::npos; at = errors.find(text, at + 1)) ++n;
            return n;
        };
        for (int i = 0; i < 2000 && seen() < count; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        REQUIRE(seen() >= count);
    };
    wait_for("> ", 1);
    terminal.type("One\n");
    const size_t first = process.read_some().size();
    process.signal(SIGINT);
    wait_for("cancelled", 1);
    wait_for("> ", 2);
    terminal.type("unsayable\n");
    wait_for("error: the template says: not that", 1);
    wait_for("> ", 3);
    terminal.type("Two\n");
    while (process.read_some().find('\n', first) == std::string::npos) {
    }
    const size_t before = process.read_some().size();
    while (process.read_some().size() <= before) {
    }
    process.signal(SIGINT);
    wait_for("cancelled", 2);
    wait_for("> ", 4);
    process.signal(SIGINT);  // at the prompt
    const Result result = process.wait();
    CHECK(result.exit_code == 130);
    CHECK(std::count(result.out.begin(), result.out.end(), '\n') == 2);
}

}  // namespace quantplug::host
