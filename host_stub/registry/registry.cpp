#include "host_stub/registry/registry.h"

#include <algorithm>
#include <set>
#include <utility>

#include "host_stub/registry/library.h"
#include "host_stub/registry/manifest.h"

namespace quantplug::host {
namespace {

namespace fs = std::filesystem;

// "libx.so" and "libx.so.1.2"
bool is_library_name(const fs::path& path) {
    const std::string name = path.filename().string();
    const size_t at = name.rfind(".so");
    return at != std::string::npos && at != 0 &&
           std::all_of(name.begin() + static_cast<std::ptrdiff_t>(at) + 3, name.end(),
                       [](char c) { return c == '.' || (c >= '0' && c <= '9'); });
}

bool is_manifest_name(const fs::path& path) { return path.extension() == ".json"; }

}  // namespace

Registry::Registry(std::vector<SearchPlace> places, const qp_host* host) : places_(std::move(places)), host_(host) {
    for (const SearchPlace& place : places_) {
        first_of_place_.push_back(candidates_.size());
        discover(place);
    }
    first_of_place_.push_back(candidates_.size());
}

void Registry::discover(const SearchPlace& place) {
    std::error_code failed;
    const fs::file_status status = fs::status(place.path, failed);
    if (status.type() == fs::file_type::directory) {
        discover_folder(place);
    } else if (status.type() == fs::file_type::not_found || status.type() == fs::file_type::none) {
        if (!place.named) return;
        Candidate candidate;
        candidate.library = place.path;
        candidate.origin = place.origin;
        candidate.rejected = place.path.filename().string() +
                             " cannot be opened: " + (failed ? failed.message() : "there is no such file or folder");
        candidates_.push_back(std::move(candidate));
    } else if (is_manifest_name(place.path)) {
        add_manifest(place.path, place.origin);
    } else {
        Candidate candidate;
        candidate.library = place.path;
        candidate.origin = place.origin;
        candidates_.push_back(std::move(candidate));
    }
}

void Registry::discover_folder(const SearchPlace& place) {
    std::vector<fs::path> manifests, libraries;
    std::error_code failed;
    for (fs::directory_iterator it(place.path, failed), end; !failed && it != end; it.increment(failed)) {
        if (is_manifest_name(it->path()))
            manifests.push_back(it->path());
        else if (is_library_name(it->path()))
            libraries.push_back(it->path());
    }
    std::sort(manifests.begin(), manifests.end());
    std::sort(libraries.begin(), libraries.end());

    std::set<fs::path> named;
    for (const fs::path& manifest : manifests) {
        add_manifest(manifest, place.origin);
        named.insert(candidates_.back().library.lexically_normal());
    }
    for (const fs::path& library : libraries) {
        if (named.count(library.lexically_normal())) continue;
        Candidate candidate;
        candidate.library = library;
        candidate.origin = place.origin;
        candidate.rejected = library.filename().string() +
                             " has no manifest beside it; give its path to --backend to use it all the same";
        candidates_.push_back(std::move(candidate));
    }
    if (failed) {
        Candidate candidate;
        candidate.library = place.path;
        candidate.origin = place.origin;
        candidate.rejected = "the folder cannot be read: " + failed.message();
        candidates_.push_back(std::move(candidate));
    }
}

void Registry::add_manifest(const fs::path& path, const std::string& origin) {
    Manifest manifest = read_manifest(path);
    Candidate candidate;
    candidate.name = std::move(manifest.name);
    candidate.manifest = path;
    candidate.library = std::move(manifest.library);
    candidate.origin = origin;
    candidate.abi = manifest.abi;
    if (!manifest.problem.empty()) candidate.rejected = path.filename().string() + " " + manifest.problem;
    candidates_.push_back(std::move(candidate));
}

const Plugin* Registry::load(Candidate& candidate) {
    if (candidate.plugin) return &*candidate.plugin;
    if (!candidate.rejected.empty()) return nullptr;
    const auto taken_by = [&](const std::string& name) {
        return std::find_if(candidates_.begin(), candidates_.end(),
                            [&](const Candidate& other) { return other.plugin && other.name == name; });
    };
    const auto reject_duplicate = [&](const Candidate& winner) {
        candidate.rejected = "another plugin named '" + winner.name + "' comes first: " + winner.path().string();
        return nullptr;
    };
    if (const auto winner = taken_by(candidate.name); !candidate.name.empty() && winner != candidates_.end())
        return reject_duplicate(*winner);
    try {
        // The loader finds $ORIGIN from the path as given, so symbolic links are resolved first.
        std::error_code missing;
        const fs::path real = fs::canonical(candidate.library, missing);
        if (missing)
            throw Error(QP_NOT_FOUND,
                        candidate.library.filename().string() + " cannot be opened: " + missing.message());
        const qp_entry* entry = open_library(real);
        candidate.abi = QP_ABI_MAJOR;
        if (!candidate.manifest.empty() && candidate.name != entry->name)
            throw Error(QP_FAILED_PRECONDITION, candidate.manifest.filename().string() + " calls its plugin '" +
                                                    candidate.name + "', and the library calls itself '" + entry->name +
                                                    "'");
        candidate.name = entry->name;
        if (const auto winner = taken_by(candidate.name); winner != candidates_.end()) return reject_duplicate(*winner);
        candidate.plugin.emplace(entry, host_);
    } catch (const Error& error) {
        candidate.rejected = error.what();
        return nullptr;
    }
    return &*candidate.plugin;
}

void Registry::load_all() {
    for (Candidate& candidate : candidates_) load(candidate);
}

const Plugin* Registry::find(const std::string& name) {
    for (Candidate& candidate : candidates_)
        if (candidate.name == name)
            if (const Plugin* plugin = load(candidate)) return plugin;
    return nullptr;
}

const Plugin* Registry::load_place(size_t index) {
    const size_t first = first_of_place_.at(index);
    return first < first_of_place_.at(index + 1) ? load(candidates_[first]) : nullptr;
}

std::vector<const Plugin*> Registry::plugins() const {
    std::vector<const Plugin*> loaded;
    for (const Candidate& candidate : candidates_)
        if (candidate.plugin) loaded.push_back(&*candidate.plugin);
    return loaded;
}

}  // namespace quantplug::host
