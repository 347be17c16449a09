/* ext/tools.h - quantplug.tools/1: named commands on files, with JSON arguments, events, progress and cancel. */
#ifndef QUANTPLUG_EXT_TOOLS_H
#define QUANTPLUG_EXT_TOOLS_H

#include <quantplug/error.h>
#include <quantplug/host.h>

#define QP_EXT_TOOLS "quantplug.tools/1"

/* Strings are borrowed for as long as the library stays mapped. */
typedef struct qp_tool_info {
    uint32_t struct_size;
    uint32_t reserved;
    const char* name;        /* "dequantize", "import-gguf" */
    const char* help;        /* one sentence */
    const char* arguments;   /* JSON: {"key": {"type": ..., "help": ..., "default": ...}, ...}; no default: required */
} qp_tool_info;

/* One JSON object, borrowed for the call: {"event": "progress", "fraction": f, "what": s}, or {"event": "done", ...} last. Non-zero cancels. */
typedef int32_t(QP_CALL* qp_json_event_fn)(void* user, const char* json);

typedef struct qp_tools {
    uint32_t struct_size;
    uint32_t reserved;

    /* [any-thread] Tool number `index`; QP_NOT_FOUND past the end. */
    int32_t(QP_CALL* get)(uint32_t index, qp_tool_info* out, qp_error* error);

    /* [any-thread] Runs to the end on the calling thread. An unknown tool or argument is refused by name. What it was to write is there
     * complete, or, after an error or a cancel, not at all. */
    int32_t(QP_CALL* run)(const char* name, const char* arguments_json, qp_json_event_fn on_event, void* user, qp_error* error);
} qp_tools;

#endif
