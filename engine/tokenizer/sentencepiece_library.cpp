#include "engine/tokenizer/sentencepiece_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <string>

#include "engine/base/error.h"
#include "kernels/device.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define QP_NO_DEEPBIND 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define QP_NO_DEEPBIND 1
#endif

namespace quantplug::engine {
namespace {

constexpr const char* library_name = "libquantplug_sentencepiece.so";

// Its own protobuf must win over one that the host has loaded; the sanitizers refuse that.
#ifdef QP_NO_DEEPBIND
constexpr int open_flags = RTLD_NOW | RTLD_LOCAL;
#else
constexpr int open_flags = RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND;
#endif

std::filesystem::path folder_of(const void* address) {
    Dl_info info{};
    if (!dladdr(address, &info) || !info.dli_fname) return {};
    std::error_code error;
    const std::filesystem::path file = std::filesystem::canonical(info.dli_fname, error);
    return error ? std::filesystem::path() : file.parent_path();
}

}  // namespace

const qp_sp_functions& sentencepiece_library() {
    const std::filesystem::path kernels = folder_of(reinterpret_cast<const void*>(&kernels::make_cpu_device));
    const std::filesystem::path plugin = folder_of(reinterpret_cast<const void*>(&sentencepiece_library));
    std::string tried;
    for (const std::filesystem::path& folder : {kernels, plugin.parent_path(), plugin}) {
        const std::filesystem::path file = folder / library_name;
        std::error_code ignored;
        if (folder.empty() || !std::filesystem::exists(file, ignored)) {
            tried += (tried.empty() ? "" : ", ") + folder.string();
            continue;
        }
        void* handle = dlopen(file.c_str(), open_flags);
        if (!handle) fail(Code::failed_precondition, file.string(), " cannot be loaded: ", dlerror());
        const auto entry =
            reinterpret_cast<const qp_sp_functions* (*)(void)>(dlsym(handle, "quantplug_sentencepiece_v1"));
        const qp_sp_functions* functions = entry ? entry() : nullptr;
        if (!functions || functions->abi != QP_SP_ABI)
            fail(Code::failed_precondition, file.string(),
                 " is of another version: install it together with the plugins");
        return *functions;
    }
    fail(Code::failed_precondition, library_name, " is missing in ", tried,
         ": install it there, or put a tokenizer.json into the model's folder");
}

}  // namespace quantplug::engine
