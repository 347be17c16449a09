// The reader of a library's dynamic symbols: any bytes end in a verdict.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "host_stub/registry/elf_entry.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string reason = quantplug::host::why_not_a_plugin(std::as_bytes(std::span(data, size)));
    if (reason.find('\n') != std::string::npos) std::abort();  // the end of one sentence
    return 0;
}
