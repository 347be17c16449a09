/* options.h - load options: typed, with range, default and help, so that a user interface can draw them. */
#ifndef QUANTPLUG_OPTIONS_H
#define QUANTPLUG_OPTIONS_H

#include <quantplug/base.h>

/* One option as text. Array element: fixed for ever. */
typedef struct qp_option {
    const char* key;
    const char* value;
} qp_option;

#define QP_OPTION_INT 0     /* decimal */
#define QP_OPTION_BOOL 1    /* 0 or 1 */
#define QP_OPTION_CHOICE 2  /* one of `choices` */
#define QP_OPTION_TEXT 3

/* Description of one option; strings are borrowed for as long as the library stays mapped. */
typedef struct qp_option_info {
    uint32_t struct_size;
    uint32_t type;              /* QP_OPTION_* */
    const char* key;
    const char* help;           /* one sentence */
    const char* default_value;
    const char* choices;        /* "a|b|c" for QP_OPTION_CHOICE, otherwise null */
    int64_t minimum, maximum;   /* QP_OPTION_INT, inclusive */
} qp_option_info;

#endif
