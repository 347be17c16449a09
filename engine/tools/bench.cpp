#include "engine/tools/bench.h"

#include <algorithm>
#include <chrono>
#include <fstream>

#include "engine/base/error.h"
#include "engine/tools/bench_model.h"
#include "kernels/threads/pool.h"

namespace quantplug::engine {

namespace {

using Clock = std::chrono::steady_clock;

constexpr double chunk_seconds = 0.150;  // as Model::prefill_rows
constexpr int32_t least_chunk = 8;
constexpr int32_t warm_up_tokens = 8;
constexpr int32_t most_tokens = 1 << 24;
constexpr int32_t most_batch_of_any = 128;
constexpr double poll_seconds = 0.1;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void require(const char* name, int64_t value, int64_t least, int64_t most) {
    if (value < least || value > most)
        fail(Code::invalid_argument, name, " is ", value, "; it must lie in ", least, "..", most);
}

void check_request(const BenchRequest& r) {
    if (!r.model.empty() && !r.synthetic.empty())
        fail(Code::invalid_argument, "give a model folder or a synthetic shape, not both");
    require("pp", r.pp, 0, most_tokens);
    require("tg", r.tg, 0, most_tokens);
    require("depth", r.depth, 0, most_tokens);
    require("repeat", r.repeat, 1, 1000);
    require("the number of batch sizes", int64_t(r.batch.size()), 1, 64);
    for (const int32_t b : r.batch) require("batch", b, 1, most_batch_of_any);
}

/// Tells how far it is, not too often.
class Pace {
 public:
    explicit Pace(const Progress& progress) : progress_(progress) {}

    void expect(double work) { total_ += work; }
    void begin(std::string what) { what_ = std::move(what); }
    void done(double work) {
        done_ += work;
        if (cancelled()) fail(Code::cancelled, "the measurement was cancelled");
    }
    bool cancelled() {
        if (stopped_ || !progress_ || seconds_since(last_) < poll_seconds) return stopped_;
        last_ = Clock::now();
        stopped_ = !progress_(total_ > 0 ? std::min(1.0, done_ / total_) : 0, what_.c_str());
        return stopped_;
    }

 private:
    const Progress& progress_;
    double total_ = 0, done_ = 0;
    std::string what_;
    Clock::time_point last_{};
    bool stopped_ = false;
};

class Measurement {
 public:
    Measurement(BenchModel& model, const BenchRequest& request, int32_t blocks_each, Pace& pace)
        : model_(model), request_(request), blocks_each_(blocks_each), pace_(pace) {}

    /// Prompt tokens at positions first .. first + n - 1 of one sequence.
    void prefill(int32_t sequence, int32_t first, int32_t n) {
        std::vector<kernels::Row> rows;
        for (int32_t done = 0; done < n;) {
            const int32_t some = std::min(n - done, chunk_);
            rows.clear();
            for (int32_t i = 0; i < some; ++i)
                rows.push_back({sequence, token(first + done + i), first + done + i, first + n});
            const kernels::Wanted last{some - 1, kernels::Wanted::argmax, 0};
            const auto start = Clock::now();
            model_.step(rows, std::span(&last, done + some == n ? 1 : 0), sequence + 1, blocks_each_, true,
                        [&] { return pace_.cancelled(); });
            if (some >= least_chunk) {
                const double fits = some * chunk_seconds / std::max(1e-6, seconds_since(start));
                chunk_ = std::clamp(int32_t(std::min(fits, 1e6)), least_chunk, model_.max_step_rows());
            }
            done += some;
            pace_.done(some * prefill_work);
        }
    }

    void decode(int32_t batch, int32_t first, int32_t n) {
        std::vector<kernels::Row> rows(static_cast<size_t>(batch));
        std::vector<kernels::Wanted> wanted;
        for (int32_t s = 0; s < batch; ++s) wanted.push_back({s, kernels::Wanted::argmax, 0});
        for (int32_t i = 0; i < n; ++i) {
            for (int32_t s = 0; s < batch; ++s)
                rows[size_t(s)] = {s, token(first + i + 977 * s), first + i, first + i + 1};
            model_.step(rows, wanted, batch, blocks_each_, false, [&] { return pace_.cancelled(); });
            pace_.done(batch);
        }
    }

    /// Warms up, then fills in speeds and what follows from them. `tokens` in one run of `work`.
    void measure(BenchRow& row, double tokens, const std::function<void()>& warm_up,
                 const std::function<void()>& work) {
        pace_.begin(row.test + (row.batch > 1 ? concat(", ", row.batch, " sequences") : ""));
        warm_up();
        std::vector<double> speeds;
        for (int32_t i = 0; i < request_.repeat; ++i) {
            const auto start = Clock::now();
            work();
            speeds.push_back(tokens / std::max(1e-9, seconds_since(start)));
        }
        std::sort(speeds.begin(), speeds.end());
        const size_t middle = speeds.size() / 2;
        row.tokens_per_s = speeds.size() % 2 ? speeds[middle] : (speeds[middle - 1] + speeds[middle]) / 2;
        row.min = speeds.front();
        row.max = speeds.back();
    }

    int32_t chunk() const { return chunk_; }

    static constexpr double prefill_work = 0.25;  // of a decoded token's, for the progress bar alone

 private:
    int32_t token(int32_t i) const {
        return int32_t((uint32_t(i) * 2654435761u >> 8) % uint32_t(model_.spec().n_vocab));
    }

    BenchModel& model_;
    const BenchRequest& request_;
    int32_t blocks_each_;
    Pace& pace_;
    int32_t chunk_ = 16;
};

/// gb_per_s: of each part, whose shares a step reads one after the other.
void add_shares(BenchRow& row, const StepCost& step, double tokens, const std::vector<double>& gb_per_s,
                double peak_gops) {
    row.bytes_per_token = step.bytes / tokens;
    row.gb_per_s = row.bytes_per_token * row.tokens_per_s * 1e-9;
    double least_seconds = 0;
    for (size_t i = 0; i < gb_per_s.size(); ++i) least_seconds += step.bytes_of[i] * 1e-9 / gb_per_s[i];
    row.share_of_bandwidth = least_seconds / tokens * row.tokens_per_s;
    if (peak_gops > 0) row.share_of_peak = step.operations / tokens * row.tokens_per_s * 1e-9 / peak_gops;
}

/// Measured once a device.
double cuda_bandwidth(const std::string& name, std::vector<DeviceBandwidth>& known) {
    for (const DeviceBandwidth& one : known)
        if (one.device == name) return one.gb_per_s;
    DeviceBandwidth one{name, 0};
    const int32_t ordinal = int32_t(std::stol(name.substr(name.find(':') + 1)));
    if (const kernels::Status status = kernels::measure_cuda_copy(ordinal, &one.gb_per_s); !status.ok())
        fail(Code(status.code), "device ", name, ": ", status.message);
    known.push_back(one);
    return one.gb_per_s;
}

}  // namespace

std::string cpu_name() {
    std::ifstream in("/proc/cpuinfo");
    std::string line;
    while (std::getline(in, line)) {
        if (line.rfind("model name", 0) != 0) continue;
        const size_t colon = line.find(':');
        if (colon != std::string::npos && colon + 2 < line.size()) return line.substr(colon + 2);
    }
    return "unknown";
}

BenchResult run_benchmark(const BenchRequest& request, const Format& format, const Progress& progress,
                          const std::function<void(const BenchRow&)>& on_row) {
    check_request(request);
    BenchResult result;
    result.cpu = cpu_name();
    const int32_t threads = request.options.threads > 0 ? request.options.threads : kernels::default_threads();
    const bool limits_alone = request.model.empty() && request.synthetic.empty();
    std::unique_ptr<BenchModel> model;
    const int32_t most_batch = request.tg > 0 ? *std::max_element(request.batch.begin(), request.batch.end()) : 1;
    const int32_t positions = request.depth + std::max({request.pp, request.tg, 1});
    const int32_t blocks_each = (positions + kv_block_tokens - 1) / kv_block_tokens;
    if (!limits_alone) {
        if (int64_t(blocks_each) * most_batch > most_tokens / kv_block_tokens)
            fail(Code::out_of_range, "a cache of ", positions, " tokens for ", most_batch, " sequences is too large");
        const BenchMemory memory{blocks_each * most_batch, std::max(1, most_batch), positions};
        model = request.synthetic.empty()
                    ? BenchModel::from_folder(request.model, format, request.options, memory, progress)
                    : BenchModel::synthetic(request.synthetic, request.bits, request.group, request.options, memory,
                                            progress);
        if (most_batch > model->max_step_rows())
            fail(Code::invalid_argument, "batch is ", most_batch, " and a step of ", model->device(), " has at most ",
                 model->max_step_rows(), " rows");
    }
    if (progress && !progress(0, "measuring the machine's limits"))
        fail(Code::cancelled, "the measurement was cancelled");
    if (const kernels::Status status = kernels::measure_limits(threads, &result.limits); !status.ok())
        fail(Code(status.code), "the machine's limits: ", status.message);
    if (limits_alone) {
        std::unique_ptr<kernels::Device> device;
        if (kernels::make_cpu_device(threads, &device).ok()) result.device = device->describe();
        return result;
    }
    result.device = model->device();
    const kernels::Compute compute = request.options.compute;
    std::vector<double> gb_per_s;
    std::string device_name;
    for (const std::string& name : model->device_names()) {
        device_name += (device_name.empty() ? "" : "+") + name;
        gb_per_s.push_back(name == "cpu" ? result.limits.read_gb_per_s : cuda_bandwidth(name, result.cuda));
    }
    const double peak = !result.cuda.empty()                                        ? 0
                        : compute == kernels::Compute::exact || !model->quantised() ? result.limits.fp32_gflops
                        : compute == kernels::Compute::fast                         ? result.limits.int8_gops
                                                                                    : result.limits.int16_gops;

    Pace pace(progress);
    pace.expect(double(request.depth) * most_batch * Measurement::prefill_work);
    pace.expect(double(request.pp) * (request.repeat + 1) * Measurement::prefill_work);
    for (const int32_t b : request.batch) pace.expect((double(request.tg) * request.repeat + warm_up_tokens) * b);
    Measurement measurement(*model, request, blocks_each, pace);
    pace.begin("filling the cache");
    for (int32_t s = 0; s < most_batch && request.depth > 0; ++s) measurement.prefill(s, 0, request.depth);

    const auto row_of = [&](const char* test, int32_t tokens, int32_t batch) {
        BenchRow row;
        row.shape = model->name();
        row.device = device_name;
        row.bits = model->bits();
        row.threads = threads;
        row.batch = batch;
        row.depth = request.depth;
        row.test = concat(test, tokens);
        return row;
    };
    const auto add_row = [&](const BenchRow& row) {
        result.rows.push_back(row);
        if (on_row) on_row(row);
    };
    if (request.pp > 0) {
        BenchRow row = row_of("pp", request.pp, 1);
        const auto work = [&] { measurement.prefill(0, request.depth, request.pp); };
        measurement.measure(row, request.pp, work, work);
        const int32_t chunk = std::min(measurement.chunk(), request.pp);
        add_shares(row, model->cost(chunk, request.depth + request.pp / 2.0, true), chunk, gb_per_s, peak);
        add_row(row);
    }
    for (const int32_t b : request.batch) {
        if (request.tg == 0) break;
        BenchRow row = row_of("tg", request.tg, b);
        measurement.measure(
            row, double(request.tg) * b,
            [&] { measurement.decode(b, request.depth, std::min(request.tg, warm_up_tokens)); },
            [&] { measurement.decode(b, request.depth, request.tg); });
        add_shares(row, model->cost(b, request.depth + request.tg / 2.0, false), b, gb_per_s, peak);
        add_row(row);
    }
    return result;
}

}  // namespace quantplug::engine
