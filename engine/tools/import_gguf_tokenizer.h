// tokenizer.json and tokenizer_config.json from a GGUF file's vocabulary, as Hugging Face's own files of these models
// say it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/tools/import_gguf_file.h"

namespace quantplug::engine {

struct ImportedTokenizer {
    std::string tokenizer_json, tokenizer_config_json;
    std::string description;  // "gpt2 (smollm)"
    std::optional<int64_t> bos_id, pad_id;
    std::vector<int64_t> eos_ids;  // the end of text, and of a turn where it is another
};

/// Byte-level BPE (`gpt2` with the pre-tokenisers gpt-2, llama-bpe, qwen2, smollm) and SentencePiece's BPE (`llama`,
/// merges found from the scores). Everything else is refused by name, as are vocabularies that contradict themselves.
/// `n_vocab`: rows of the embedding, at least as many as there are tokens.
ImportedTokenizer make_gguf_tokenizer(const GgufFile& file, int64_t n_vocab, int64_t max_positions);

}  // namespace quantplug::engine
