/* error.h - what went wrong, as one sentence that names the thing at fault and what to do. */
#ifndef QUANTPLUG_ERROR_H
#define QUANTPLUG_ERROR_H

#include <quantplug/base.h>

/* Owned by the caller, who sets struct_size; may be null wherever it is taken. Written only when a call fails. Text that does not fit is
 * cut at a character's edge. */
typedef struct qp_error {
    uint32_t struct_size;
    int32_t code;          /* QP_*, equal to the returned status */
    char message[1016];
} qp_error;

#endif
