// The library's exact version, part of its symbols and of its SONAME: two builds in one process never mix.
#pragma once

#define QP_KERNELS_VERSION "0.1.0"  // CMake checks it against the project's version
#define QP_KERNELS_NS v0_1_0

#define QP_KERNELS_API __attribute__((visibility("default")))
