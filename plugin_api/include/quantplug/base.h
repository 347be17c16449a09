/* base.h - macros, status codes, and the rules that hold for every header here.
 *
 * Rules (numbered requirements: REQUIREMENTS.md)
 *  - Structs that can grow begin with `uint32_t struct_size`, filled by whoever makes the struct with the sizeof it was compiled with;
 *    they go by pointer only. A reader looks at a field only if QP_HAS says that it is there. Elements of arrays never grow.
 *  - Strings are UTF-8 and end in NUL unless a length stands beside them.
 *  - Every function that can fail returns a status below and takes a qp_error that may be null.
 *  - Neither side frees the other's memory: outputs are the caller's buffers, or borrowed until a call that the comment names.
 *  - Thread tags: [any-thread] at any time, from several threads at once; [model-thread] one thread at a time for one model, any
 *    thread; [main-thread] one thread at a time for the whole plugin.
 *  - A plugin never aborts, exits, prints, or lets an exception out. After fork, calls in the child are an error.
 */
#ifndef QUANTPLUG_BASE_H
#define QUANTPLUG_BASE_H

#include <stddef.h>
#include <stdint.h>

#if UINTPTR_MAX != 0xffffffffffffffffu
#error "quantplug's ABI is defined for 64-bit machines"
#endif

#if defined(_WIN32)
#define QP_CALL __cdecl
#define QP_EXPORT __declspec(dllexport)
#else
#define QP_CALL
#define QP_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
#define QP_EXTERN_C extern "C"
#define QP_BEGIN_C extern "C" {
#define QP_END_C }
#else
#define QP_EXTERN_C extern
#define QP_BEGIN_C
#define QP_END_C
#endif

/* The ABI's major version is in the entry's name. While it is a draft, both sides must carry the same draft number. */
#define QP_ABI_MAJOR 1u
#define QP_ABI_DRAFT 2u

/* Whether the struct that `ptr` points to is new enough to have `field`. */
#define QP_HAS(ptr, field) \
    ((size_t)(ptr)->struct_size >= (size_t)((const char*)&(ptr)->field - (const char*)(ptr)) + sizeof((ptr)->field))

/* Status codes: absl's values. */
#define QP_OK 0
#define QP_CANCELLED 1          /* a callback asked for it, or unload */
#define QP_UNKNOWN 2
#define QP_INVALID_ARGUMENT 3   /* the caller's value is wrong whatever the state */
#define QP_DEADLINE_EXCEEDED 4
#define QP_NOT_FOUND 5          /* also: past the end of a list */
#define QP_ALREADY_EXISTS 6
#define QP_PERMISSION_DENIED 7
#define QP_RESOURCE_EXHAUSTED 8 /* memory, disk, context; the object stays usable */
#define QP_FAILED_PRECONDITION 9
#define QP_ABORTED 10
#define QP_OUT_OF_RANGE 11      /* a buffer is too small; the size that is needed is set */
#define QP_UNIMPLEMENTED 12
#define QP_INTERNAL 13
#define QP_UNAVAILABLE 14       /* a device is gone or was never there */
#define QP_DATA_LOSS 15         /* a file is damaged */

#endif
