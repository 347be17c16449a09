#include "host_stub/cli/spelling.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

namespace quantplug::host {
namespace {

constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kSpellings = {{
    {"-mode", "--mode"},
    {"-cf", "--compile-full"},
    {"-hb", "--head-bits"},
    {"-om", "--output-measurement"},
    {"-mr", "--measurement-rows"},
    {"-ml", "--measurement-length"},
    {"-nr", "--no-resume"},
    {"-ss", "--shard-size"},
    {"-rs", "--rope-scale"},
    {"-ra", "--rope-alpha"},
}};

constexpr std::array<std::string_view, 5> kTakeText = {"-p", "--prompt", "--stop", "--system",
                                                       "--dry-sequence-breakers"};

}  // namespace

std::vector<std::string> expand_spellings(std::vector<std::string> arguments) {
    bool is_text = false;
    for (std::string& argument : arguments) {
        if (is_text) {
            is_text = false;
            continue;
        }
        if (argument == "--") break;
        is_text = std::find(kTakeText.begin(), kTakeText.end(), argument) != kTakeText.end();
        for (const auto& [short_form, long_form] : kSpellings)
            if (argument == short_form) argument = long_form;
    }
    return arguments;
}

}  // namespace quantplug::host
