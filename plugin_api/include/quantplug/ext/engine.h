/* ext/engine.h - quantplug.engine/1: many generations at once. The host owns the threads: it submits, one of its threads steps. */
#ifndef QUANTPLUG_EXT_ENGINE_H
#define QUANTPLUG_EXT_ENGINE_H

#include <quantplug/generate.h>
#include <quantplug/model.h>

#define QP_EXT_ENGINE "quantplug.engine/1"

/* One event of one request, on the thread that called step. Non-zero cancels the request: its final event follows. */
typedef int32_t(QP_CALL* qp_engine_event_fn)(void* user, uint64_t request, const qp_event* event);

/* Counters since load, and what is held now. */
typedef struct qp_engine_status {
    uint32_t struct_size;
    uint32_t n_running;           /* requests that have a place in the cache */
    uint32_t n_waiting;           /* requests that wait for one */
    uint32_t n_streams_max;       /* most that run at once */
    uint32_t block_tokens;        /* tokens of one block of the cache */
    uint32_t n_blocks;
    uint32_t n_blocks_used;       /* by running requests and sessions */
    uint32_t n_blocks_cached;     /* by nobody, their prefixes can be used again */
    uint64_t n_steps;
    uint64_t n_prompt_tokens;     /* computed */
    uint64_t n_cached_tokens;     /* of prompts, not computed because they lay in the cache */
    uint64_t n_generated_tokens;
} qp_engine_status;

typedef struct qp_engine {
    uint32_t struct_size;
    uint32_t reserved;

    /* [any-thread] Queues a generation; params are copied. *request is its number, from 1, never used twice. Requests are admitted in the order they
     * came. QP_OUT_OF_RANGE: prompt longer than the context; QP_RESOURCE_EXHAUSTED: the queue is full, or the cache can never hold it. */
    int32_t(QP_CALL* submit)(qp_model* model, const qp_generate_params* params, uint64_t* request, qp_error* error);

    /* [one thread at a time for one model] One step for all requests that run: at most about 200 ms on a CPU. Where there is none it waits for a submit,
     * wake or unload, at most wait_ms (0: not at all; negative: without end). Every request gets its final event from a step, cancelled ones too;
     * *n_active is the number of requests that have not had theirs. A request that fails ends alone, with its event's error; the status of step is for
     * what stops all. */
    int32_t(QP_CALL* step)(qp_model* model, int32_t wait_ms, qp_engine_event_fn on_event, void* user, uint64_t* n_active, qp_error* error);

    /* [any-thread, from callbacks too] Takes effect within a step. QP_NOT_FOUND: no such request, or it has ended. */
    int32_t(QP_CALL* cancel)(qp_model* model, uint64_t request, qp_error* error);

    /* [any-thread, from callbacks too] A step that waits, or else the next one, returns without waiting. */
    int32_t(QP_CALL* wake)(qp_model* model, qp_error* error);

    /* [any-thread, from callbacks too] */
    int32_t(QP_CALL* status)(qp_model* model, qp_engine_status* out, qp_error* error);
} qp_engine;

#endif
