// runtime.h on the CUDA runtime, which is linked statically: no other copy of it in the process is touched, and without
// a driver its first call says so.
#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <utility>

#include "kernels/cuda/messages.h"
#include "kernels/cuda/runtime.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

__global__ void probe() {}  // tells whether this build has code for a device

FirstFault first_fault;
// A fault shows in whatever call comes next: the kernel started last is the better hint. Names are literals.
std::atomic<const char*> last_kernel{"none"};

int32_t current_device() {
    int device = -1;
    return cudaGetDevice(&device) == cudaSuccess ? device : -1;
}

/// What a later call would meet again, in CUDA's words "the process must be terminated and relaunched", or a device
/// that is gone. Everything else leaves the context as it was.
bool is_sticky(cudaError_t error) {
    switch (error) {
        case cudaErrorIllegalAddress:
        case cudaErrorLaunchFailure:
        case cudaErrorLaunchTimeout:
        case cudaErrorHardwareStackError:
        case cudaErrorIllegalInstruction:
        case cudaErrorMisalignedAddress:
        case cudaErrorInvalidAddressSpace:
        case cudaErrorInvalidPc:
        case cudaErrorAssert:
        case cudaErrorECCUncorrectable:
        case cudaErrorNvlinkUncorrectable:
        case cudaErrorMpsClientTerminated:
        case cudaErrorExternalDevice:
        case cudaErrorDevicesUnavailable:
        case cudaErrorDeviceUninitialized:
        case cudaErrorContextIsDestroyed:
        case cudaErrorCudartUnloading:
        case cudaErrorUnknown:
            return true;
        default:
            return false;
    }
}

Status refuse(const char* call, cudaError_t error) {
    if (is_sticky(error)) {
        char text[256];
        std::snprintf(text, sizeof text, "%s (%s; the last kernel started was %s)", cudaGetErrorName(error),
                      cudaGetErrorString(error), last_kernel.load());
        first_fault.keep(current_device(), call, text);
        return first_fault.status();
    }
    cudaGetLastError();  // it would be the answer to the next launch too
    const std::string text = std::string(cudaGetErrorName(error)) + " (" + cudaGetErrorString(error) + ")";
    if (error == cudaErrorMemoryAllocation)
        return Status::error(resource_exhausted, std::string("no device memory in ") + call);
    if (error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice) {
        int32_t n = 0;
        const Status reason = count_devices(&n);
        if (!reason.ok()) return reason;
    }
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion)
        return Status::error(unavailable, std::string(call) + ": this build has no code for the card: " + text +
                                              "; name its compute capability in QUANTPLUG_CUDA_ARCHITECTURES");
    if (error == cudaErrorStreamCaptureUnsupported || error == cudaErrorStreamCaptureInvalidated ||
        error == cudaErrorCapturedEvent || error == cudaErrorNotReady)
        return Status::error(failed_precondition, std::string(call) + ": " + text);
    return Status::error(internal, std::string(call) + " on cuda:" + std::to_string(current_device()) + ": " + text);
}

/// The answer of one call; `call` is what runtime.h names it, or a kernel.
template <class Call>
Status ask(const char* name, Call call) {
    if (first_fault.there()) return first_fault.status();
    const cudaError_t error = call();
    return error == cudaSuccess ? Status{} : refuse(name, error);
}

cudaStream_t native(StreamHandle stream) { return reinterpret_cast<cudaStream_t>(stream); }
cudaEvent_t native(EventHandle event) { return reinterpret_cast<cudaEvent_t>(event); }
cudaGraphExec_t native(GraphHandle graph) { return reinterpret_cast<cudaGraphExec_t>(graph); }

}  // namespace

// ---------------------------------------------------------------- devices
Status count_devices(int32_t* n) {
    *n = 0;
    if (first_fault.there()) return first_fault.status();
    int driver = 0, runtime = 0, count = 0;
    cudaRuntimeGetVersion(&runtime);
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return no_driver();
    if (driver / 1000 < runtime / 1000) return driver_too_old(driver, runtime);
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
        cudaGetLastError();
        return no_card();
    }
    if (error == cudaErrorInsufficientDriver) {
        cudaGetLastError();
        return driver_too_old(driver, runtime);
    }
    if (error != cudaSuccess) {
        cudaGetLastError();  // a machine whose driver does not start is no fault of ours to keep
        return Status::error(unavailable, std::string("the NVIDIA driver did not start: ") + cudaGetErrorName(error) +
                                              " (" + cudaGetErrorString(error) + "); use --device cpu");
    }
    *n = count;
    return {};
}

Status device_facts(int32_t ordinal, DeviceFacts* out) {
    int32_t n = 0;
    Status status = count_devices(&n);
    if (!status.ok()) return status;
    if (ordinal < 0 || ordinal >= n) return no_such_card(ordinal, n);
    cudaDeviceProp properties;
    status = ask("device_facts", [&] { return cudaGetDeviceProperties(&properties, ordinal); });
    if (!status.ok()) return status;
    out->name = properties.name;
    out->major = properties.major;
    out->minor = properties.minor;
    out->n_multiprocessors = properties.multiProcessorCount;
    out->memory_bytes = properties.totalGlobalMem;
    out->l2_bytes = uint64_t(properties.l2CacheSize);
    out->shared_bytes_per_block = int32_t(properties.sharedMemPerBlockOptin);
    cudaDriverGetVersion(&out->driver);
    cudaRuntimeGetVersion(&out->runtime);
    if (out->major * 10 + out->minor < 75) return card_too_old(ordinal, *out);
    const UseDevice use(ordinal);
    if (!use.status().ok()) return use.status();
    cudaFuncAttributes attributes;
    return ask(("device_facts of cuda:" + std::to_string(ordinal)).c_str(),
               [&] { return cudaFuncGetAttributes(&attributes, probe); });
}

Status memory_info(uint64_t* free_bytes, uint64_t* total_bytes) {
    size_t available = 0, total = 0;
    const Status status = ask("memory_info", [&] { return cudaMemGetInfo(&available, &total); });
    *free_bytes = available;
    *total_bytes = total;
    return status;
}

UseDevice::UseDevice(int32_t ordinal) {
    status_ = ask("UseDevice", [&] { return cudaGetDevice(&before_); });
    if (status_.ok()) status_ = ask("UseDevice", [&] { return cudaSetDevice(ordinal); });
    if (!status_.ok() || before_ == ordinal) before_ = -1;  // nothing to go back to
}
UseDevice::~UseDevice() {
    if (before_ >= 0) cudaSetDevice(before_);
}

// ---------------------------------------------------------------- memory
Status allocate(uint64_t bytes, void** out) {
    *out = nullptr;
    if (bytes == 0) return {};
    const Status status = ask("allocate", [&] { return cudaMalloc(out, bytes); });
    if (status.ok()) return status;
    *out = nullptr;
    return status.code == resource_exhausted ? no_memory(bytes, "device memory") : status;
}
void release(void* p) {
    // After a fault nothing can be given back, and the process that must end has it.
    if (p && !first_fault.there()) (void)ask("release", [&] { return cudaFree(p); });
}
Status allocate_host(uint64_t bytes, void** out) {
    *out = nullptr;
    if (bytes == 0) return {};
    const Status status = ask("allocate_host", [&] { return cudaHostAlloc(out, bytes, cudaHostAllocPortable); });
    if (status.ok()) return status;
    *out = nullptr;
    return status.code == resource_exhausted ? no_memory(bytes, "pinned host memory") : status;
}
void release_host(void* p) {
    if (p && !first_fault.there()) (void)ask("release_host", [&] { return cudaFreeHost(p); });
}

// ---------------------------------------------------------------- streams
bool native_streams() { return true; }
Status create_stream(StreamHandle* out) {
    cudaStream_t stream = nullptr;
    const Status status =
        ask("create_stream", [&] { return cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking); });
    *out = status.ok() ? reinterpret_cast<StreamHandle>(stream) : nullptr;
    return status;
}
void destroy_stream(StreamHandle stream) {
    if (stream && !first_fault.there()) (void)ask("destroy_stream", [&] { return cudaStreamDestroy(native(stream)); });
}
Status copy_to_device(StreamHandle stream, void* device, const void* host, uint64_t bytes) {
    return ask("copy_to_device",
               [&] { return cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, native(stream)); });
}
Status copy_to_host(StreamHandle stream, void* host, const void* device, uint64_t bytes) {
    return ask("copy_to_host",
               [&] { return cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, native(stream)); });
}
Status copy_on_device(StreamHandle stream, void* to, const void* from, uint64_t bytes) {
    return ask("copy_on_device",
               [&] { return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, native(stream)); });
}
Status fill(StreamHandle stream, void* device, uint8_t value, uint64_t bytes) {
    return ask("fill", [&] { return cudaMemsetAsync(device, value, bytes, native(stream)); });
}
Status synchronize(StreamHandle stream) {
    return ask("synchronize", [&] { return cudaStreamSynchronize(native(stream)); });
}

// ---------------------------------------------------------------- events
Status create_event(EventHandle* out) {
    cudaEvent_t event = nullptr;
    const Status status = ask("create_event", [&] { return cudaEventCreateWithFlags(&event, cudaEventDefault); });
    *out = status.ok() ? reinterpret_cast<EventHandle>(event) : nullptr;
    return status;
}
void destroy_event(EventHandle event) {
    if (event && !first_fault.there()) (void)ask("destroy_event", [&] { return cudaEventDestroy(native(event)); });
}
Status record(EventHandle event, StreamHandle stream) {
    return ask("record", [&] { return cudaEventRecord(native(event), native(stream)); });
}
Status wait_event(EventHandle event) {
    return ask("wait_event", [&] { return cudaEventSynchronize(native(event)); });
}
Status query_event(EventHandle event, bool* finished) {
    *finished = false;
    if (first_fault.there()) return first_fault.status();
    const cudaError_t error = cudaEventQuery(native(event));
    *finished = error == cudaSuccess;
    if (error == cudaErrorNotReady) cudaGetLastError();
    return error == cudaSuccess || error == cudaErrorNotReady ? Status{} : refuse("query_event", error);
}
Status elapsed_ms(EventHandle from, EventHandle to, float* ms) {
    *ms = 0;
    return ask("elapsed_ms", [&] { return cudaEventElapsedTime(ms, native(from), native(to)); });
}

// ---------------------------------------------------------------- graphs
Status begin_capture(StreamHandle stream) {
    return ask("begin_capture",
               [&] { return cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeThreadLocal); });
}
Status end_capture(StreamHandle stream, GraphHandle* out) {
    if (out) *out = nullptr;
    cudaGraph_t graph = nullptr;
    Status status = ask("end_capture", [&] { return cudaStreamEndCapture(native(stream), &graph); });
    if (status.ok() && out) {
        cudaGraphExec_t executable = nullptr;
        status = ask("end_capture", [&] { return cudaGraphInstantiateWithFlags(&executable, graph, 0); });
        if (status.ok()) *out = reinterpret_cast<GraphHandle>(executable);
    }
    if (graph && !first_fault.there()) cudaGraphDestroy(graph);
    return status;
}
Status launch_graph(GraphHandle graph, StreamHandle stream) {
    return ask("launch_graph", [&] { return cudaGraphLaunch(native(graph), native(stream)); });
}
void destroy_graph(GraphHandle graph) {
    if (graph && !first_fault.there()) (void)ask("destroy_graph", [&] { return cudaGraphExecDestroy(native(graph)); });
}

// ---------------------------------------------------------------- kernels
namespace {

/// What is asked and set once per kernel and device.
struct Prepared {
    bool has_dependency_wait = false;
    bool raised = false;  // may ask for all the shared memory that the device has; 48 KB otherwise
};
struct PreparedKernels {
    std::mutex mutex;
    std::map<std::pair<const void*, int>, Prepared> kernels;
};
PreparedKernels& prepared_kernels() {
    static PreparedKernels& one = *new PreparedKernels;  // never destroyed: threads may outlive main
    return one;
}

/// Loading a kernel is no part of the graph that this thread captures.
class OutsideCapture {
 public:
    OutsideCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
    ~OutsideCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
    OutsideCapture(const OutsideCapture&) = delete;
    OutsideCapture& operator=(const OutsideCapture&) = delete;

 private:
    cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

cudaError_t prepare(const KernelLaunch& launch, bool* dependent) {
    int device = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error != cudaSuccess) return error;
    PreparedKernels& all = prepared_kernels();
    const std::lock_guard lock(all.mutex);
    const auto [found, is_new] = all.kernels.try_emplace({launch.kernel, device});
    Prepared& kernel = found->second;
    if (is_new) {
        // Code for compute_80 that the driver compiled for a later card has no griddepcontrol: it must not start early.
        const OutsideCapture outside;
        cudaFuncAttributes attributes;
        error = cudaFuncGetAttributes(&attributes, launch.kernel);
        kernel.has_dependency_wait =
            error == cudaSuccess && attributes.ptxVersion >= 90 && attributes.binaryVersion >= 90;
    }
    if (error == cudaSuccess && launch.shared_bytes > (48u << 10) && !kernel.raised) {
        const OutsideCapture outside;
        int limit = 0;
        error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
        if (error == cudaSuccess)
            error = cudaFuncSetAttribute(launch.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit);
        kernel.raised = error == cudaSuccess;
    }
    *dependent = launch.dependent && kernel.has_dependency_wait;
    if (error != cudaSuccess && is_new) all.kernels.erase(found);
    return error;
}

}  // namespace

Status launch_kernel(StreamHandle stream, const KernelLaunch& launch, void** arguments) {
    return ask(launch.name, [&] {
        last_kernel = launch.name;
        bool dependent = false;
        const cudaError_t error = prepare(launch, &dependent);
        if (error != cudaSuccess) return error;
        cudaLaunchAttribute attribute;
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(launch.grid.x, launch.grid.y, launch.grid.z);
        config.blockDim = dim3(launch.block.x, launch.block.y, launch.block.z);
        config.dynamicSmemBytes = launch.shared_bytes;
        config.stream = native(stream);
        config.attrs = &attribute;
        config.numAttrs = dependent ? 1 : 0;
        return cudaLaunchKernelExC(&config, launch.kernel, arguments);
    });
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
