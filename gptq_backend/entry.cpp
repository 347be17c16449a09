// The plugin's one exported symbol.
#define QP_BUILDING_PLUGIN
#include <quantplug/backend.hpp>

#include "engine/plugin/plugin_backend.h"
#include "gptq_backend/gptq_format.h"
#include "gptq_backend/rtn.h"

namespace quantplug::gptq {

class GptqBackend : public engine::PluginBackend {
 public:
    GptqBackend() : PluginBackend(make_format(), make_quantizer, quantize_arguments()) {}
};

}  // namespace quantplug::gptq

const qp_entry quantplug_entry_v1 =
    quantplug::backend::make_entry<quantplug::gptq::GptqBackend>("gptq", QP_VERSION, "gptq");
