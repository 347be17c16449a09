/* model.h - model folders and models: probing, planning, loading, facts. */
#ifndef QUANTPLUG_MODEL_H
#define QUANTPLUG_MODEL_H

#include <quantplug/error.h>
#include <quantplug/host.h>
#include <quantplug/options.h>

typedef struct qp_model qp_model; /* a loaded model, the plugin's own */

/* Whether and how well a plugin can load a folder. */
typedef struct qp_probe_result {
    uint32_t struct_size;
    int32_t score;    /* 0: no; 1..100: the best wins. 90 its own format, 50 a format it can also read, 10 a guess */
    char format[32];  /* "exl2", "gptq", "plain" */
    char reason[472]; /* score 0: one sentence why, naming what was found instead */
} qp_probe_result;

/* What to load, and how. Everything is borrowed for the call. */
typedef struct qp_load_params {
    uint32_t struct_size;
    uint32_t n_options;
    const char* path;         /* the model folder */
    const qp_option* options; /* n_options; an unknown key is refused by name */
    qp_progress_fn progress;  /* or null */
    void* user;
} qp_load_params;

/* A device's share of a plan, in bytes. */
typedef struct qp_device_memory {
    char device[24];   /* "cpu", "cuda:0" */
    uint32_t n_layers; /* of the model's layers, those that it computes */
    uint32_t reserved;
    uint64_t weights;
    uint64_t kv_cache;
    uint64_t scratch;
    uint64_t total; /* the sum of the three */
    uint64_t free;  /* what can be allocated there now, shared by all entries of one name; 0 = unknown */
} qp_device_memory;

/* Bytes that a load with these options takes, computed before any weight is read, and equal to what is then allocated.
 */
typedef struct qp_memory_plan {
    uint32_t struct_size;
    uint32_t ctx; /* tokens of context that the plan is for */
    uint64_t weights;
    uint64_t kv_cache;
    uint64_t scratch;
    uint64_t other; /* tokenizer, process, and the largest tensor while loading */
    uint64_t total;
    uint64_t available; /* what the machine and the process's limits leave now, of all devices in use together; 0 =
                           unknown */
    uint32_t n_devices; /* entries of `devices`, in the order of the model's layers; 0: not told */
    uint32_t reserved;
    qp_device_memory devices[16];
} qp_memory_plan;

/* Facts of a folder (inspect) or of a loaded model (model_info). Numbers that are unknown are 0, ids that do not exist
 * -1. */
typedef struct qp_model_info {
    uint32_t struct_size;
    uint32_t n_layers;
    uint32_t hidden_size;
    uint32_t n_vocab;  /* width of a row of logits */
    uint32_t n_ctx;    /* loaded: tokens of context; inspected: the model's own */
    uint32_t adds_bos; /* 1: tokenize with QP_BOS_AUTO puts BOS first */
    int32_t bos_id, eos_id;
    uint64_t n_params;
    uint64_t file_bytes;    /* all weight files */
    double bits_per_weight; /* quantised decoder matrices, all stored tensors of them counted; 0: none are quantised */
    double bits_per_weight_head; /* the same for a quantised head */
    char format[32];
    char architecture[64];
    char tokenizer[64];
    char device[64];     /* loaded: e.g. "cpu (avx2, 2 threads)" */
    char compute[16];    /* loaded: "default", "exact", "fast" */
    char warnings[2048]; /* one a line; empty: none */
} qp_model_info;

#endif
