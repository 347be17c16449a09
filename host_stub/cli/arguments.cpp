#include "host_stub/cli/arguments.h"

#include <charconv>
#include <string_view>

#include "host_stub/cli/failure.h"
#include "host_stub/cli/utf8.h"

namespace quantplug::host {

std::vector<int32_t> parse_ids(const std::string& text) {
    std::string_view rest = text;
    const auto trim = [&] {
        while (!rest.empty() && std::string_view(" \t\r\n").find(rest.front()) != std::string_view::npos)
            rest.remove_prefix(1);
        while (!rest.empty() && std::string_view(" \t\r\n").find(rest.back()) != std::string_view::npos)
            rest.remove_suffix(1);
    };
    trim();
    if (rest.size() >= 2 && rest.front() == '[' && rest.back() == ']') {
        rest = rest.substr(1, rest.size() - 2);
        trim();
    }
    std::vector<int32_t> ids;
    while (!rest.empty()) {
        int32_t id = 0;
        const auto [end, problem] = std::from_chars(rest.data(), rest.data() + rest.size(), id);
        const auto used = static_cast<size_t>(end - rest.data());
        const std::string_view separators = ", \t\r\n";
        if (problem != std::errc() || id < 0 ||
            (used < rest.size() && separators.find(rest[used]) == std::string_view::npos))
            throw UsageError("'" + printable(rest.substr(0, rest.find_first_of(separators))) +
                             "' is not a token id; ids are whole numbers separated by commas, like 1,2,3");
        ids.push_back(id);
        rest.remove_prefix(used);
        bool comma = false;
        while (!rest.empty() && separators.find(rest.front()) != std::string_view::npos) {
            if (rest.front() == ',') {
                if (comma) break;  // "1,,2"
                comma = true;
            }
            rest.remove_prefix(1);
        }
        if (comma && rest.empty()) throw UsageError("the list of token ids ends in a comma");
    }
    return ids;
}

std::pair<std::string, std::string> parse_option(const std::string& text) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0)
        throw UsageError("--option '" + printable(text) + "' is not KEY=VALUE");
    return {text.substr(0, equals), text.substr(equals + 1)};
}

}  // namespace quantplug::host
