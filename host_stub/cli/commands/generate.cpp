// quantplug generate: raw text in, text out as it comes.
#include <algorithm>
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>

#include "host_stub/cli/commands/commands.h"
#include "host_stub/cli/facts.h"
#include "host_stub/cli/failure.h"
#include "host_stub/cli/generation.h"
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

// What came out of a generation.
struct Outcome {
    std::vector<int32_t> ids;
    std::string text;
    Json logprobs = Json::array();
    qp_event end = make<qp_event>();
    std::vector<Stream> streams;  // --batch
    double seconds = 0;
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

Outcome generate(const Model& model, const GenerateRequest& request, uint32_t batch, Program& program) {
    Outcome outcome;
    const bool stream = !program.console.json();
    ProgressBar bar(program.console);
    const auto take = [&](const qp_event& event) {
        if (event.kind == QP_EVENT_PREFILL && event.n_done < event.n_prompt)
            bar.update(static_cast<double>(event.n_done) / static_cast<double>(event.n_prompt), "prompt");
        if (event.n_tokens > 0 && outcome.ids.empty()) outcome.first_token_s = seconds_since(program.start);
        const size_t old_size = outcome.text.size();
        collect(event, outcome);
        if (stream && outcome.text.size() > old_size)
            program.console.write_text(std::string_view(outcome.text).substr(old_size));
    };
    const auto start = Clock::now();
    if (batch > 0) {
        outcome.streams = generate_batch(model, request, batch, take);
        outcome.end = outcome.streams.front().end;
    } else {
        outcome.end = model.generate(request, [&](const qp_event& event) { return take(event), !interrupted(); });
    }
    outcome.seconds = seconds_since(start);
    return outcome;
}

// Whether all streams that were not cancelled have the same ids; two that were stopped agree as far as both go.
bool streams_agree(const std::vector<Stream>& streams) {
    for (const Stream& stream : streams) {
        const std::vector<int32_t>& first = streams.front().ids;
        const bool cut =
            stream.end.finish_reason == QP_FINISH_CANCELLED || streams.front().end.finish_reason == QP_FINISH_CANCELLED;
        const size_t n = cut ? std::min(first.size(), stream.ids.size()) : first.size();
        if (!cut && stream.ids.size() != n) return false;
        if (!std::equal(first.begin(), first.begin() + static_cast<std::ptrdiff_t>(n), stream.ids.begin()))
            return false;
    }
    return true;
}

}  // namespace

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
    resolve_sampling(arguments.sampling, model.default_sampling(), std::random_device{}(), request);

    const Outcome outcome = generate(model, request, arguments.batch.value_or(0), program);
    const qp_event& end = outcome.end;
    warn_ignored(program.console, plugin, end.ignored, arguments.sampling);
    uint64_t batch_tokens = 0;
    for (const Stream& stream : outcome.streams) batch_tokens += stream.ids.size();
    // The first token is the prompt's last step; each further one is a step of its own.
    const uint64_t decode_tokens = outcome.ids.empty() ? 0 : outcome.ids.size() - 1;
    if (program.console.json()) {
        Json document = {{"prompt_ids", request.prompt},
                         {"ids", outcome.ids},
                         {"text", outcome.text},
                         {"logprobs", outcome.logprobs},
                         {"finish_reason", finish_name(end.finish_reason)},
                         {"timing",
                          {{"load_s", load_s},
                           {"first_token_s", outcome.first_token_s},
                           {"prompt_tokens", request.prompt.size()},
                           {"cached_tokens", end.n_cached},
                           {"prefill_s", end.prefill_seconds},
                           {"decode_tokens", decode_tokens},
                           {"decode_s", end.decode_seconds}}},
                         {"peak_rss_bytes", peak_rss_bytes()},
                         {"backend", plugin.name()},
                         {"device", field_text(model.info().device)},
                         {"seed", request.sampling.seed}};
        if (arguments.batch) {
            document["streams"] = Json::array();
            for (const Stream& stream : outcome.streams) document["streams"].push_back(stream.ids);
            document["timing"]["batch_s"] = outcome.seconds;
            document["timing"]["batch_tokens"] = batch_tokens;
        }
        program.console.write_json(document);
    } else {
        program.console.write_text("\n");
        std::array<char, 64> load{};
        std::snprintf(load.data(), load.size(), "load %.2f s", load_s);
        program.console.note(std::string(load.data()) + "; prompt " + rate(request.prompt.size(), end.prefill_seconds) +
                             "; generated " + std::to_string(outcome.ids.size()) + ", after the first " +
                             rate(decode_tokens, end.decode_seconds) + "; " + finish_name(end.finish_reason));
        if (arguments.batch)
            program.console.note(std::to_string(outcome.streams.size()) +
                                 " streams: " + rate(batch_tokens, outcome.seconds) + ", prompts included");
        program.console.log(QP_LOG_INFO, "seed " + std::to_string(request.sampling.seed));
    }
    if (is_greedy(request.sampling) && !streams_agree(outcome.streams)) {
        program.console.error("the greedy streams of one prompt differ: report it to the author of plugin " +
                              plugin.name());
        return kExitFailed;
    }
    return end.finish_reason == QP_FINISH_CANCELLED ? kExitInterrupted : kExitDone;
}

}  // namespace quantplug::host
