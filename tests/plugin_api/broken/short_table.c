/* A table that ends before load. */
#define QP_BUILDING_PLUGIN
#include <quantplug/plugin.h>

static const qp_plugin table = {.struct_size = offsetof(qp_plugin, load)};
const qp_entry quantplug_entry_v1 = {sizeof(qp_entry), QP_ABI_DRAFT, "short_table", "1", "none", &table};
