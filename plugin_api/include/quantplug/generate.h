/* generate.h - sampling parameters, and the events of a generation. */
#ifndef QUANTPLUG_GENERATE_H
#define QUANTPLUG_GENERATE_H

#include <quantplug/base.h>

/* Bits of qp_sampling::set. A field whose bit is not set is off. */
#define QP_SET_TEMPERATURE (1ull << 0)
#define QP_SET_TOP_K (1ull << 1)
#define QP_SET_TOP_P (1ull << 2)
#define QP_SET_MIN_P (1ull << 3)
#define QP_SET_SEED (1ull << 4)

/* Applied in this order: temperature, top-k, top-p, min-p, draw. Off in all, or temperature 0: the most probable token. */
typedef struct qp_sampling {
    uint32_t struct_size;
    int32_t top_k;          /* > 0: this many most probable tokens */
    uint64_t set;           /* QP_SET_* */
    uint64_t seed;          /* the same seed, prompt and options give the same tokens */
    double temperature;     /* >= 0; 0 = greedy */
    double top_p;           /* 0..1: the smallest set of most probable tokens with at least this mass */
    double min_p;           /* 0..1: tokens with at least this share of the most probable one's probability */
} qp_sampling;

/* A piece of text. Array element: fixed for ever. */
typedef struct qp_text {
    const char* data;
    uint64_t size;          /* bytes */
} qp_text;

#define QP_GENERATE_IGNORE_EOS 1u     /* go on after a stop id of the model */
#define QP_GENERATE_SPECIAL_TEXT 2u   /* special tokens are written as their text */

typedef struct qp_generate_params {
    uint32_t struct_size;
    uint32_t flags;                  /* QP_GENERATE_* */
    const int32_t* prompt;           /* n_prompt ids; nothing is added. At least one */
    uint64_t n_prompt;
    const qp_sampling* sampling;     /* null: greedy */
    const qp_text* stop;             /* n_stop strings that end the text and are not part of it */
    const int32_t* stop_ids;         /* n_stop_ids ids beside the model's own */
    uint32_t n_stop;
    uint32_t n_stop_ids;
    uint32_t max_tokens;             /* 0: until the context is full */
    uint32_t n_top;                  /* most probable tokens to report beside each token's own */
} qp_generate_params;

/* Natural log of the model's own distribution, before any sampler or temperature. Array elements: fixed for ever. */
typedef struct qp_top {
    int32_t id;
    float logprob;
} qp_top;

typedef struct qp_token {
    int32_t id;
    float logprob;
    uint32_t first_top;     /* index into qp_event::top */
    uint32_t n_top;
} qp_token;

#define QP_EVENT_PREFILL 0   /* a part of the prompt is done: n_done of n_prompt */
#define QP_EVENT_TOKENS 1    /* tokens, and the text that is certain by now */
#define QP_EVENT_END 2       /* always the last one, also after an error or a cancel */

#define QP_FINISH_NONE 0
#define QP_FINISH_STOP 1       /* a stop id or a stop string */
#define QP_FINISH_LENGTH 2     /* max_tokens, or the context is full */
#define QP_FINISH_CANCELLED 3
#define QP_FINISH_ERROR 4

/* Borrowed for the callback. */
typedef struct qp_event {
    uint32_t struct_size;
    uint32_t kind;            /* QP_EVENT_* */
    uint32_t n_tokens;
    uint32_t n_top;
    const qp_token* tokens;   /* n_tokens */
    const qp_top* top;        /* n_top, most probable first for each token */
    const char* text;         /* text_size bytes, whole characters; text that may still become a stop string is held back */
    uint64_t text_size;
    uint64_t n_done;          /* QP_EVENT_PREFILL, QP_EVENT_END: prompt tokens computed */
    uint64_t n_prompt;
    uint64_t n_generated;
    double prefill_seconds;   /* QP_EVENT_END */
    double decode_seconds;    /* QP_EVENT_END */
    uint64_t ignored;         /* QP_EVENT_END: fields of qp_sampling::set that this plugin does not know */
    uint32_t finish_reason;   /* QP_EVENT_END: QP_FINISH_* */
    int32_t stop_id;          /* QP_EVENT_END: the stop id that ended it, or -1 */
} qp_event;

/* Non-zero cancels: takes effect within a step (at most about 200 ms on a CPU). */
typedef int32_t(QP_CALL* qp_event_fn)(void* user, const qp_event* event);

#endif
