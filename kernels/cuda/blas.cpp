// cuBLAS by dlopen: no header of CUDA, no dependency of the build. Types and values as cublas_v2.h and library_types.h
// of CUDA 12 and 13 have them.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/cuda/gemm.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

using Handle = void*;
constexpr int success = 0;
constexpr int no_transpose = 0, transpose = 1;  // CUBLAS_OP_N, CUBLAS_OP_T
constexpr int real_16f = 2, real_32f = 0;       // CUDA_R_16F, CUDA_R_32F
constexpr int compute_32f = 68;                 // CUBLAS_COMPUTE_32F
constexpr int default_algorithm = -1;           // CUBLAS_GEMM_DEFAULT

const char* status_name(int status) {
    switch (status) {
        case 1:
            return "CUBLAS_STATUS_NOT_INITIALIZED";
        case 3:
            return "CUBLAS_STATUS_ALLOC_FAILED";
        case 7:
            return "CUBLAS_STATUS_INVALID_VALUE";
        case 8:
            return "CUBLAS_STATUS_ARCH_MISMATCH";
        case 11:
            return "CUBLAS_STATUS_MAPPING_ERROR";
        case 13:
            return "CUBLAS_STATUS_EXECUTION_FAILED";
        case 14:
            return "CUBLAS_STATUS_INTERNAL_ERROR";
        case 15:
            return "CUBLAS_STATUS_NOT_SUPPORTED";
        default:
            return "a status that it does not document";
    }
}

}  // namespace

struct Blas::Library {
    int (*create)(Handle*) = nullptr;
    int (*destroy)(Handle) = nullptr;
    int (*get_version)(Handle, int*) = nullptr;
    int (*set_stream)(Handle, void* stream) = nullptr;
    int (*set_workspace)(Handle, void* workspace, size_t bytes) = nullptr;
    int (*gemm_ex)(Handle, int op_a, int op_b, int m, int n, int k, const void* alpha, const void* a, int a_type,
                   int lda, const void* b, int b_type, int ldb, const void* beta, void* c, int c_type, int ldc,
                   int compute_type, int algorithm) = nullptr;

    Handle handle = nullptr;
    void* workspace = nullptr;
    StreamHandle stream = nullptr;  // the handle's
    bool has_stream = false;
    std::string version;

    ~Library() {
        if (handle) destroy(handle);
        if (workspace) release(workspace);
    }
};

Blas::Blas(std::unique_ptr<Library> library) : library_(std::move(library)) {}
Blas::~Blas() = default;

std::unique_ptr<Blas> Blas::from_symbols(void* (*symbol)(void* context, const char* name), void* context) {
    auto library = std::make_unique<Library>();
    bool all = true;
    const auto find = [&](const char* name, auto*& function) {
        void* address = symbol(context, name);
        all = all && address;
        std::memcpy(&function, &address, sizeof address);  // no cast from a data pointer to a function in ISO C++
    };
    find("cublasCreate_v2", library->create);
    find("cublasDestroy_v2", library->destroy);
    find("cublasGetVersion_v2", library->get_version);
    find("cublasSetStream_v2", library->set_stream);
    find("cublasSetWorkspace_v2", library->set_workspace);
    find("cublasGemmEx", library->gemm_ex);
    if (!all || library->create(&library->handle) != success || !library->handle) return nullptr;
    int version = 0;
    if (library->get_version(library->handle, &version) != success) return nullptr;
    library->version = "cuBLAS " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
                       std::to_string(version % 100);
    if (!allocate(blas_workspace_bytes, &library->workspace).ok()) return nullptr;
    return std::unique_ptr<Blas>(new Blas(std::move(library)));
}

std::unique_ptr<Blas> Blas::open() {
    const char* wish = std::getenv("QUANTPLUG_CUBLAS");
    if ((wish && std::strcmp(wish, "off") == 0) || !native_streams()) return nullptr;
    void* library = nullptr;
    // Never closed, nor unloaded by anybody: what it registered with the driver outlives every handle.
    const auto load = [&](const char* path) { library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE); };
    if (wish && *wish) {
        load(wish);
    } else {
        load("libcublas.so.13");
        if (!library) load("libcublas.so.12");
    }
    if (!library) return nullptr;
    return from_symbols([](void* context, const char* name) { return dlsym(context, name); }, library);
}

const char* Blas::version() const { return library_->version.c_str(); }

void Blas::gemm(Queue& queue, const GemmLaunch& launch) {
    if (!queue.ok() || launch.rows == 0 || launch.columns == 0) return;
    Library& cublas = *library_;
    const auto keep = [&](const char* what, int status) {
        if (status == success) return true;
        queue.keep(Status::error(internal, cublas.version + ": " + what + " of " + std::to_string(launch.rows) + " x " +
                                               std::to_string(launch.k) + " x " + std::to_string(launch.columns) +
                                               " failed with " + status_name(status) + " (" + std::to_string(status) +
                                               "); QUANTPLUG_CUBLAS=off does without it"));
        return false;
    };
    if (!cublas.has_stream || cublas.stream != queue.stream()) {
        // A change of stream takes the workspace away; without one of ours the algorithm might allocate, or be another.
        if (!keep("the stream for a product", cublas.set_stream(cublas.handle, queue.stream())) ||
            !keep("the workspace for a product",
                  cublas.set_workspace(cublas.handle, cublas.workspace, size_t(blas_workspace_bytes)))) {
            return;
        }
        cublas.stream = queue.stream();
        cublas.has_stream = true;
    }
    // Column by column, as cuBLAS reads, `out` is (columns, rows), w (k, columns) and x (k, rows): out = w^T x.
    const float beta = launch.store == Store::add ? 1.0f : 0.0f;
    keep("a product",
         cublas.gemm_ex(cublas.handle, transpose, no_transpose, launch.columns, launch.rows, launch.k, &launch.alpha,
                        launch.w, real_16f, int(launch.w_ld), launch.x, real_16f, int(launch.x_ld), &beta, launch.out,
                        real_32f, int(launch.ld), compute_32f, default_algorithm));
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
