/* A plugin of another major version: its entry has another name. */
#include <quantplug/plugin.h>

QP_EXPORT const qp_entry quantplug_entry_v2 = {sizeof(qp_entry), QP_ABI_DRAFT, "other_major", "1", "none", 0};
