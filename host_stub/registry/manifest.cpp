#include "host_stub/registry/manifest.h"

#include <quantplug/base.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

namespace quantplug::host {
namespace {

constexpr std::streamsize kMaxBytes = 64 * 1024;  // a manifest has some 100 bytes

using Json = nlohmann::json;

// Whether manifest[key] is the integer `expected`; otherwise a reason.
std::string why_not_number(const Json& manifest, const char* key, uint64_t expected) {
    const auto found = manifest.find(key);
    if (found == manifest.end()) return std::string("is a manifest without \"") + key + "\"";
    if (!found->is_number_unsigned()) return std::string("has a \"") + key + "\" that is not a whole number";
    const auto value = found->get<uint64_t>();
    if (value == expected) return "";
    if (std::string_view(key) == "abi")
        return "speaks ABI " + std::to_string(value) + ", this host " + std::to_string(expected);
    return "is a manifest of version " + std::to_string(value) + ", this host reads " + std::to_string(expected);
}

std::string read_library(const Json& manifest, const std::filesystem::path& folder, std::filesystem::path& library) {
    const auto found = manifest.find("library");
    if (found == manifest.end() || !found->is_string()) return "is a manifest without a \"library\" text";
    const auto& text = found->get_ref<const std::string&>();
    const std::filesystem::path relative = text;
    if (text.empty() || text.find('\0') != std::string::npos || !relative.has_filename())
        return "has a \"library\" that is no file name";
    if (relative.is_absolute()) return "names its library by an absolute path; it must be relative to the manifest";
    if (std::find(relative.begin(), relative.end(), "..") != relative.end())
        return "names a library outside its own folder (\"..\" is not allowed)";
    library = folder / relative;
    return "";
}

}  // namespace

bool is_plugin_name(std::string_view name) {
    return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
    });
}

Manifest read_manifest(const std::filesystem::path& path) {
    Manifest result;
    std::error_code unreadable;
    if (!std::filesystem::is_regular_file(path, unreadable)) {
        result.problem = "is not a regular file";
        return result;
    }
    std::ifstream file(path, std::ios::binary);
    std::string text(static_cast<size_t>(kMaxBytes) + 1, '\0');
    if (!file || (!file.read(text.data(), kMaxBytes + 1) && !file.eof())) {
        result.problem = "cannot be read";
        return result;
    }
    if (file.gcount() > kMaxBytes) {
        result.problem = "is larger than a manifest can be (64 KiB)";
        return result;
    }
    text.resize(static_cast<size_t>(file.gcount()));

    const Json manifest = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!manifest.is_object()) {
        result.problem = "is not a JSON object";
        return result;
    }
    if (const auto name = manifest.find("name"); name != manifest.end() && name->is_string()) {
        if (is_plugin_name(name->get_ref<const std::string&>())) result.name = name->get<std::string>();
    }
    if (const auto abi = manifest.find("abi"); abi != manifest.end() && abi->is_number_unsigned())
        result.abi = static_cast<uint32_t>(std::min<uint64_t>(abi->get<uint64_t>(), UINT32_MAX));
    result.problem = why_not_number(manifest, "manifest", 1);
    if (result.problem.empty() && result.name.empty())
        result.problem = "has no \"name\" of lower-case letters, digits and underscores";
    if (result.problem.empty()) result.problem = read_library(manifest, path.parent_path(), result.library);
    if (result.problem.empty()) result.problem = why_not_number(manifest, "abi", QP_ABI_MAJOR);
    return result;
}

}  // namespace quantplug::host
