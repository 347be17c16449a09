/* A plugin that was compiled against the next draft. */
#define QP_BUILDING_PLUGIN
#include <quantplug/plugin.h>

static const qp_plugin table = {.struct_size = sizeof(qp_plugin)};
const qp_entry quantplug_entry_v1 = {sizeof(qp_entry), QP_ABI_DRAFT + 1, "other_draft", "1", "none", &table};
