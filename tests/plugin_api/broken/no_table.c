/* An entry without a table. */
#define QP_BUILDING_PLUGIN
#include <quantplug/plugin.h>

const qp_entry quantplug_entry_v1 = {sizeof(qp_entry), QP_ABI_DRAFT, "no_table", "1", "none", 0};
