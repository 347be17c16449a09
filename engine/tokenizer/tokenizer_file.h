// A tokenizer.json taken apart: the vocabulary and the merges as they stream by, the small objects as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/added_tokens.h"

namespace quantplug::engine {

struct TokenizerFile {
    struct Piece {
        uint32_t begin, length;  // in `text`
    };
    struct Entry {
        Piece token;
        int32_t id;
    };
    struct Merge {
        Piece left, right;
    };

    enum class Model { bpe, unigram };

    std::string source = "tokenizer.json";
    Model kind = Model::bpe;
    std::string text;  // all tokens of vocab and merges
    std::vector<Entry> vocab;
    std::vector<double> scores;  // unigram: of vocab[i], whose id is i
    std::vector<Merge> merges;
    bool merges_by_rank = false;  // tiktoken: any two tokens that make a third, whose id is the rank
    std::vector<AddedToken> added;
    nlohmann::json normalizer, pre_tokenizer, post_processor, decoder;
    nlohmann::json model;  // its other keys that are of use: type, unk_token, byte_fallback, ...

    std::string_view view(const Piece& piece) const { return std::string_view(text).substr(piece.begin, piece.length); }
};

/// Reads without building a document of the whole; padding and truncation are left out, as a model's context is its
/// host's concern. Errors: not JSON, nested deeper than 64 levels, a vocabulary or merges of another shape, ids that
/// are no numbers from 0 to INT32_MAX. A model type other than BPE and Unigram is an error (unimplemented).
TokenizerFile read_tokenizer_file(std::string_view json, std::string_view name);

}  // namespace quantplug::engine
