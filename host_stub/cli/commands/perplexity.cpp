// quantplug perplexity: how well a model predicts a text, and how far it is from another one.
#include <array>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "host_stub/cli/commands/commands.h"
#include "host_stub/cli/failure.h"
#include "host_stub/cli/interrupt.h"
#include "host_stub/cli/npy.h"
#include "host_stub/cli/session.h"
#include "host_stub/cli/statistics.h"
#include "host_stub/cli/text_input.h"

namespace quantplug::host {
namespace {

using Rows = std::vector<std::vector<int32_t>>;

constexpr uint32_t kDefaultCtx = 512;

// One value per prediction, in order.
struct Scores {
    std::vector<double> nll;
    std::vector<double> base_nll, kl;  // with a base
    uint64_t top1 = 0;                 // with a base: predictions where both have the same most probable token
    size_t n_rows = 0;                 // complete ones
};

// The rows' log-probabilities only. Stops after a complete row when interrupted.
void score(const Model& model, const Rows& rows, Scores& scores, Console& console) {
    ProgressBar bar(console);
    for (const std::vector<int32_t>& row : rows) {
        const auto progress = [&](double fraction, const char*) {
            bar.update((static_cast<double>(scores.n_rows) + fraction) / static_cast<double>(rows.size()), "rows");
            return !interrupted();
        };
        try {
            progress(0, "");
            for (const float logprob : model.score(row, progress)) scores.nll.push_back(-double{logprob});
        } catch (const Error& error) {
            if (error.code() == QP_CANCELLED && interrupted()) return;
            throw;
        }
        ++scores.n_rows;
        if (interrupted()) return;
    }
}

// Rows of log-probabilities of one model, after each id of `ids` but the last.
class Pass {
 public:
    Pass(const Model& model, const std::vector<int32_t>& ids, size_t n_vocab) : session_(model, ids), log_p_(n_vocab) {}

    std::span<const double> next(uint64_t position) {
        const float* logits = nullptr;
        uint64_t actual = 0;
        if (!session_.next(logits, actual) || actual != position)
            throw Error(QP_INTERNAL, "the plugin gave no logits for position " + std::to_string(position));
        log_softmax({logits, log_p_.size()}, log_p_);
        return log_p_;
    }

 private:
    LogitsSession session_;
    std::vector<double> log_p_;
};

// Whole distributions: the model's, and the base's beside it where there is one.
void compare(const Model& model, const Model& base, const Rows& rows, const std::string& dump_file, Scores& scores,
             Console& console) {
    const size_t n_vocab = model.info().n_vocab;
    const size_t n_predictions = rows.size() * (rows.front().size() - 1);
    std::unique_ptr<NpyWriter> dump;
    if (!dump_file.empty()) dump = std::make_unique<NpyWriter>(dump_file, n_predictions, n_vocab);
    std::vector<float> dump_row(dump ? n_vocab : 0);
    ProgressBar bar(console);
    for (const std::vector<int32_t>& row : rows) {
        Pass pass(model, row, n_vocab);
        std::unique_ptr<Pass> base_pass;
        if (base) base_pass = std::make_unique<Pass>(base, row, n_vocab);
        uint64_t row_top1 = 0;
        for (size_t i = 0; i + 1 < row.size(); ++i) {
            if (interrupted()) {
                // Only complete rows count.
                const size_t complete = scores.n_rows * (row.size() - 1);
                scores.nll.resize(complete);
                if (base) scores.base_nll.resize(complete), scores.kl.resize(complete);
                return;
            }
            bar.update(static_cast<double>(scores.nll.size()) / static_cast<double>(n_predictions), "predictions");
            const auto target = static_cast<size_t>(row[i + 1]);
            const std::span<const double> log_q = pass.next(i);
            if (target >= log_q.size())
                throw Error(QP_INTERNAL, "token id " + std::to_string(target) + " is outside the logits");
            scores.nll.push_back(-log_q[target]);
            if (base) {
                const std::span<const double> log_p = base_pass->next(i);
                scores.base_nll.push_back(-log_p[target]);
                scores.kl.push_back(kl_divergence(log_p, log_q));
                row_top1 += argmax(log_p) == argmax(log_q);
            }
            if (dump) {
                for (size_t v = 0; v < n_vocab; ++v) dump_row[v] = static_cast<float>(log_q[v]);
                dump->write_row(dump_row);
            }
        }
        ++scores.n_rows;
        scores.top1 += row_top1;
    }
    if (dump) dump->finish();
}

std::optional<int32_t> bos_of_rows(const Model& model, Bos bos) {
    const qp_model_info info = model.info();
    if (bos == Bos::kOff || (bos == Bos::kAuto && info.adds_bos == 0)) return std::nullopt;
    if (info.bos_id < 0) throw Error(QP_FAILED_PRECONDITION, "the model's tokenizer has no BOS token; use --bos off");
    return info.bos_id;
}

// --ctx is the length of a row; the model's context follows it where the plugin lets it.
Model load(const ModelArguments& arguments, Backends& backends, Console& console) {
    const Plugin& plugin = backends.for_model(arguments.model);
    ModelArguments wanted = arguments;
    if (!has_load_option(plugin, "ctx")) wanted.ctx.reset();
    return load_model(plugin, wanted.model, load_options(wanted), console);
}

Model load_base(const PerplexityArguments& arguments, Backends& backends, Console& console) {
    ModelArguments base = arguments;
    base.model = arguments.base_folder;
    if (!arguments.base_compute.empty()) base.compute = arguments.base_compute;
    if (!arguments.base_device.empty()) {
        base.device = arguments.base_device;
        base.gpu_layers.reset();
    }
    return load(base, backends, console);
}

void require_same_tokens(const Model& model, const Model& base, const std::string& text,
                         const std::vector<int32_t>& ids, const std::string& base_folder) {
    const uint32_t n_vocab = model.info().n_vocab, base_n_vocab = base.info().n_vocab;
    if (n_vocab != base_n_vocab)
        throw Error(QP_INVALID_ARGUMENT, base_folder + " has a vocabulary of " + std::to_string(base_n_vocab) +
                                             ", the model one of " + std::to_string(n_vocab) +
                                             "; they cannot be compared");
    if (base.tokenize(text, QP_BOS_OFF) != ids)
        throw Error(QP_INVALID_ARGUMENT,
                    base_folder + " splits the text into other tokens than the model; they cannot be compared");
}

void write_result(const Scores& scores, size_t n_text_tokens, bool with_base, Console& console) {
    const MeanAndError nll = mean_and_error(scores.nll);
    nlohmann::json result = {
        {"perplexity", std::exp(nll.mean)}, {"nll", nll.mean},       {"nll_se", nll.standard_error},
        {"predictions", scores.nll.size()}, {"rows", scores.n_rows}, {"text_tokens", n_text_tokens}};
    const double kl = with_base ? mean_and_error(scores.kl).mean : 0;
    if (with_base) {
        result["kl"] = kl;
        result["kl_p99"] = percentile_99(scores.kl);
        result["top1"] = static_cast<double>(scores.top1) / static_cast<double>(scores.kl.size());
        result["base_perplexity"] = std::exp(mean_and_error(scores.base_nll).mean);
    }
    if (console.json()) {
        console.write_json(result);
        return;
    }
    std::array<char, 256> text{};
    std::snprintf(text.data(), text.size(), "perplexity %.4f (nll %.6f +- %.6f, %zu predictions in %zu rows)\n",
                  std::exp(nll.mean), nll.mean, nll.standard_error, scores.nll.size(), scores.n_rows);
    console.write_text(text.data());
    if (!with_base) return;
    std::snprintf(
        text.data(), text.size(), "KL %.3e (99th percentile %.3e), same top token %.3f %%, base perplexity %.4f\n", kl,
        result["kl_p99"].get<double>(), 100 * result["top1"].get<double>(), result["base_perplexity"].get<double>());
    console.write_text(text.data());
}

}  // namespace

int run_perplexity(const PerplexityArguments& given, Program& program) {
    PerplexityArguments arguments = given;
    if (!arguments.ctx) arguments.ctx = kDefaultCtx;
    if (*arguments.ctx < 2) throw UsageError("--ctx must be at least 2: a row's first token is not predicted");
    load_options(arguments);  // wrong usage comes before any work
    const std::string text = text_argument(false, "", arguments.file, "-f FILE or text on standard input");

    Console& console = program.console;
    Backends backends(console, arguments.backend);
    const Model model = load(arguments, backends, console);
    const std::vector<int32_t> ids = model.tokenize(text, QP_BOS_OFF);
    const Rows rows = perplexity_rows(ids, *arguments.ctx, bos_of_rows(model, arguments.bos));
    if (rows.empty())
        throw Error(QP_INVALID_ARGUMENT, "the text has " + std::to_string(ids.size()) +
                                             " tokens, less than one row of --ctx " + std::to_string(*arguments.ctx) +
                                             "; give a longer text or a smaller --ctx");
    Model base;
    if (!arguments.base_folder.empty()) {
        base = load_base(arguments, backends, console);
        require_same_tokens(model, base, text, ids, arguments.base_folder);
    }

    Scores scores;
    if (base || !arguments.dump_file.empty())
        compare(model, base, rows, arguments.dump_file, scores, console);
    else
        score(model, rows, scores, console);
    for (const double value : scores.nll)
        if (std::isnan(value))
            throw Error(QP_INTERNAL, "the model's log-probabilities are not numbers; its weights may be damaged");
    if (scores.n_rows > 0) write_result(scores, ids.size(), static_cast<bool>(base), console);
    if (interrupted() && scores.n_rows < rows.size()) {
        if (scores.n_rows == 0) throw Error(QP_CANCELLED, "interrupted before the first row was done");
        return kExitInterrupted;
    }
    return kExitDone;
}

}  // namespace quantplug::host
