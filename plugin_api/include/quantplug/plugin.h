/* plugin.h - the table of hooks that a plugin fills, and the one symbol that it exports. */
#ifndef QUANTPLUG_PLUGIN_H
#define QUANTPLUG_PLUGIN_H

#include <quantplug/generate.h>
#include <quantplug/model.h>
#include <quantplug/tokenize.h>

/* A host copies the table into its own of the size it knows; slots that are null or beyond struct_size answer QP_UNIMPLEMENTED there. */
typedef struct qp_plugin {
    uint32_t struct_size;
    uint32_t reserved;   /* 0 */

    /* [main-thread] Counted: every successful init is balanced by a deinit. `host` is borrowed until then; the first one is used. */
    int32_t(QP_CALL* init)(const qp_host* host, qp_error* error);

    /* [main-thread] QP_FAILED_PRECONDITION while a model is loaded and this is the last one. */
    int32_t(QP_CALL* deinit)(qp_error* error);

    /* [any-thread] Reads headers and configuration, opens no device. A folder that is not for this plugin is QP_OK with score 0. */
    int32_t(QP_CALL* probe)(const char* path, qp_probe_result* out, qp_error* error);

    /* [any-thread] Load option number `index`; QP_NOT_FOUND past the end. */
    int32_t(QP_CALL* list_load_options)(uint32_t index, qp_option_info* out, qp_error* error);

    /* [any-thread] Facts of a folder, from headers and configuration alone. */
    int32_t(QP_CALL* inspect)(const char* path, qp_model_info* out, qp_error* error);

    /* [any-thread] What load would allocate; nothing is loaded. */
    int32_t(QP_CALL* plan_memory)(const qp_load_params* params, qp_memory_plan* out, qp_error* error);

    /* [any-thread] On success *out is a model to be given to unload; otherwise null, and everything is released. */
    int32_t(QP_CALL* load)(const qp_load_params* params, qp_model** out, qp_error* error);

    /* [any-thread] Cancels what runs on the model, waits for it, frees it. QP_FAILED_PRECONDITION while it has detokenizers or sessions of
     * an extension; the model is then still loaded. */
    int32_t(QP_CALL* unload)(qp_model* model, qp_error* error);

    /* [any-thread] */
    int32_t(QP_CALL* model_info)(qp_model* model, qp_model_info* out, qp_error* error);

    /* [any-thread] Sampling that the model's own files recommend (generation_config.json); fields they do not name are not set. */
    int32_t(QP_CALL* default_sampling)(qp_model* model, qp_sampling* out, qp_error* error);

    /* [any-thread] Ids of text_size bytes of text. *n_ids is the number there are; with ids null nothing more is asked, with capacity < *n_ids
     * QP_OUT_OF_RANGE. Invalid UTF-8 counts as U+FFFD. */
    int32_t(QP_CALL* tokenize)(qp_model* model, const char* text, uint64_t text_size, uint32_t flags, int32_t* ids, uint64_t capacity,
                               uint64_t* n_ids, qp_error* error);

    /* [any-thread] Text of n_ids ids; sizes as in tokenize, no NUL is written. */
    int32_t(QP_CALL* detokenize)(qp_model* model, const int32_t* ids, uint64_t n_ids, uint32_t flags, char* text, uint64_t capacity,
                                 uint64_t* text_size, qp_error* error);

    /* [any-thread] */
    int32_t(QP_CALL* detokenizer_create)(qp_model* model, uint32_t flags, qp_detokenizer** out, qp_error* error);

    /* [one thread at a time for one detokenizer] Text that became certain with `id`: *text_size bytes at *text, borrowed until the next call on
     * this detokenizer. */
    int32_t(QP_CALL* detokenizer_push)(qp_detokenizer* detokenizer, int32_t id, const char** text, uint64_t* text_size, qp_error* error);

    /* As push, for what is left at the end; an unfinished character becomes U+FFFD. The detokenizer starts anew. */
    int32_t(QP_CALL* detokenizer_finish)(qp_detokenizer* detokenizer, const char** text, uint64_t* text_size, qp_error* error);

    /* [any-thread] Null is allowed. */
    void(QP_CALL* detokenizer_destroy)(qp_detokenizer* detokenizer);

    /* [any-thread; calls on one model queue] Runs to the end on the calling thread and calls `on_event` there. The returned status is QP_OK for
     * QP_FINISH_STOP and QP_FINISH_LENGTH, QP_CANCELLED after a cancel. A prompt longer than the context is QP_OUT_OF_RANGE. */
    int32_t(QP_CALL* generate)(qp_model* model, const qp_generate_params* params, qp_event_fn on_event, void* user, qp_error* error);

    /* [any-thread] An extension by id ("quantplug.score/1"), or null. Valid for as long as the library stays mapped. */
    const void*(QP_CALL* get_extension)(const char* id);
} qp_plugin;

/* The exported data. Read before any code of the plugin runs: everything in it is constant. */
typedef struct qp_entry {
    uint32_t struct_size;
    uint32_t draft;          /* QP_ABI_DRAFT that the plugin was compiled with; the host refuses another one */
    const char* name;        /* [a-z0-9_]+, what --backend takes */
    const char* version;     /* of the plugin, for people */
    const char* formats;     /* formats it loads, separated by commas */
    const qp_plugin* plugin;
} qp_entry;

#define QP_ENTRY_SYMBOL "quantplug_entry_v1"

#if defined(QP_BUILDING_PLUGIN)
QP_EXTERN_C QP_EXPORT const qp_entry quantplug_entry_v1;
#endif

#endif
