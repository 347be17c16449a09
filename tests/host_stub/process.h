// The program in a process of its own, with the fake plugin and a scratch folder.
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/support/data.h"

namespace quantplug::test {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

inline const fs::path kBuilt = QP_HOST_TEST_DIR;

struct Result {
    int exit_code = -1;  // 128 + the signal's number where one ended it
    std::string out, err;

    nlohmann::json json() const { return nlohmann::json::parse(out); }
};

class Process {
 public:
    /// `terminal`: the path of a terminal that is its standard input, instead of `input`.
    Process(const fs::path& scratch, const Words& arguments, const std::string& input = "",
            std::map<std::string, std::string> environment = {}, const std::string& terminal = "")
        : scratch_(scratch) {
        std::ofstream(scratch / "in", std::ios::binary) << input;
        int pipe_ends[2];
        REQUIRE(::pipe2(pipe_ends, O_CLOEXEC) == 0);
        out_ = pipe_ends[0];
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        const std::string in = terminal.empty() ? (scratch / "in").string() : terminal;
        posix_spawn_file_actions_addopen(&actions, 0, in.c_str(), O_RDONLY | O_NOCTTY, 0);
        posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], 1);
        posix_spawn_file_actions_addopen(&actions, 2, (scratch / "err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);

        const std::string program = kBuilt / "program" / "quantplug";
        environment.emplace("QUANTPLUG_PLUGIN_PATH", kBuilt / "plugins");
        environment.emplace("HOME", scratch);
        for (const char* name : {"PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"})
            if (const char* value = std::getenv(name)) environment.emplace(name, value);
        Words words = arguments, variables;
        words.insert(words.begin(), program);
        for (const auto& [name, value] : environment) variables.push_back(name + "=" + value);
        std::vector<char*> argv, envp;
        for (std::string& word : words) argv.push_back(word.data());
        for (std::string& variable : variables) envp.push_back(variable.data());
        argv.push_back(nullptr);
        envp.push_back(nullptr);
        REQUIRE(::posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv.data(), envp.data()) == 0);
        posix_spawn_file_actions_destroy(&actions);
        ::close(pipe_ends[1]);
    }
    ~Process() { close_output(); }
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

    void signal(int number) const { ::kill(pid_, number); }
    void close_output() {
        if (out_ >= 0) ::close(out_);
        out_ = -1;
    }
    // What it has written so far.
    std::string errors() const {
        std::ifstream err(scratch_ / "err", std::ios::binary);
        return std::string{std::istreambuf_iterator<char>(err), {}};
    }
    // Waits for some output.
    std::string read_some() {
        char buffer[4096];
        const ssize_t n = ::read(out_, buffer, sizeof buffer);
        out_text_.append(buffer, static_cast<size_t>(n > 0 ? n : 0));
        return out_text_;
    }
    Result wait() {
        for (size_t old_size = ~size_t{0}; out_ >= 0 && old_size != out_text_.size();) {
            old_size = out_text_.size();
            read_some();
        }
        int status = 0;
        ::waitpid(pid_, &status, 0);
        return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), out_text_, errors()};
    }

 private:
    fs::path scratch_;
    pid_t pid_ = -1;
    int out_ = -1;
    std::string out_text_;
};

// A scratch folder with a model of each of two salts.
struct Setup {
    test::TempDir dir;
    std::string model = dir.path() / "model", base = dir.path() / "base";

    Setup() {
        for (const auto& [folder, salt] : {std::pair{model, 5}, {base, 6}}) {
            fs::create_directory(folder);
            std::ofstream(folder + "/salt.txt") << salt;
        }
    }
    Result run(const Words& arguments, const std::string& input = "",
               const std::map<std::string, std::string>& environment = {}) const {
        return Process(dir.path(), arguments, input, environment).wait();
    }
};

inline bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

}  // namespace quantplug::test
