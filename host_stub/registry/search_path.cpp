#include "host_stub/registry/search_path.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace quantplug::host {
namespace {

std::filesystem::path absolute_path(const std::filesystem::path& path) {
    std::error_code ignored;
    const std::filesystem::path result = std::filesystem::absolute(path, ignored);
    return (result.empty() ? path : result).lexically_normal();
}

std::string_view environment(const char* name) {
    const char* value = std::getenv(name);
    return value ? std::string_view(value) : std::string_view();
}

}  // namespace

std::filesystem::path program_path() {
    std::error_code ignored;
    return std::filesystem::read_symlink("/proc/self/exe", ignored);
}

std::vector<SearchPlace> search_places(const std::filesystem::path& explicit_path) {
    std::vector<SearchPlace> places;
    if (!explicit_path.empty()) places.push_back({absolute_path(explicit_path), "--backend", true});

    std::string_view list = environment("QUANTPLUG_PLUGIN_PATH");
    while (!list.empty()) {
        const size_t colon = list.find(':');
        if (const std::string_view entry = list.substr(0, colon); !entry.empty())
            places.push_back({absolute_path(entry), "QUANTPLUG_PLUGIN_PATH", true});
        list = colon == std::string_view::npos ? std::string_view() : list.substr(colon + 1);
    }

    if (const std::filesystem::path folder = program_path().parent_path(); !folder.empty()) {
        places.push_back({absolute_path(folder / ".." / "lib" / "quantplug"), "beside the program"});
        places.push_back({absolute_path(folder / "lib" / "quantplug"), "beside the program"});
    }
    if (const std::filesystem::path home = environment("HOME"); home.is_absolute())
        places.push_back({absolute_path(home / ".local" / "lib" / "quantplug"), "user"});
    places.push_back({"/usr/local/lib/quantplug", "system"});
    places.push_back({"/usr/lib/quantplug", "system"});

    // An installed program lies beside the system's folder: each place once, under its first origin.
    std::vector<SearchPlace> unique;
    for (SearchPlace& place : places) {
        const auto same = [&](const SearchPlace& other) { return other.path == place.path; };
        if (std::none_of(unique.begin(), unique.end(), same)) unique.push_back(std::move(place));
    }
    return unique;
}

}  // namespace quantplug::host
