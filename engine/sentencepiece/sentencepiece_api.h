/* The C interface of libquantplug_sentencepiece: a SentencePiece model behind a handle.
 * The library holds libsentencepiece and its protobuf; the engine opens it at run time, so that their symbols meet
 * nobody else's. Every function may be called from any thread; a handle is immutable. No exception leaves the library.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QP_SP_ABI 1

#define QP_SP_NORMAL 1
#define QP_SP_UNKNOWN 2
#define QP_SP_CONTROL 3
#define QP_SP_UNUSED 5
#define QP_SP_BYTE 6

typedef struct qp_sp_model qp_sp_model;

typedef struct qp_sp_functions {
    uint32_t abi; /* QP_SP_ABI */
    uint32_t reserved;
    /* A model from the bytes of a tokenizer.model; null with text in `error` (cut to its size, always terminated).
       keep_prefix 0: encode() puts no space in front of a text, whatever the model says. */
    qp_sp_model* (*open)(const void* bytes, size_t size, int32_t keep_prefix, char* error, size_t error_size);
    void (*close)(qp_sp_model* model);
    int32_t (*size)(const qp_sp_model* model);
    /* The piece of an id, 0 <= id < size(); borrowed until close(). */
    const char* (*piece)(const qp_sp_model* model, int32_t id, size_t* length);
    int32_t (*type)(const qp_sp_model* model, int32_t id);                     /* QP_SP_... */
    int32_t (*id)(const qp_sp_model* model, const char* piece, size_t length); /* -1: none */
    int32_t (*bos)(const qp_sp_model* model);                                  /* -1: none */
    int32_t (*eos)(const qp_sp_model* model);
    int32_t (*unk)(const qp_sp_model* model);
    int32_t (*adds_prefix_space)(const qp_sp_model* model); /* 1: a text gets a space in front */
    /* Calls emit(context, id) for every id of a valid UTF-8 text; 0, or -1 with text in `error`. */
    int32_t (*encode)(const qp_sp_model* model, const char* text, size_t length,
                      void (*emit)(void* context, int32_t id), void* context, char* error, size_t error_size);
} qp_sp_functions;

/* The one exported symbol. */
__attribute__((visibility("default"))) const qp_sp_functions* quantplug_sentencepiece_v1(void);

#ifdef __cplusplus
}
#endif
