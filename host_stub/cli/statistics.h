// The arithmetic of `perplexity`. All sums are in double.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace quantplug::host {

/// Rows of `ctx` ids: with `bos`, BOS and the next ctx - 1 ids of the text; without, the next ctx ids. An incomplete
/// last row is dropped.
std::vector<std::vector<int32_t>> perplexity_rows(std::span<const int32_t> text, size_t ctx,
                                                  std::optional<int32_t> bos);

/// out[i] = logits[i] - ln(sum exp(logits)); the spans have one size.
void log_softmax(std::span<const float> logits, std::span<double> out);

/// sum p (ln p - ln q) over log-probabilities; a term with p = 0 is 0.
double kl_divergence(std::span<const double> log_p, std::span<const double> log_q);

/// Index of the largest value; the first of equals.
size_t argmax(std::span<const double> values);

/// Mean, and the standard error of that mean: sqrt(sum (x - mean)^2 / (n - 1) / n), 0 for a single value.
struct MeanAndError {
    double mean = 0;
    double standard_error = 0;
};
MeanAndError mean_and_error(std::span<const double> values);

/// The 99th percentile, linear between the two nearest values as numpy.percentile has it. `values` is not empty.
double percentile_99(std::vector<double> values);

}  // namespace quantplug::host
