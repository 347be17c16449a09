// The process's one thread pool: both backends, every model and every device share it.
#pragma once

#include <cstdint>

#include "kernels/version.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

/// Runs work(context, index, count) for index 0 .. count-1 at once; index 0 on the calling thread. Returns when all are
/// done. One parallel region at a time: calls from several threads queue. `count` may exceed the cores; where the
/// system gives no more threads the calling thread does the missing indices' work itself, so `work` must not wait for
/// another index. Not to be called from inside `work`.
QP_KERNELS_API void run_parallel(int32_t count, void (*work)(void* context, int32_t index, int32_t count),
                                 void* context);

/// The same for a callable work(index, count).
template <class Work>
void run_parallel(int32_t count, Work&& work) {
    run_parallel(
        count, [](void* context, int32_t index, int32_t n) { (*static_cast<Work*>(context))(index, n); }, &work);
}

/// min(physical cores, affinity, cgroup quota), at least 1.
QP_KERNELS_API int32_t default_threads();

/// The parts of it, from the files under `sys` ("/sys") and `proc` ("/proc"); 0 where they say nothing.
QP_KERNELS_API int32_t physical_cores(const char* sys);
QP_KERNELS_API int32_t cgroup_quota(const char* sys, const char* proc);

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
