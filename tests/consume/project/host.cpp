// The same host in C++17: host_cpp <plugin> <model folder>.
#include <dlfcn.h>

#include <cstdio>
#include <quantplug/host.hpp>

int main(int argc, char** argv) try {
    if (argc != 3) return 2;
    void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) throw quantplug::Error(QP_NOT_FOUND, dlerror());
    quantplug::Host host;
    quantplug::Plugin plugin(static_cast<const qp_entry*>(dlsym(library, QP_ENTRY_SYMBOL)), host.table());
    quantplug::GenerateRequest request;
    request.prompt = {0};
    plugin.load(argv[2]).generate(request, [](const qp_event& event) {
        return std::fwrite(event.text, 1, static_cast<size_t>(event.text_size), stdout) == event.text_size;
    });
    std::puts("");
    return 0;
} catch (const quantplug::Error& error) {
    std::fprintf(stderr, "error %d: %s\n", static_cast<int>(error.code()), error.what());
    return 1;
}
