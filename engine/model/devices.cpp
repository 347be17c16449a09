#include "engine/model/devices.h"

#include <algorithm>
#include <filesystem>

#include "engine/base/error.h"
#include "engine/model/divide.h"
#include "engine/model/memory.h"
#include "engine/model/weights.h"

namespace quantplug::engine {

namespace {

using kernels::Status;

constexpr int32_t least_auto_context = 4096;  // a model that has less room on the card is not put there unasked

uint64_t add(uint64_t a, uint64_t b) { return a + b < a ? UINT64_MAX : a + b; }

bool is_gpu(const std::string& name) { return name != "cpu"; }

/// "cpu", "cuda:0", ... of the option; "cuda" is "cuda:0". Empty: auto.
std::vector<std::string> parse_devices(const std::string& option) {
    if (option == "auto") return {};
    const auto unknown = [&](const std::string& name) {
        fail(Code::invalid_argument, "device ", name.substr(0, 64),
             " is unknown; auto, cpu, cuda[:N] and lists like cuda:0,cuda:1 are");
    };
    std::vector<std::string> names;
    for (size_t begin = 0; begin <= option.size();) {
        const size_t end = std::min(option.find(',', begin), option.size());
        std::string name = option.substr(begin, end - begin);
        if (name == "cuda") name = "cuda:0";
        const std::string number = name.rfind("cuda:", 0) == 0 ? name.substr(5) : "";
        const bool ordinal =
            !number.empty() && number.size() <= 3 && number.find_first_not_of("0123456789") == std::string::npos;
        if (name != "cpu" && !ordinal) unknown(name.empty() ? option : name);
        names.push_back(ordinal ? concat("cuda:", std::stoi(number)) : name);
        begin = end + 1;
    }
    const size_t n_gpus = size_t(std::count_if(names.begin(), names.end(), is_gpu));
    if (n_gpus > 0 && (std::any_of(names.begin() + 1, names.end(), [](const std::string& n) { return !is_gpu(n); })))
        fail(Code::invalid_argument, "device ", option.substr(0, 64),
             ": beside CUDA devices there is one cpu, and it comes first");
    return names;
}

Devices make_devices(const std::vector<std::string>& names, int32_t gpu_layers, const LoadOptions& options) {
    Devices out;
    out.names = names;
    out.gpu_layers = gpu_layers;
    if (out.any_gpu() && options.compute != kernels::Compute::standard)
        fail(Code::unimplemented, "compute ", options.compute == kernels::Compute::exact ? "exact" : "fast",
             " is for the CPU alone and the device is ", *std::find_if(names.begin(), names.end(), is_gpu),
             "; take compute default or device cpu");
    std::vector<std::unique_ptr<kernels::Device>> stages;
    for (const std::string& name : names) {
        std::unique_ptr<kernels::Device> device;
        const Status status = is_gpu(name) ? options.makers.make_cuda(std::stoi(name.substr(5)), &device)
                                           : kernels::make_cpu_device(options.threads, &device);
        if (!status.ok()) fail(Code(status.code), is_gpu(name) ? "device " + name + ": " : "", status.message);
        stages.push_back(std::move(device));
    }
    if (const Status status = kernels::make_split_device(std::move(stages), &out.device); !status.ok())
        fail(Code(status.code), status.message);
    out.device->set_deterministic(options.deterministic);
    return out;
}

/// With gpu_layers applied: the CPU has the layers that are left.
Devices make_named(std::vector<std::string> names, int32_t n_layers, const LoadOptions& options) {
    const int32_t gpu_layers = options.gpu_layers;
    const int32_t n_gpus = int32_t(std::count_if(names.begin(), names.end(), is_gpu));
    if (gpu_layers > 0 && n_gpus == 0)
        fail(Code::invalid_argument, "gpu_layers is ", gpu_layers,
             " and the device is cpu; name a CUDA device with them");
    if (n_gpus > 0 && gpu_layers == 0) names = {"cpu"};
    if (n_gpus > 0 && gpu_layers > 0) {
        if (!is_gpu(names.front())) names.erase(names.begin());
        if (gpu_layers < n_layers) names.insert(names.begin(), "cpu");
        if (gpu_layers < n_gpus)
            fail(Code::invalid_argument, "gpu_layers is ", gpu_layers, " for ", n_gpus,
                 " CUDA devices; each takes at least one layer");
    }
    if (int32_t(names.size()) > n_layers)
        fail(Code::invalid_argument, "device names ", names.size(), " devices and the model has ", n_layers,
             " layers; each takes at least one");
    return make_devices(names, gpu_layers, options);
}

bool has_card(const DeviceMakers& makers) {
    if (makers.has_card) return makers.has_card();
    std::error_code ignored;
    return std::filesystem::exists("/dev/nvidia0", ignored);
}

/// Bytes of the model's layers and ends on one part, were they there.
DeviceLoad load_of(Devices& devices, int32_t part, const Decoder& decoder, const kernels::ModelSpec& spec,
                   const StepNeeds& needs, uint64_t host_available) {
    kernels::Device& device = *devices.device;
    device.select(part);
    DeviceLoad load;
    kernels::ModelSpec one = spec;  // what a layer's cache takes
    one.layers.resize(1);
    one.layers[0].device = part;
    load.layers.assign(spec.layers.size(), device.kv_bytes(one, needs.kv));
    for_each_weight(decoder, device, part, [&](int32_t layer, uint64_t bytes) {
        uint64_t& sum = layer >= 0 ? load.layers[size_t(layer)] : load.fixed;
        sum = add(sum, bytes);
    });
    load.fixed = add(load.fixed, device.scratch_bytes(one, devices.max_rows(), needs.max_wanted));
    const std::string& name = devices.names[size_t(part)];
    const uint64_t sharing = uint64_t(std::count(devices.names.begin(), devices.names.end(), name));
    const uint64_t room =
        is_gpu(name) ? device.free_memory().value_or(0) : host_available - std::min(host_available, needs.other);
    load.room = room / sharing;
    return load;
}

void divide(Devices& devices, Decoder& decoder, const kernels::ModelSpec& spec, const StepNeeds& needs,
            uint64_t host_available) {
    const size_t n_layers = spec.layers.size(), n_parts = devices.names.size();
    std::vector<int32_t> part_of(n_layers, 0);
    if (n_parts > 1) {
        std::vector<DeviceLoad> loads;
        for (size_t part = 0; part < n_parts; ++part)
            loads.push_back(load_of(devices, int32_t(part), decoder, spec, needs, host_available));
        if (is_gpu(devices.names.front()) || !devices.any_gpu()) {
            divide_layers(loads, 0, n_layers, part_of);
        } else {
            const std::span<const DeviceLoad> gpus = std::span(loads).subspan(1);
            std::vector<int32_t> of_gpus(n_layers, 0);
            const auto try_last = [&](size_t n) {
                return divide_layers(gpus, n_layers - n, n, std::span(of_gpus).first(n)) <= 1;
            };
            size_t n = gpus.size();
            if (devices.gpu_layers >= 0) {
                n = size_t(devices.gpu_layers);
            } else {
                size_t most = n_layers - 1;
                while (n < most) {
                    const size_t middle = (n + most + 1) / 2;
                    if (try_last(middle))
                        n = middle;
                    else
                        most = middle - 1;
                }
            }
            try_last(n);
            for (size_t i = 0; i < n; ++i) part_of[n_layers - n + i] = of_gpus[i] + 1;
        }
    }
    for (size_t i = 0; i < n_layers; ++i) decoder.spec.layers[i].device = part_of[i];
}

}  // namespace

bool Devices::any_gpu() const { return std::any_of(names.begin(), names.end(), is_gpu); }
bool Devices::all_gpu() const { return std::all_of(names.begin(), names.end(), is_gpu); }
int32_t Devices::max_rows() const { return std::min(device->max_rows(), step_rows_limit); }

uint64_t PartPlan::total() const { return add(add(weights, kv_cache), scratch); }
uint64_t MemoryPlan::total() const { return add(add(weights, kv_cache), add(scratch, other)); }
uint64_t MemoryPlan::Pool::total() const { return add(add(weights, kv_cache), add(scratch, other)); }

std::vector<MemoryPlan::Pool> MemoryPlan::pools() const {
    std::vector<Pool> out(1);
    out[0].device = "cpu";
    out[0].other = other;
    out[0].free = host_available;
    for (const PartPlan& part : parts) {
        auto pool = std::find_if(out.begin(), out.end(), [&](const Pool& p) { return p.device == part.device; });
        if (pool == out.end()) {
            pool = out.insert(out.end(), Pool{});
            pool->device = part.device;
            pool->free = part.free;
        }
        pool->weights = add(pool->weights, part.weights);
        pool->kv_cache = add(pool->kv_cache, part.kv_cache);
        pool->scratch = add(pool->scratch, part.scratch);
    }
    return out;
}

bool MemoryPlan::fits() const {
    const std::vector<Pool> all = pools();
    return std::all_of(all.begin(), all.end(), [](const Pool& pool) { return pool.fits(); });
}

MemoryPlan plan_parts(Devices& devices, Decoder& decoder, const StepNeeds& needs) {
    MemoryPlan plan;
    plan.other = needs.other;
    plan.host_available = available_memory();
    kernels::ModelSpec spec = decoder.spec;
    spec.max_positions = needs.positions;
    spec.compute = needs.compute;
    divide(devices, decoder, spec, needs, plan.host_available);
    spec.layers = decoder.spec.layers;

    kernels::Device& device = *devices.device;
    uint64_t largest = 0;
    for (int32_t part = 0; part < device.n_parts(); ++part) {
        device.select(part);
        PartPlan one;
        one.device = devices.names[size_t(part)];
        one.n_layers = int32_t(std::count_if(spec.layers.begin(), spec.layers.end(),
                                             [&](const kernels::LayerSpec& layer) { return layer.device == part; }));
        one.weights = weight_bytes(decoder, device, part);
        one.kv_cache = device.kv_bytes(spec, needs.kv);
        one.scratch = device.scratch_bytes(spec, devices.max_rows(), needs.max_wanted);
        one.free = plan.host_available;
        if (is_gpu(one.device)) {
            one.free = std::max<uint64_t>(1, device.free_memory().value_or(0));  // 0 would be: unknown
            largest = std::max(largest, largest_weight_bytes(decoder, device, part));
        }
        plan.weights = add(plan.weights, one.weights);
        plan.kv_cache = add(plan.kv_cache, one.kv_cache);
        plan.scratch = add(plan.scratch, one.scratch);
        plan.parts.push_back(std::move(one));
    }
    device.select(0);
    plan.other = add(plan.other, largest);  // a matrix is packed on the host before it goes to a card
    for (const MemoryPlan::Pool& pool : plan.pools()) plan.available = add(plan.available, pool.free);
    return plan;
}

namespace {

/// "needs 900 MiB on cuda:0 and 500 MiB are free" of the first that is too small.
std::string shortage(const MemoryPlan& plan) {
    for (const MemoryPlan::Pool& pool : plan.pools()) {
        if (!pool.fits())
            return concat("the model needs ", pool.total() >> 20, " MiB on ", pool.device, " and ", pool.free >> 20,
                          " MiB are free");
    }
    return concat("the model has room for a context of ", plan.ctx, " tokens only");
}

}  // namespace

ChosenDevices choose_devices(Decoder& decoder, const LoadOptions& options,
                             const std::function<MemoryPlan(Devices&, const Log&)>& plan_for, const Log& log) {
    const int32_t n_layers = int32_t(decoder.spec.layers.size());
    const auto planned = [&](Devices devices) {
        MemoryPlan plan = plan_for(devices, log);
        return ChosenDevices{std::move(devices), std::move(plan)};
    };
    const std::vector<std::string> names = parse_devices(options.device);
    if (!names.empty()) return planned(make_named(names, n_layers, options));

    const auto on_cpu = [&](const std::string& reason) {
        if (!reason.empty() && log) log(concat("device auto: ", reason, "; computing on the CPU"));
        return planned(make_devices({"cpu"}, -1, options));
    };
    if (options.compute != kernels::Compute::standard || options.gpu_layers == 0) return on_cpu("");
    const std::vector<std::string> cards = options.makers.cuda_devices();
    if (cards.empty()) {
        if (!has_card(options.makers))
            return on_cpu(options.gpu_layers > 0
                              ? concat("gpu_layers is ", options.gpu_layers, " and there is no CUDA device")
                              : "");
        std::unique_ptr<kernels::Device> none;
        const Status status = options.makers.make_cuda(0, &none);
        return on_cpu(status.ok() ? "the card does not answer" : status.message);
    }
    std::string reason;
    try {
        if (options.gpu_layers > 0) return planned(make_named({"cuda:0"}, n_layers, options));
        std::vector<std::vector<std::string>> candidates = {{"cuda:0"}};
        if (cards.size() > 1 && int32_t(cards.size()) <= n_layers) {
            candidates.emplace_back();
            for (size_t i = 0; i < cards.size(); ++i) candidates.back().push_back(concat("cuda:", i));
        }
        const int32_t least_ctx = std::min(decoder.spec.max_positions, least_auto_context);
        for (const std::vector<std::string>& candidate : candidates) {
            std::vector<std::string> lines;
            Devices devices = make_devices(candidate, -1, options);
            MemoryPlan plan = plan_for(devices, [&](const std::string& line) { lines.push_back(line); });
            if (plan.fits() && (options.ctx > 0 || options.cache_tokens > 0 || plan.ctx >= least_ctx)) {
                for (const std::string& line : lines)
                    if (log) log(line);
                return {std::move(devices), std::move(plan)};
            }
            if (reason.empty()) reason = shortage(plan);
        }
        // What would fit beside the CPU.
        if (n_layers > 1) {
            Devices both = make_devices({"cpu", "cuda:0"}, -1, options);
            const MemoryPlan plan = plan_for(both, {});
            reason += plan.fits() ? concat("; ", plan.parts[1].n_layers, " of its ", n_layers,
                                           " layers would fit: --option gpu_layers=", plan.parts[1].n_layers)
                                  : "; not one of its layers would fit";
        }
    } catch (const Error& error) {
        // A card that cannot be used is no reason not to load.
        if (error.code() != Code::unavailable) throw;
        reason = error.what();
    }
    return on_cpu(reason);
}

}  // namespace quantplug::engine
