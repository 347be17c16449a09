/* Libraries that are almost plugins, one a VARIANT. None of their hooks is ever to run. */
#include <quantplug/plugin.h>
#include <stdlib.h>

#define OTHER_MAJOR 1
#define FUNCTION_ENTRY 2
#define SHORT_ENTRY 3
#define SHORT_STRUCT_SIZE 4
#define SHORT_TABLE 5
#define OTHER_DRAFT 6
#define UNRESOLVED 7
#define NO_ENTRY 8
#define OTHER_NAME 9
#define INIT_FAILS 10

#if VARIANT != OTHER_MAJOR && VARIANT != SHORT_ENTRY && VARIANT != INIT_FAILS
static int32_t QP_CALL never(const qp_host* host, qp_error* error) {
    (void)host;
    (void)error;
    abort();
}
#endif

#if VARIANT == OTHER_MAJOR
QP_EXPORT const uint32_t quantplug_entry_v2[16] = {64};
#elif VARIANT == FUNCTION_ENTRY
QP_EXPORT int32_t quantplug_entry_v1(void);
int32_t quantplug_entry_v1(void) { return never(0, 0); }
#elif VARIANT == SHORT_ENTRY
QP_EXPORT const uint32_t quantplug_entry_v1[2] = {8, QP_ABI_DRAFT};
#elif VARIANT == NO_ENTRY
QP_EXPORT int32_t something_else(void);
int32_t something_else(void) { return never(0, 0); }
#else

#if VARIANT == UNRESOLVED
extern int32_t QP_CALL symbol_that_nobody_has(qp_error* error);
#define DEINIT symbol_that_nobody_has
#else
#define DEINIT 0
#endif

#if VARIANT == INIT_FAILS
static int32_t QP_CALL refuse(const qp_host* host, qp_error* error) {
    static const char text[] = "this machine is not good enough";
    (void)host;
    if (error) {
        error->code = QP_UNAVAILABLE;
        for (size_t i = 0; i < sizeof text; ++i) error->message[i] = text[i];
    }
    return QP_UNAVAILABLE;
}
#define INIT refuse
#else
#define INIT never
#endif

static const qp_plugin table = {
    .struct_size = VARIANT == SHORT_TABLE ? 24 : sizeof(qp_plugin), .init = INIT, .deinit = DEINIT};

QP_EXPORT const qp_entry quantplug_entry_v1 = {
    .struct_size = VARIANT == SHORT_STRUCT_SIZE ? 12 : sizeof(qp_entry),
    .draft = VARIANT == OTHER_DRAFT ? QP_ABI_DRAFT + 1 : QP_ABI_DRAFT,
    .name = "variant",
    .version = "1.0",
    .formats = "none",
    .plugin = &table,
};
#endif
