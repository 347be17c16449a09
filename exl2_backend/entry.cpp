// The plugin's one exported symbol.
#define QP_BUILDING_PLUGIN
#include <quantplug/backend.hpp>

#include "engine/plugin/plugin_backend.h"
#include "exl2_backend/exl2_format.h"
#include "exl2_backend/rtn.h"

namespace quantplug::exl2 {

class Exl2Backend : public engine::PluginBackend {
 public:
    Exl2Backend() : PluginBackend(make_format(), make_quantizer, quantize_arguments()) {}
};

}  // namespace quantplug::exl2

const qp_entry quantplug_entry_v1 =
    quantplug::backend::make_entry<quantplug::exl2::Exl2Backend>("exl2", QP_VERSION, "exl2,plain");
