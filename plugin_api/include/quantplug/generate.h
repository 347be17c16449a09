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
#define QP_SET_TYPICAL_P (1ull << 5)
#define QP_SET_REPETITION_PENALTY (1ull << 6)
#define QP_SET_FREQUENCY_PENALTY (1ull << 7)
#define QP_SET_PRESENCE_PENALTY (1ull << 8)
#define QP_SET_PENALTY_RANGE (1ull << 9)
#define QP_SET_TOP_A (1ull << 10)
#define QP_SET_TFS (1ull << 11)
#define QP_SET_MIROSTAT (1ull << 12)   /* mirostat_tau and mirostat_eta */
#define QP_SET_XTC (1ull << 13)        /* xtc_probability and xtc_threshold */
#define QP_SET_DRY (1ull << 14)        /* dry_*, breakers too */
#define QP_SET_DYNATEMP (1ull << 15)   /* dynatemp_* */
#define QP_SET_SMOOTHING (1ull << 16)  /* smoothing_* */
#define QP_SET_TOP_N_SIGMA (1ull << 17)
#define QP_SET_MIN_TOKENS (1ull << 18)
#define QP_SET_LOGIT_BIAS (1ull << 19)
#define QP_SET_BANNED (1ull << 20)
#define QP_SET_ORDER (1ull << 21)

/* Array element: fixed for ever. */
typedef struct qp_token_bias {
    int32_t id;
    float bias;             /* added to the id's logit; -infinity bans it */
} qp_token_bias;

typedef struct qp_text qp_text;

/* Log-probabilities come first, of the model's own logits. Then bans, min_tokens (no stop id before that many tokens) and biases; then the samplers of
 * `order`, where it is not set: repetition_penalty, frequency_penalty, presence_penalty, dry, temperature, dynatemp, smoothing, top_n_sigma, top_k,
 * top_p, top_a, min_p, tfs, typical_p, xtc; then mirostat in the place of the truncations, or the draw. Off in all, or temperature 0: the most probable
 * token of what bans, biases and penalties leave. */
typedef struct qp_sampling {
    uint32_t struct_size;
    int32_t top_k;          /* > 0: this many most probable tokens */
    uint64_t set;           /* QP_SET_* */
    uint64_t seed;          /* the same seed, prompt and options give the same tokens */
    double temperature;     /* >= 0; 0 = greedy */
    double top_p;           /* 0..1: the smallest set of most probable tokens with at least this mass */
    double min_p;           /* 0..1: tokens with at least this share of the most probable one's probability */
    double typical_p;       /* 0..1: the tokens whose surprise is nearest to the entropy, with at least this mass */
    double repetition_penalty;   /* > 0: a logit of a token in range is divided by it where positive, else multiplied */
    double frequency_penalty;    /* times the token's count in range, subtracted from its logit */
    double presence_penalty;     /* subtracted from the logit of every token in range */
    double top_a;           /* 0..1: tokens with at least top_a * (the largest probability)^2 */
    double tfs;             /* 0..1: tail-free sampling's z */
    double mirostat_tau;    /* > 0: the surprise to hold, in bits (mirostat 2.0, arXiv 2007.14966) */
    double mirostat_eta;    /* 0..1: the learning rate */
    double xtc_probability; /* 0..1: how often all but the least probable of the tokens above the threshold go; not where a stop id or a newline would */
    double xtc_threshold;   /* 0..1 */
    double dry_multiplier;  /* >= 0; penalty = multiplier * base^(length - allowed_length) */
    double dry_base;        /* >= 1 */
    double dynatemp_low, dynatemp_high;   /* in temperature's place, unless that is 0: by the entropy, from low to high */
    double dynatemp_exponent;
    double smoothing_factor;   /* > 0: quadratic smoothing of the logits */
    double smoothing_curve;    /* >= 1 gives the cubic form; 1 = plain */
    double top_n_sigma;     /* > 0: tokens within so many standard deviations of the largest logit */
    int32_t penalty_range;  /* latest tokens that penalties look at, prompt included; -1 or not set: all */
    int32_t dry_allowed_length;
    int32_t dry_range;      /* as penalty_range; 0: none, DRY is off */
    uint32_t min_tokens;
    uint32_t n_bias;
    uint32_t n_banned;
    uint32_t n_dry_breakers;
    uint32_t reserved;      /* 0 */
    const qp_token_bias* bias;     /* n_bias */
    const int32_t* banned;         /* n_banned ids that are never drawn */
    const qp_text* dry_breakers;   /* n_dry_breakers texts; a token that contains one ends a repeated sequence. None: newline, : " * */
    const char* order;             /* sampler names as above, separated by commas; those not named keep their place after the named ones */
} qp_sampling;

/* A piece of text. Array element: fixed for ever. */
struct qp_text {
    const char* data;
    uint64_t size;          /* bytes */
};

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
    uint64_t n_cached;        /* tokens of the prompt that an earlier request left in the cache; part of n_done */
    int32_t status;           /* QP_EVENT_END: QP_*, what generate returns */
    uint32_t reserved;
    const char* error;        /* QP_EVENT_END with QP_FINISH_ERROR: one sentence; else "" */
} qp_event;

/* Non-zero cancels: takes effect within a step (at most about 200 ms on a CPU). */
typedef int32_t(QP_CALL* qp_event_fn)(void* user, const qp_event* event);

#endif
