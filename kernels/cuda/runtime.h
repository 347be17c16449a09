// What the CUDA room asks of the CUDA runtime, in types of its own: runtime.cu answers with the runtime,
// shim/runtime.cpp with the CPU. No other file calls either.
//
// A sticky fault (an illegal address, a lost device ...) is final for the process: the first one is kept, every later
// call answers UNAVAILABLE and names it. Nothing ever resets a device: a host may use it too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "kernels/status.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

struct DeviceFacts {
    std::string name;              // "NVIDIA H200"
    int32_t major = 0, minor = 0;  // compute capability
    int32_t n_multiprocessors = 0;
    uint64_t memory_bytes = 0, l2_bytes = 0;
    int32_t shared_bytes_per_block = 0;  // with the opt-in
    int32_t driver = 0, runtime = 0;     // 13000 = CUDA 13.0
};

struct Extent {
    uint32_t x = 1, y = 1, z = 1;
};

using StreamHandle = struct StreamBody*;
using EventHandle = struct EventBody*;
using GraphHandle = struct GraphBody*;

/// UNAVAILABLE with one sentence where there is no driver, a driver older than the runtime, or no card.
Status count_devices(int32_t* n);
Status device_facts(int32_t ordinal, DeviceFacts* out);
Status memory_info(uint64_t* free_bytes, uint64_t* total_bytes);  // of the current device

/// The thread's current device while it lives; then the one that was.
class UseDevice {
 public:
    explicit UseDevice(int32_t ordinal);
    ~UseDevice();
    UseDevice(const UseDevice&) = delete;
    UseDevice& operator=(const UseDevice&) = delete;
    const Status& status() const { return status_; }

 private:
    int32_t before_ = -1;
    Status status_;
};

// ---------------------------------------------------------------- memory. Aligned to 256 bytes; content undefined.
Status allocate(uint64_t bytes, void** out);       // RESOURCE_EXHAUSTED, no fault
void release(void* p);                             // waits for the device
Status allocate_host(uint64_t bytes, void** out);  // pinned
void release_host(void* p);

// ---------------------------------------------------------------- streams: everything below is asynchronous but for
// what waits
bool native_streams();  // a StreamHandle is a cudaStream_t: not in the shim
Status create_stream(StreamHandle* out);
void destroy_stream(StreamHandle stream);
Status copy_to_device(StreamHandle stream, void* device, const void* host,
                      uint64_t bytes);  // host memory stays until then
Status copy_to_host(StreamHandle stream, void* host, const void* device, uint64_t bytes);
Status copy_on_device(StreamHandle stream, void* to, const void* from, uint64_t bytes);
Status fill(StreamHandle stream, void* device, uint8_t value, uint64_t bytes);
Status synchronize(StreamHandle stream);

Status create_event(EventHandle* out);
void destroy_event(EventHandle event);
Status record(EventHandle event, StreamHandle stream);
Status wait_event(EventHandle event);  // the calling thread waits
Status query_event(EventHandle event, bool* finished);
Status elapsed_ms(EventHandle from, EventHandle to, float* ms);  // both finished

// ---------------------------------------------------------------- graphs: launches and copies between begin and end
Status begin_capture(StreamHandle stream);
Status end_capture(StreamHandle stream, GraphHandle* out);  // out null: what was captured is dropped
Status launch_graph(GraphHandle graph, StreamHandle stream);
void destroy_graph(GraphHandle graph);

/// What launch.h hands over. `arguments`: pointers to the kernel's arguments, copied before it returns.
/// `dependent`: programmatic dependent launch where the device has it.
struct KernelLaunch {
    const void* kernel = nullptr;
    const char* name = nullptr;
    Extent grid, block;
    size_t shared_bytes = 0;
    bool dependent = true;
};
Status launch_kernel(StreamHandle stream, const KernelLaunch& launch, void** arguments);

/// The launches of a step: after the first error the rest does nothing.
class Queue {
 public:
    Queue() = default;
    explicit Queue(StreamHandle stream) : stream_(stream) {}

    StreamHandle stream() const { return stream_; }
    const Status& status() const { return status_; }
    bool ok() const { return status_.ok(); }
    void keep(Status status) {
        if (status_.ok() && !status.ok()) status_ = std::move(status);
    }
    Status take_status() { return std::exchange(status_, Status{}); }

    bool dependent_launch = true;  // off: for comparisons

 private:
    StreamHandle stream_ = nullptr;
    Status status_;
};

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
