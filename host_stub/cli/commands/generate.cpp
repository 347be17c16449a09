// quantplug generate: raw text in, text out as it comes.
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>

#include "host_stub/cli/commands/commands.h"
#include "host_stub/cli/facts.h"
#include "host_stub/cli/failure.h"
#include "host_stub/cli/interrupt.h"
#include "host_stub/cli/sampling.h"
#include "host_stub/cli/session.h"
#include "host_stub/cli/text_input.h"
#include "host_stub/cli/tokens.h"

namespace quantplug::host {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

const char* finish_name(uint32_t reason) {
    switch (reason) {
        case QP_FINISH_STOP:
            return "stop";
        case QP_FINISH_LENGTH:
            return "length";
        case QP_FINISH_CANCELLED:
            return "cancelled";
        case QP_FINISH_ERROR:
            return "error";
        default:
            return "none";
    }
}

// What came out of a generation.
struct Outcome {
    std::vector<int32_t> ids;
    std::string text;
    Json logprobs = Json::array();
    qp_event end = make<qp_event>();
    double first_token_s = 0;  // since the first statement of main(): the loader's milliseconds before it are not in it
};

void collect(const qp_event& event, Outcome& outcome) {
    for (uint32_t i = 0; i < event.n_tokens; ++i) {
        const qp_token& token = event.tokens[i];
        outcome.ids.push_back(token.id);
        Json top = Json::array();
        for (uint32_t t = 0; t < token.n_top && token.first_top <= event.n_top && t < event.n_top - token.first_top;
             ++t) {
            const qp_top& entry = event.top[token.first_top + t];
            top.push_back({entry.id, entry.logprob});
        }
        outcome.logprobs.push_back({{"id", token.id}, {"logprob", token.logprob}, {"top", std::move(top)}});
    }
    if (event.text && event.text_size > 0) outcome.text.append(event.text, event.text_size);
}

Outcome generate(const Model& model, const GenerateRequest& request, Program& program) {
    Outcome outcome;
    const bool stream = !program.console.json();
    ProgressBar bar(program.console);
    const qp_event end = model.generate(request, [&](const qp_event& event) {
        if (event.kind == QP_EVENT_PREFILL && event.n_done < event.n_prompt)
            bar.update(static_cast<double>(event.n_done) / static_cast<double>(event.n_prompt), "prompt");
        if (event.n_tokens > 0 && outcome.ids.empty()) outcome.first_token_s = seconds_since(program.start);
        const size_t old_size = outcome.text.size();
        collect(event, outcome);
        if (stream && outcome.text.size() > old_size)
            program.console.write_text(std::string_view(outcome.text).substr(old_size));
        return !interrupted();
    });
    outcome.end = end;
    return outcome;
}

std::string rate(uint64_t tokens, double seconds) {
    std::array<char, 96> text{};
    if (tokens == 0 || seconds <= 0)
        std::snprintf(text.data(), text.size(), "%llu tokens", static_cast<unsigned long long>(tokens));
    else
        std::snprintf(text.data(), text.size(), "%llu tokens in %.2f s (%.1f/s)",
                      static_cast<unsigned long long>(tokens), seconds, static_cast<double>(tokens) / seconds);
    return text.data();
}

}  // namespace

void add_generate(CLI::App& command, GenerateArguments& arguments) {
    add_model_arguments(command, arguments);
    CLI::Option* text =
        command.add_option("-p,--prompt", arguments.input.text, "the prompt, as raw text")->type_name("TEXT");
    CLI::Option* ids = command.add_option("--ids", arguments.input.ids, "the prompt as token ids")->type_name("1,2,3");
    command.add_option("-f,--file", arguments.input.file, "the prompt from a file; - is standard input")
        ->type_name("FILE");
    command.callback([text, ids, &arguments] {
        arguments.input.has_text = text->count() > 0;
        arguments.input.has_ids = ids->count() > 0;
    });
    command
        .add_option("-n,--n-tokens", arguments.n_tokens,
                    "at most this many tokens (default: until the context is full)")
        ->check(CLI::Range(1u, 0x7fffffffu))
        ->type_name("N");
    command.add_flag("--ignore-eos", arguments.ignore_eos, "go on after the model's own stop tokens");
    add_sampling_arguments(command, arguments.sampling);
    command.add_option("--logprobs", arguments.n_top, "the K most probable tokens beside each token (with --json)")
        ->check(CLI::Range(0u, 1000000u))
        ->type_name("K");
    add_special(command, arguments.special,
                "text like <|im_start|> is the token, and tokens are written so (default off)");
    add_bos(command, arguments.bos);
    add_output_arguments(command, arguments);
    command.footer(
        "Example: go on with a sentence, the most probable token each time\n"
        "  quantplug generate models/smollm2-exl2 -p \"The capital of France is\" -n 16 --temp 0");
}

int run_generate(const GenerateArguments& arguments, Program& program) {
    const InputArguments& input = arguments.input;
    const Options options = load_options(arguments);
    if (input.has_ids && (input.has_text || !input.file.empty()))
        throw UsageError("give the prompt once: -p TEXT, -f FILE or --ids 1,2,3");
    if (arguments.n_top > 0 && !arguments.json)
        throw UsageError("--logprobs needs --json: the text alone does not show them");
    GenerateRequest request;
    std::string text;
    if (input.has_ids) {
        request.prompt = parse_ids(input.ids);
        if (request.prompt.empty()) throw UsageError("--ids has no token ids");
    } else {
        text = text_argument(input.has_text, input.text, input.file,
                             "-p TEXT, -f FILE, --ids 1,2,3 or text on standard input");
    }

    const auto load_start = Clock::now();
    Backends backends(program.console, arguments.backend);
    const Plugin& plugin = backends.for_model(arguments.model);
    const Model model = load_model(plugin, arguments.model, options, program.console);
    const double load_s = seconds_since(load_start);

    if (!input.has_ids) request.prompt = model.tokenize(text, tokenize_flags(arguments.bos, arguments.special));
    if (request.prompt.empty())
        throw Error(QP_INVALID_ARGUMENT, "the prompt has no tokens and this model begins with none: give some text");
    request.stop = arguments.sampling.stop;
    request.max_tokens = arguments.n_tokens;
    request.n_top = arguments.n_top;
    request.flags =
        (arguments.ignore_eos ? QP_GENERATE_IGNORE_EOS : 0) | (arguments.special ? QP_GENERATE_SPECIAL_TEXT : 0);
    request.sampling = resolve_sampling(arguments.sampling, model.default_sampling(), std::random_device{}());

    const Outcome outcome = generate(model, request, program);
    const qp_event& end = outcome.end;
    if (const uint64_t ignored = end.ignored & given_sampling(arguments.sampling))
        program.console.log(QP_LOG_WARNING, "plugin " + plugin.name() + " does not know " + sampling_names(ignored) +
                                                ": no effect on this text");
    // The first token is the prompt's last step; each further one is a step of its own.
    const uint64_t decode_tokens = outcome.ids.empty() ? 0 : outcome.ids.size() - 1;
    if (program.console.json()) {
        program.console.write_json({{"prompt_ids", request.prompt},
                                    {"ids", outcome.ids},
                                    {"text", outcome.text},
                                    {"logprobs", outcome.logprobs},
                                    {"finish_reason", finish_name(end.finish_reason)},
                                    {"timing",
                                     {{"load_s", load_s},
                                      {"first_token_s", outcome.first_token_s},
                                      {"prompt_tokens", request.prompt.size()},
                                      {"prefill_s", end.prefill_seconds},
                                      {"decode_tokens", decode_tokens},
                                      {"decode_s", end.decode_seconds}}},
                                    {"peak_rss_bytes", peak_rss_bytes()},
                                    {"backend", plugin.name()},
                                    {"device", field_text(model.info().device)},
                                    {"seed", request.sampling.seed}});
    } else {
        program.console.write_text("\n");
        std::array<char, 64> load{};
        std::snprintf(load.data(), load.size(), "load %.2f s", load_s);
        program.console.note(std::string(load.data()) + "; prompt " + rate(request.prompt.size(), end.prefill_seconds) +
                             "; generated " + std::to_string(outcome.ids.size()) + ", after the first " +
                             rate(decode_tokens, end.decode_seconds) + "; " + finish_name(end.finish_reason));
        program.console.log(QP_LOG_INFO, "seed " + std::to_string(request.sampling.seed));
    }
    return end.finish_reason == QP_FINISH_CANCELLED ? kExitInterrupted : kExitDone;
}

}  // namespace quantplug::host
