// quantplug chat: turns with a model through its chat template. Every line of the input is a turn, on a terminal and
// from a pipe; -p is one turn.
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <random>

#include "host_stub/cli/chat_session.h"
#include "host_stub/cli/commands/commands.h"
#include "host_stub/cli/failure.h"
#include "host_stub/cli/generation.h"
#include "host_stub/cli/interrupt.h"
#include "host_stub/cli/line_reader.h"
#include "host_stub/cli/session.h"

namespace quantplug::host {
namespace {

using Json = nlohmann::json;

// What the turns of one run share.
struct Talk {
    Program& program;
    const Plugin& plugin;
    ChatSession& session;
    const SamplingArguments& sampling;
    bool warned = false;  // of ignored samplers

    // Says `text` and writes the answer as it comes. The answer is the finish reason.
    uint32_t turn(const std::string& text) {
        Console& console = program.console;
        ProgressBar bar(console);
        const ChatAnswer answer = session.turn(text, [&](const qp_event& event) {
            if (event.kind == QP_EVENT_PREFILL && event.n_done < event.n_prompt)
                bar.update(static_cast<double>(event.n_done) / static_cast<double>(event.n_prompt), "prompt");
            const std::string_view piece(event.text ? event.text : "", event.text ? event.text_size : 0);
            if (!piece.empty() && console.json())
                console.write_json({{"event", "text"}, {"text", std::string(piece)}});
            else if (!piece.empty())
                console.write_text(piece);
            return !interrupted();
        });
        const qp_event& end = answer.end;
        if (console.json())
            console.write_json({{"event", "turn"},
                                {"content", answer.text},
                                {"finish_reason", finish_name(end.finish_reason)},
                                {"prompt_tokens", answer.n_prompt},
                                {"cached_tokens", end.n_cached},
                                {"completion_tokens", end.n_generated},
                                {"prefill_s", end.prefill_seconds},
                                {"decode_s", end.decode_seconds},
                                {"forgotten_turns", answer.n_forgotten},
                                {"seed", answer.seed}});
        else
            console.write_text("\n");
        if (answer.n_forgotten > 0)
            console.log(QP_LOG_WARNING, "the context is full: the oldest " + std::to_string(answer.n_forgotten) +
                                            (answer.n_forgotten == 1 ? " turn is" : " turns are") + " forgotten");
        const uint64_t computed = answer.n_prompt - std::min<uint64_t>(end.n_cached, answer.n_prompt);
        const uint64_t decoded = end.n_generated > 0 ? end.n_generated - 1 : 0;
        console.note("prompt " + std::to_string(answer.n_prompt) + " tokens, " + std::to_string(end.n_cached) +
                     " cached, computed " + rate(computed, end.prefill_seconds) + "; answer " +
                     std::to_string(end.n_generated) + ", after the first " + rate(decoded, end.decode_seconds) + "; " +
                     finish_name(end.finish_reason));
        if (!warned) warn_ignored(console, plugin, end.ignored, sampling);
        warned = true;
        return end.finish_reason;
    }
};

// Obeys a line that is one of the commands. Others that begin with a slash are text like any.
bool obey(const std::string& line, ChatHistory& history, Console& console) {
    if (line == "/clear") {
        history.clear();
        console.note("forgotten; the system message stays");
        return true;
    }
    if (line != "/system" && line.rfind("/system ", 0) != 0) return false;
    history.has_system = line.size() > 8;
    history.system = history.has_system ? line.substr(8) : "";
    console.note(history.has_system ? "the system message is changed" : "there is no system message now");
    return true;
}

// Turns from standard input until its end. On a terminal an error or a Ctrl-C ends the turn, otherwise the program.
int talk_lines(Talk& talk, bool terminal) {
    Console& console = talk.program.console;
    LineReader reader(STDIN_FILENO);
    for (std::string line;;) {
        if (terminal) console.ask("> ");
        const LineReader::Got got = reader.next_joined(line);
        if (terminal && got != LineReader::Got::kLine) console.ask("\n");
        if (got == LineReader::Got::kInterrupted) return kExitInterrupted;
        if (got == LineReader::Got::kEnd || line == "/quit" || line == "/exit") return kExitDone;
        if (line.find_first_not_of(" \t\n") == std::string::npos) continue;
        if (obey(line, talk.session.history, console)) continue;
        try {
            if (talk.turn(line) == QP_FINISH_CANCELLED && !terminal) return kExitInterrupted;
        } catch (const Error& error) {
            if (!terminal) throw;
            console.end_progress();
            console.error(error.what());
        }
        if (terminal) clear_interrupt();
        if (interrupted()) return kExitInterrupted;
    }
}

}  // namespace

int run_chat(const ChatArguments& arguments, Program& program) {
    const bool terminal = !arguments.has_text && ::isatty(STDIN_FILENO) == 1;
    const Options options = load_options(arguments);
    Backends backends(program.console, arguments.backend);
    const Plugin& plugin = backends.for_model(arguments.model);
    const Model model = load_model(plugin, arguments.model, options, program.console);
    ChatSession session(model, {arguments.mode, arguments.sampling, arguments.n_tokens, std::random_device{}()});
    session.history.has_system = arguments.has_system;
    session.history.system = arguments.system;
    Talk talk{program, plugin, session, arguments.sampling};
    if (arguments.has_text) return talk.turn(arguments.text) == QP_FINISH_CANCELLED ? kExitInterrupted : kExitDone;
    if (terminal)
        program.console.note(
            "Say something. /clear begins anew, /system TEXT changes the system message, /quit leaves; "
            "Ctrl-C stops an answer.");
    return talk_lines(talk, terminal);
}

}  // namespace quantplug::host
