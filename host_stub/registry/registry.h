// Finds plugins, says why a candidate is none, and loads them.
#pragma once

#include <filesystem>
#include <optional>
#include <quantplug/host.hpp>
#include <string>
#include <vector>

#include "host_stub/registry/search_path.h"

namespace quantplug::host {

/// A manifest or library that was found, and what became of it.
struct Candidate {
    std::string name;                // the manifest's, later the entry's; empty while unknown
    std::filesystem::path manifest;  // empty: a library without one
    std::filesystem::path library;   // empty: the manifest did not name one
    std::string origin;              // SearchPlace::origin
    uint32_t abi = 0;                // major version it says it speaks; 0: unknown
    std::string rejected;            // one sentence why it cannot be used; empty: it can, or was not tried yet
    std::optional<Plugin> plugin;    // once loaded and initialised

    const std::filesystem::path& path() const { return library.empty() ? manifest : library; }
};

/// Candidates in order of their places, by file name within a folder. Libraries are opened by absolute path with
/// rtld_now | rtld_local, after a look at their symbols, and stay mapped until the process ends. One thread.
class Registry {
 public:
    /// Lists the candidates; opens no library. `host` must outlive the registry and every plugin of it.
    Registry(std::vector<SearchPlace> places, const qp_host* host);

    const std::vector<SearchPlace>& places() const { return places_; }
    const std::vector<Candidate>& candidates() const { return candidates_; }

    /// Loads every candidate that can be. Of several with one name the first usable one wins, the others are rejected.
    void load_all();

    /// Loads the first usable candidate called `name`; null where there is none (the candidates then say why).
    const Plugin* find(const std::string& name);

    /// Loads the first candidate of the place `index`; null where it was rejected.
    const Plugin* load_place(size_t index);

    /// The loaded plugins, in the candidates' order.
    std::vector<const Plugin*> plugins() const;

 private:
    void discover(const SearchPlace& place);
    void discover_folder(const SearchPlace& place);
    void add_manifest(const std::filesystem::path& path, const std::string& origin);
    const Plugin* load(Candidate& candidate);

    std::vector<SearchPlace> places_;
    std::vector<size_t> first_of_place_;  // index into candidates_
    std::vector<Candidate> candidates_;
    const qp_host* host_;
};

}  // namespace quantplug::host
