// GGUF: container, hyperparameters, tensor names and tokenizer, everything before the weights.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "engine/base/error.h"
#include "engine/tools/import_gguf_file.h"
#include "engine/tools/import_gguf_model.h"
#include "engine/tools/import_gguf_tokenizer.h"

using namespace quantplug::engine;

namespace {

template <typename Function>
void attempt(Function function) {
    try {
        function();
    } catch (const Error&) {
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const MemoryBytes source(std::as_bytes(std::span(data, size)), "fuzz.gguf");
    attempt([&] {
        const GgufFile file(source);
        for (const GgufTensor& tensor : file.tensors())
            if (tensor.offset > size || tensor.bytes > size - tensor.offset) std::abort();
        attempt([&] { map_gguf_model(file); });
        // Whatever the model is: the tokenizer must be reached.
        attempt([&] { make_gguf_tokenizer(file, 1 << 20, 4096); });
    });
    return 0;
}
