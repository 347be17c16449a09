/* ext/quantize.h - quantplug.quantize/1: make a quantised checkpoint from a plain one. */
#ifndef QUANTPLUG_EXT_QUANTIZE_H
#define QUANTPLUG_EXT_QUANTIZE_H

#include <quantplug/error.h>
#include <quantplug/ext/tools.h>

#define QP_EXT_QUANTIZE "quantplug.quantize/1"

typedef struct qp_quantize {
    uint32_t struct_size;
    uint32_t reserved;

    /* [any-thread] The format that this plugin makes ("exl2") and its arguments, as qp_tool_info::arguments has them. Strings are borrowed
     * for as long as the library stays mapped. */
    int32_t(QP_CALL* describe)(qp_tool_info* out, qp_error* error);

    /* [any-thread] Runs to the end on the calling thread. Arguments: {"in": folder, "out": folder, "method": "rtn", ...}; an unknown one is
     * refused by name. Events as in tools.h, and {"event": "layer", "name": ..., "bits": ...} per matrix; the last has bits_per_weight and
     * seconds. The output folder is there complete, or not at all. */
    int32_t(QP_CALL* run)(const char* arguments_json, qp_json_event_fn on_event, void* user, qp_error* error);
} qp_quantize;

#endif
