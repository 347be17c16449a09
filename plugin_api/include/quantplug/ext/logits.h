/* ext/logits.h - quantplug.logits/1: whole rows of logits, one after the other. */
#ifndef QUANTPLUG_EXT_LOGITS_H
#define QUANTPLUG_EXT_LOGITS_H

#include <quantplug/model.h>

#define QP_EXT_LOGITS "quantplug.logits/1"

typedef struct qp_logits_session qp_logits_session;

typedef struct qp_logits {
    uint32_t struct_size;
    uint32_t reserved;

    /* [any-thread] Begins a pass over n_ids ids (1 to the context, copied). Takes cache space until close: QP_RESOURCE_EXHAUSTED when
     * there is none. */
    int32_t(QP_CALL* open)(qp_model* model, const int32_t* ids, uint64_t n_ids, qp_logits_session** out, qp_error* error);

    /* [model-thread] The next row: model_info's n_vocab floats at *row, the prediction after ids[*position]. Borrowed until the next call on
     * this session. QP_NOT_FOUND after the last row. */
    int32_t(QP_CALL* next)(qp_logits_session* session, const float** row, uint64_t* position, qp_error* error);

    /* [any-thread] Null is allowed. */
    void(QP_CALL* close)(qp_logits_session* session);
} qp_logits;

#endif
