// The CUDA runtime's part in the shim: device memory is the host's, of exactly the size that was asked for and
// poisoned; work waits on its stream until somebody waits for it, and then runs on that thread. What the real runtime
// refuses is refused: calls that a capture forbids, a launch on another device's stream, an event of another device.
#include "kernels/cuda/runtime.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/cuda/messages.h"
#include "kernels/cuda/shim/launch.h"
#include "kernels/cuda/shim/simt.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// A kernel, or a copy or the like (grid.body null).
struct ShimWork {
    std::function<void()> action;  // of a kernel: for every thread
    simt::GridLaunch grid;
};
using Work = std::shared_ptr<const ShimWork>;

struct GraphBody {
    std::vector<Work> work;
    int32_t device = 0;
};

struct StreamBody {
    int32_t device = 0;
    std::deque<Work> waiting;
    uint64_t issued = 0, finished = 0;
    bool capturing = false;
    const char* spoilt = nullptr;  // the call that a capture forbids
    std::vector<Work> captured;
};

struct EventBody {
    struct Time {
        std::chrono::steady_clock::time_point value;
    };
    int32_t device = 0;
    std::shared_ptr<StreamBody> stream;  // null: never recorded
    uint64_t position = 0;               // in the stream's work
    std::shared_ptr<Time> time;

    bool finished() const { return !stream || stream->finished >= position; }
};

namespace {

constexpr int32_t runtime_version = 13000;

struct Allocation {
    int32_t device;
    uint64_t bytes;
};

struct Process {
    std::mutex mutex;
    ShimSettings settings;
    std::map<void*, Allocation> memory;
    std::map<void*, uint64_t> host_memory;
    std::vector<std::shared_ptr<StreamBody>> streams;
    uint64_t allocated = 0, launches = 0;
};
Process& process() {
    static Process& one = *new Process;  // never destroyed: threads may outlive main
    return one;
}
FirstFault first_fault;
thread_local int32_t current_device = 0;
thread_local StreamBody* capture = nullptr;  // of this thread

/// Every call begins with it, under the mutex.
Status enter(const char* call) {
    int64_t& countdown = process().settings.fault_at_call;
    if (countdown >= 0 && countdown-- == 0)
        first_fault.keep(current_device, call, "cudaErrorIllegalAddress (an illegal memory access was encountered)");
    return first_fault.status();
}
/// Also for calls that a capture on this thread forbids: they spoil it.
Status enter_uncaptured(const char* call) {
    Status status = enter(call);
    if (status.ok() && capture) {
        capture->spoilt = call;
        status = Status::error(failed_precondition, std::string(call) + " during the capture of a graph");
    }
    return status;
}

simt::GridLaunch numbered(const ShimWork& work, uint64_t launch) {
    simt::GridLaunch grid = work.grid;
    grid.seed = (process().settings.seed << 32) + launch;
    return grid;
}
void run_until(StreamBody& stream, uint64_t position) {
    while (stream.finished < position) {
        const Work work = std::move(stream.waiting.front());
        stream.waiting.pop_front();
        if (!first_fault.there() && work->grid.body) {
            const uint64_t launch = ++process().launches;
            if (stream.finished + 1 < position && stream.waiting.front()->grid.body)
                simt::start_early(numbered(*stream.waiting.front(), launch + 1));
            simt::run_grid(numbered(*work, launch));
        } else if (!first_fault.there() && work->action) {
            work->action();
        }
        ++stream.finished;
    }
}
void run_device(int32_t device) {
    for (const auto& stream : process().streams)
        if (stream->device == device) run_until(*stream, stream->issued);
}
void push(StreamBody& stream, Work work) {
    if (stream.capturing) {
        stream.captured.push_back(std::move(work));
        return;
    }
    stream.waiting.push_back(std::move(work));
    ++stream.issued;
    if (!process().settings.deferred) run_until(stream, stream.issued);
}
void push(StreamBody& stream, std::function<void()> action) {
    push(stream, std::make_shared<const ShimWork>(ShimWork{std::move(action), {}}));
}

Status copy(const char* call, StreamHandle stream, void* to, const void* from, uint64_t bytes) {
    const std::lock_guard lock(process().mutex);
    Status status = enter(call);
    if (status.ok() && bytes) push(*stream, [=] { std::memcpy(to, from, bytes); });
    return status;
}

int32_t shared_limit(const ShimSettings& settings) {
    switch (settings.major * 10 + settings.minor) {
        case 75:
            return 64 << 10;
        case 80:
        case 87:
            return 163 << 10;
        case 90:
        case 100:
            return 227 << 10;
        default:
            return 99 << 10;
    }
}

}  // namespace

// ---------------------------------------------------------------- devices
ShimSettings& shim_settings() { return process().settings; }
uint64_t shim_allocated_bytes() {
    const std::lock_guard lock(process().mutex);
    return process().allocated;
}
uint64_t shim_launches() {
    const std::lock_guard lock(process().mutex);
    return process().launches;
}
void reset_shim() {
    const std::lock_guard lock(process().mutex);
    if (process().allocated || !process().host_memory.empty()) simt::die("reset_shim while memory is allocated");
    process().settings = {};
    first_fault.forget();
}

namespace {
Status count(int32_t* n) {
    const ShimSettings& settings = process().settings;
    *n = 0;
    if (settings.driver == 0) return no_driver();
    if (settings.driver / 1000 < runtime_version / 1000) return driver_too_old(settings.driver, runtime_version);
    if (settings.n_devices == 0) return no_card();
    *n = settings.n_devices;
    return {};
}
}  // namespace

Status count_devices(int32_t* n) {
    const std::lock_guard lock(process().mutex);
    *n = 0;
    Status status = enter("count_devices");
    return status.ok() ? count(n) : status;
}

Status device_facts(int32_t ordinal, DeviceFacts* out) {
    const std::lock_guard lock(process().mutex);
    Status status = enter("device_facts");
    int32_t n = 0;
    if (status.ok()) status = count(&n);
    if (!status.ok()) return status;
    if (ordinal < 0 || ordinal >= n) return no_such_card(ordinal, n);
    const ShimSettings& settings = process().settings;
    out->name = "CPU shim";
    out->major = settings.major;
    out->minor = settings.minor;
    out->n_multiprocessors = 4;
    out->memory_bytes = settings.memory_bytes;
    out->l2_bytes = uint64_t(32) << 20;
    out->shared_bytes_per_block = shared_limit(settings);
    out->driver = settings.driver;
    out->runtime = runtime_version;
    return settings.major * 10 + settings.minor < 75 ? card_too_old(ordinal, *out) : Status{};
}

Status memory_info(uint64_t* free_bytes, uint64_t* total_bytes) {
    const std::lock_guard lock(process().mutex);
    Status status = enter("memory_info");
    uint64_t used = 0;
    for (const auto& [p, allocation] : process().memory)
        if (allocation.device == current_device) used += allocation.bytes;
    *total_bytes = process().settings.memory_bytes;
    *free_bytes = used < *total_bytes ? *total_bytes - used : 0;
    return status;
}

UseDevice::UseDevice(int32_t ordinal) {
    const std::lock_guard lock(process().mutex);
    status_ = enter("UseDevice");
    int32_t n = 0;
    if (status_.ok()) status_ = count(&n);
    if (!status_.ok()) return;
    if (ordinal < 0 || ordinal >= n) {
        status_ = no_such_card(ordinal, n);
        return;
    }
    before_ = current_device;
    current_device = ordinal;
}
UseDevice::~UseDevice() {
    if (before_ >= 0) current_device = before_;
}

// ---------------------------------------------------------------- memory
namespace {
Status obtain(uint64_t bytes, const char* of, void** out) {
    *out = nullptr;
    int64_t& countdown = process().settings.fail_allocation;
    if (countdown >= 0 && countdown-- == 0) return no_memory(bytes, of);
    if (bytes == 0) return {};
    if (posix_memalign(out, 256, bytes) != 0) return no_memory(bytes, of);
    std::memset(*out, 0xff, bytes);  // NaN in any float
    return {};
}
}  // namespace

Status allocate(uint64_t bytes, void** out) {
    const std::lock_guard lock(process().mutex);
    *out = nullptr;
    Status status = enter_uncaptured("allocate");
    if (!status.ok()) return status;
    uint64_t used = bytes;
    for (const auto& [p, allocation] : process().memory)
        if (allocation.device == current_device) used += allocation.bytes;
    if (used > process().settings.memory_bytes) return no_memory(bytes, "device memory");
    status = obtain(bytes, "device memory", out);
    if (*out) {
        process().memory[*out] = {current_device, bytes};
        process().allocated += bytes;
    }
    return status;
}
void release(void* p) {
    if (!p) return;
    const std::lock_guard lock(process().mutex);
    const auto found = process().memory.find(p);
    if (found == process().memory.end()) simt::die("release of what is not allocated");
    if (capture) capture->spoilt = "release";
    run_device(found->second.device);
    process().allocated -= found->second.bytes;
    process().memory.erase(found);
    std::free(p);
}
Status allocate_host(uint64_t bytes, void** out) {
    const std::lock_guard lock(process().mutex);
    *out = nullptr;
    Status status = enter_uncaptured("allocate_host");
    if (status.ok()) status = obtain(bytes, "pinned host memory", out);
    if (*out) process().host_memory[*out] = bytes;
    return status;
}
void release_host(void* p) {
    if (!p) return;
    const std::lock_guard lock(process().mutex);
    if (process().host_memory.erase(p) == 0) simt::die("release_host of what is not allocated");
    for (const auto& stream : process().streams) run_until(*stream, stream->issued);
    std::free(p);
}

// ---------------------------------------------------------------- streams
bool native_streams() { return false; }
Status create_stream(StreamHandle* out) {
    const std::lock_guard lock(process().mutex);
    *out = nullptr;
    Status status = enter("create_stream");
    if (!status.ok()) return status;
    auto stream = std::make_shared<StreamBody>();
    stream->device = current_device;
    *out = stream.get();
    process().streams.push_back(std::move(stream));
    return {};
}
namespace {
std::vector<std::shared_ptr<StreamBody>>::iterator find_stream(StreamHandle stream) {
    auto& streams = process().streams;
    const auto found = std::find_if(streams.begin(), streams.end(), [&](const auto& s) { return s.get() == stream; });
    if (found == streams.end()) simt::die("a stream that does not exist");
    return found;
}
}  // namespace
void destroy_stream(StreamHandle stream) {
    if (!stream) return;
    const std::lock_guard lock(process().mutex);
    const auto found = find_stream(stream);
    run_until(*stream, stream->issued);
    if (capture == stream) capture = nullptr;
    process().streams.erase(found);
}
Status copy_to_device(StreamHandle stream, void* device, const void* host, uint64_t bytes) {
    return copy("copy_to_device", stream, device, host, bytes);
}
Status copy_to_host(StreamHandle stream, void* host, const void* device, uint64_t bytes) {
    return copy("copy_to_host", stream, host, device, bytes);
}
Status copy_on_device(StreamHandle stream, void* to, const void* from, uint64_t bytes) {
    return copy("copy_on_device", stream, to, from, bytes);
}
Status fill(StreamHandle stream, void* device, uint8_t value, uint64_t bytes) {
    const std::lock_guard lock(process().mutex);
    Status status = enter("fill");
    if (status.ok() && bytes) push(*stream, [=] { std::memset(device, value, bytes); });
    return status;
}
Status synchronize(StreamHandle stream) {
    const std::lock_guard lock(process().mutex);
    Status status = enter_uncaptured("synchronize");
    if (status.ok()) run_until(*stream, stream->issued);
    return status;
}

// ---------------------------------------------------------------- events
Status create_event(EventHandle* out) {
    const std::lock_guard lock(process().mutex);
    *out = nullptr;
    Status status = enter("create_event");
    if (!status.ok()) return status;
    *out = new EventBody;
    (*out)->device = current_device;
    return {};
}
void destroy_event(EventHandle event) {
    const std::lock_guard lock(process().mutex);
    delete event;
}
Status record(EventHandle event, StreamHandle stream) {
    const std::lock_guard lock(process().mutex);
    Status status = enter("record");
    if (!status.ok()) return status;
    if (stream->capturing) {
        stream->spoilt = "record";
        return Status::error(failed_precondition, "record during the capture of a graph");
    }
    if (event->device != stream->device)
        return Status::error(invalid_argument, "record of an event of cuda:" + std::to_string(event->device) +
                                                   " on a stream of cuda:" + std::to_string(stream->device));
    event->stream = *find_stream(stream);
    event->time = std::make_shared<EventBody::Time>();
    event->position = stream->issued + 1;
    push(*stream, [time = event->time] { time->value = std::chrono::steady_clock::now(); });
    return {};
}
Status wait_event(EventHandle event) {
    const std::lock_guard lock(process().mutex);
    Status status = enter_uncaptured("wait_event");
    if (status.ok() && !event->finished()) run_until(*event->stream, event->position);
    return status;
}
/// Unfinished work is done behind the first answer, so that a loop that asks sees both.
Status query_event(EventHandle event, bool* finished) {
    const std::lock_guard lock(process().mutex);
    *finished = false;
    Status status = enter_uncaptured("query_event");
    if (!status.ok()) return status;
    *finished = event->finished();
    if (!*finished) run_until(*event->stream, event->position);
    return {};
}
Status elapsed_ms(EventHandle from, EventHandle to, float* ms) {
    const std::lock_guard lock(process().mutex);
    *ms = 0;
    Status status = enter("elapsed_ms");
    if (!status.ok()) return status;
    if (!from->time || !to->time || !from->finished() || !to->finished())
        return Status::error(failed_precondition, "elapsed_ms of an event that has not finished");
    *ms = std::chrono::duration<float, std::milli>(to->time->value - from->time->value).count();
    return {};
}

// ---------------------------------------------------------------- graphs
Status begin_capture(StreamHandle stream) {
    const std::lock_guard lock(process().mutex);
    Status status = enter("begin_capture");
    if (!status.ok()) return status;
    if (capture || stream->capturing)
        return Status::error(failed_precondition, "begin_capture during the capture of a graph");
    capture = stream;
    stream->capturing = true;
    stream->spoilt = nullptr;
    stream->captured.clear();
    return {};
}
Status end_capture(StreamHandle stream, GraphHandle* out) {
    const std::lock_guard lock(process().mutex);
    if (out) *out = nullptr;
    Status status = enter("end_capture");
    if (!stream->capturing || capture != stream)
        return status.ok() ? Status::error(failed_precondition, "end_capture without begin_capture on this thread")
                           : status;
    capture = nullptr;
    stream->capturing = false;
    std::vector<Work> work = std::exchange(stream->captured, {});
    if (!status.ok() || !out) return status;
    if (stream->spoilt)
        return Status::error(failed_precondition,
                             std::string("the capture of a graph was spoilt by ") + stream->spoilt);
    *out = new GraphBody;
    (*out)->work = std::move(work);
    (*out)->device = stream->device;
    return {};
}
Status launch_graph(GraphHandle graph, StreamHandle stream) {
    const std::lock_guard lock(process().mutex);
    Status status = enter("launch_graph");
    if (!status.ok()) return status;
    if (graph->device != stream->device)
        return Status::error(invalid_argument, "launch_graph of cuda:" + std::to_string(graph->device) +
                                                   " on a stream of cuda:" + std::to_string(stream->device));
    // No kernel of a graph starts before everything ahead of the graph has ended.
    push(*stream, std::function<void()>());
    for (const Work& one : graph->work) push(*stream, one);
    push(*stream, std::function<void()>());
    return {};
}
void destroy_graph(GraphHandle graph) {
    const std::lock_guard lock(process().mutex);
    delete graph;
}

// ---------------------------------------------------------------- kernels
Status shim_launch(StreamHandle stream, const char* name, Extent grid, Extent block, size_t shared_bytes,
                   std::function<void()> body) {
    const std::lock_guard lock(process().mutex);
    Status status = enter(name);
    if (!status.ok()) return status;
    const auto refuse = [&](const std::string& what) {
        return Status::error(internal, std::string("kernel ") + name + ": " + what);
    };
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return refuse("a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
                      std::to_string(grid.z));
    const uint64_t threads = uint64_t(block.x) * block.y * block.z;
    if (threads == 0 || threads > 1024 || block.z > 64)
        return refuse("a block of " + std::to_string(threads) + " threads");
    if (shared_bytes > size_t(shared_limit(process().settings)))
        return refuse(std::to_string(shared_bytes) + " bytes of shared memory");
    if (stream->device != current_device) return refuse("a stream of another device");
    auto work = std::make_shared<ShimWork>();
    work->action = std::move(body);
    work->grid = {name,
                  {grid.x, grid.y, grid.z},
                  {block.x, block.y, block.z},
                  shared_bytes,
                  0,
                  [](const void* f) { (*static_cast<const std::function<void()>*>(f))(); },
                  &work->action};
    push(*stream, Work(std::move(work)));
    return {};
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
