// Renders templates for scripts/compare_templates.py: a JSON document a line in, {"template", "variables", "now"}, and
// one a line out, {"text"} or {"error"}.
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/chat/jinja/template.h"

int main() {
    using namespace quantplug::engine;
    using OrderedJson = nlohmann::ordered_json;
    std::ios::sync_with_stdio(false);
    std::string line, source;
    std::unique_ptr<jinja::Template> parsed;
    while (std::getline(std::cin, line)) {
        OrderedJson out;
        try {
            const OrderedJson request = OrderedJson::parse(line);
            const auto& text = request.at("template").get_ref<const std::string&>();
            if (!parsed || source != text) {
                parsed.reset();
                parsed = std::make_unique<jinja::Template>(text, "template");
                source = text;
            }
            std::vector<jinja::Variable> variables;
            for (const auto& one : request.at("variables").items())
                variables.push_back({one.key(), &one.value(), true});
            out["text"] = parsed->render(variables, request.value("now", std::time_t{0})).bytes();
        } catch (const Error& error) {
            out["error"] = error.what();
        }
        std::cout << out.dump() << "\n";
    }
    return 0;
}
