#include "host_stub/registry/library.h"

#include <dlfcn.h>

#include <boost/dll/shared_library.hpp>
#include <quantplug/host.hpp>
#include <vector>

#include "host_stub/registry/elf_entry.h"

namespace quantplug::host {
namespace {

// Never destroyed: code and data of a plugin may be in use until the very end (a thread of its pool, a borrowed
// string).
std::vector<boost::dll::shared_library>& mapped_libraries() {
    static auto* const libraries = new std::vector<boost::dll::shared_library>;
    return *libraries;
}

}  // namespace

const qp_entry* open_library(const std::filesystem::path& path) {
    const std::string file = path.filename().string();
    if (const std::string reason = why_not_a_plugin(path); !reason.empty())
        throw Error(QP_FAILED_PRECONDITION, file + " " + reason);

    boost::dll::shared_library library;
    boost::dll::fs::error_code failed;
    ::dlerror();
    library.load(boost::dll::fs::path(path.string()), failed,
                 boost::dll::load_mode::rtld_now | boost::dll::load_mode::rtld_local);
    if (failed) {
        const char* reason = ::dlerror();  // Boost's code says only "bad file descriptor"
        throw Error(QP_FAILED_PRECONDITION, file + " cannot be loaded: " + (reason ? reason : failed.message()));
    }
    mapped_libraries().push_back(library);

    const qp_entry* entry = library.has(QP_ENTRY_SYMBOL) ? &library.get<const qp_entry>(QP_ENTRY_SYMBOL) : nullptr;
    if (const std::string problem = entry_problem(entry); !problem.empty())
        throw Error(QP_FAILED_PRECONDITION, file + " cannot be used: " + problem);
    return entry;
}

}  // namespace quantplug::host
