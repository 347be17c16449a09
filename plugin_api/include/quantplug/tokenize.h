/* tokenize.h - text to token ids and back. */
#ifndef QUANTPLUG_TOKENIZE_H
#define QUANTPLUG_TOKENIZE_H

#include <quantplug/base.h>

/* Flags of tokenize, detokenize and detokenizer_create. */
#define QP_BOS_AUTO 0u       /* BOS as the tokenizer's own files say */
#define QP_BOS_ON 1u
#define QP_BOS_OFF 2u
#define QP_SPECIAL_TEXT 4u   /* in: text like "<|im_start|>" is the token; out: special tokens are written as their text */

/* Turns ids into text one by one, in whole UTF-8 characters. Belongs to a model; destroy it before unload. */
typedef struct qp_detokenizer qp_detokenizer;

#endif
