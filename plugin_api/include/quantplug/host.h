/* host.h - what a host gives to a plugin. */
#ifndef QUANTPLUG_HOST_H
#define QUANTPLUG_HOST_H

#include <quantplug/base.h>

#define QP_LOG_ERROR 0
#define QP_LOG_WARNING 1
#define QP_LOG_INFO 2
#define QP_LOG_DEBUG 3

/* Given to init and borrowed until the deinit that balances it. */
typedef struct qp_host {
    uint32_t struct_size;
    uint32_t reserved;     /* 0 */
    void* context;         /* passed back to every function below */

    /* [any-thread] One line of text without a line feed. Must not call back into the plugin. */
    void(QP_CALL* log)(void* context, int32_t level, const char* text);

    /* [any-thread] An extension of the host by id ("name/revision"), or null. Borrowed until deinit. */
    const void*(QP_CALL* get_extension)(void* context, const char* id);
} qp_host;

/* Progress of long work: fraction 0..1, `what` names the stage. Non-zero cancels: the call returns QP_CANCELLED soon after.
 * Called on the thread that made the call; must not call back into the same object. */
typedef int32_t(QP_CALL* qp_progress_fn)(void* user, double fraction, const char* what);

#endif
