#include "host_stub/cli/generation.h"

#include <array>
#include <cstdio>
#include <map>

#include "host_stub/cli/interrupt.h"
#include "host_stub/cli/sampling.h"

namespace quantplug::host {

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

std::string rate(uint64_t tokens, double seconds) {
    std::array<char, 96> text{};
    if (tokens == 0 || seconds <= 0)
        std::snprintf(text.data(), text.size(), "%llu tokens", static_cast<unsigned long long>(tokens));
    else
        std::snprintf(text.data(), text.size(), "%llu tokens in %.2f s (%.1f/s)",
                      static_cast<unsigned long long>(tokens), seconds, static_cast<double>(tokens) / seconds);
    return text.data();
}

void warn_ignored(Console& console, const Plugin& plugin, uint64_t ignored, const SamplingArguments& sampling) {
    if (const uint64_t named = ignored & given_sampling(sampling))
        console.log(QP_LOG_WARNING,
                    "plugin " + plugin.name() + " does not know " + sampling_names(named) + ": no effect on this text");
}

std::vector<Stream> generate_batch(const Model& model, const GenerateRequest& request, uint32_t n,
                                   const std::function<void(const qp_event&)>& on_event) {
    constexpr int32_t wait_ms = 100;  // how late Ctrl-C is seen where nothing runs
    const Engine engine(model);
    std::vector<Stream> streams(n);
    std::map<uint64_t, size_t> index;  // of a request's number
    for (uint32_t i = 0; i < n; ++i) {
        GenerateRequest one = request;
        one.seed(request.sampling.seed + i);
        index[engine.submit(one)] = i;
    }
    bool cancelled = false;
    const auto take = [&](uint64_t number, const qp_event& event) {
        const size_t i = index.at(number);
        Stream& stream = streams[i];
        for (uint32_t t = 0; t < event.n_tokens; ++t) stream.ids.push_back(event.tokens[t].id);
        if (event.kind == QP_EVENT_END) {
            stream.end = event;
            stream.error = event.error ? event.error : "";
        }
        if (i == 0) on_event(event);
        return !interrupted();
    };
    while (engine.step(wait_ms, take) > 0) {
        if (!interrupted() || cancelled) continue;
        cancelled = true;
        for (const auto& [number, i] : index) engine.cancel(number);  // those that wait have no events to answer
    }
    for (const Stream& stream : streams)
        if (stream.end.finish_reason == QP_FINISH_ERROR)
            throw Error(stream.end.status, stream.error.empty() ? "a stream failed without a reason" : stream.error);
    return streams;
}

}  // namespace quantplug::host
