// The safetensors header: whatever is accepted lies inside the file and has the size of its type.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "engine/base/error.h"
#include "engine/checkpoint/safetensors.h"

using namespace quantplug::engine;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const MemoryBytes source(std::as_bytes(std::span(data, size)), "fuzz.safetensors");
    try {
        for (const TensorInfo& tensor : read_safetensors_header(source).tensors) {
            if (tensor.offset > size || tensor.bytes > size - tensor.offset) std::abort();
            if (tensor.type != StoredType::unknown && tensor.count() * size_of(tensor.type) != tensor.bytes)
                std::abort();
        }
    } catch (const Error&) {
    }
    return 0;
}
