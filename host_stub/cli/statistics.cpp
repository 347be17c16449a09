#include "host_stub/cli/statistics.h"

#include <algorithm>
#include <cmath>

namespace quantplug::host {

std::vector<std::vector<int32_t>> perplexity_rows(std::span<const int32_t> text, size_t ctx,
                                                  std::optional<int32_t> bos) {
    std::vector<std::vector<int32_t>> rows;
    const size_t taken = ctx - (bos ? 1 : 0);
    if (taken == 0) return rows;
    for (; text.size() >= taken; text = text.subspan(taken)) {
        std::vector<int32_t> row;
        row.reserve(ctx);
        if (bos) row.push_back(*bos);
        row.insert(row.end(), text.begin(), text.begin() + static_cast<std::ptrdiff_t>(taken));
        rows.push_back(std::move(row));
    }
    return rows;
}

void log_softmax(std::span<const float> logits, std::span<double> out) {
    const double largest = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(double{logit} - largest);
    const double normaliser = largest + std::log(sum);
    for (size_t i = 0; i < logits.size(); ++i) out[i] = double{logits[i]} - normaliser;
}

double kl_divergence(std::span<const double> log_p, std::span<const double> log_q) {
    double sum = 0;
    for (size_t i = 0; i < log_p.size(); ++i) {
        const double p = std::exp(log_p[i]);
        if (p > 0) sum += p * (log_p[i] - log_q[i]);
    }
    return sum;
}

size_t argmax(std::span<const double> values) {
    return static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

MeanAndError mean_and_error(std::span<const double> values) {
    MeanAndError result;
    const auto n = static_cast<double>(values.size());
    if (values.empty()) return result;
    for (const double value : values) result.mean += value / n;
    if (values.size() < 2) return result;
    double squares = 0;
    for (const double value : values) squares += (value - result.mean) * (value - result.mean);
    result.standard_error = std::sqrt(squares / (n - 1) / n);
    return result;
}

double percentile_99(std::vector<double> values) {
    const double rank = 0.99 * static_cast<double>(values.size() - 1);
    const auto below = static_cast<size_t>(rank);
    const auto nth = values.begin() + static_cast<std::ptrdiff_t>(below);
    std::nth_element(values.begin(), nth, values.end());
    const double low = *nth;
    if (below + 1 == values.size()) return low;
    const double high = *std::min_element(nth + 1, values.end());
    return low + (rank - static_cast<double>(below)) * (high - low);
}

}  // namespace quantplug::host
