// Where a function runs, for headers that nvcc and host compilers both read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/version.h"

#if defined(__CUDACC__)
#define QP_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define QP_HOST_DEVICE inline
#endif
