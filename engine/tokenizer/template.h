// The post_processor of a tokenizer.json: ids put around the text's own.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string_view>
#include <vector>

namespace quantplug::engine {

struct Template {
    std::vector<int32_t> before, after;

    /// The object of the key "post_processor", or null. Known: TemplateProcessing (its "single" form), BertProcessing,
    /// RobertaProcessing, ByteLevel (concerns offsets only), Sequence of these. Ids must be below `n_ids`.
    static Template parse(const nlohmann::json& json, int32_t n_ids, std::string_view name);
};

}  // namespace quantplug::engine
