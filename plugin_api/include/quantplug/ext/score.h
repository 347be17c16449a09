/* ext/score.h - quantplug.score/1: log-probabilities of given ids. */
#ifndef QUANTPLUG_EXT_SCORE_H
#define QUANTPLUG_EXT_SCORE_H

#include <quantplug/model.h>

#define QP_EXT_SCORE "quantplug.score/1"

typedef struct qp_score {
    uint32_t struct_size;
    uint32_t reserved;

    /* [any-thread; calls on one model queue] logprobs[i] = ln p(ids[i+1] | ids[0..i]), n_ids - 1 values; nothing is added to the ids. Positions
     * start at 0. n_ids from 2 to the context, otherwise QP_OUT_OF_RANGE. */
    int32_t(QP_CALL* score)(qp_model* model, const int32_t* ids, uint64_t n_ids, float* logprobs, qp_progress_fn progress, void* user,
                            qp_error* error);
} qp_score;

#endif
