// The built plugins, opened as a host opens them.
#pragma once

#include <dlfcn.h>

#include <quantplug/host.hpp>
#include <string>

namespace quantplug::test {

inline Plugin open_plugin(const std::string& name) {
    const std::string path = std::string(QP_PLUGIN_DIR) + "/libquantplug_" + name + ".so";
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);  // stays mapped until exit
    if (!library) throw Error(QP_NOT_FOUND, dlerror());
    static Host host;  // quiet: warnings of the models here are expected
    return Plugin(static_cast<const qp_entry*>(dlsym(library, QP_ENTRY_SYMBOL)), host.table());
}

}  // namespace quantplug::test
