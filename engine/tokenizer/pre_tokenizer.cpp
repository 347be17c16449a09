#include "engine/tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {
namespace {

// GPT-2's encoder.py; the expression that ByteLevel's use_regex means.
constexpr std::string_view gpt2_expression =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// \w+|[^\w\s]+ with the \w of Rust's regex crate.
constexpr std::string_view whitespace_expression =
    R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}\s]+)";
constexpr std::string_view punctuation_expression = R"([\p{P}$+<=>^`|~])";

SplitBehavior behavior_of(const nlohmann::json& json, std::string_view name) {
    const std::string text = string_field(json, "behavior", name);
    if (text == "Removed") return SplitBehavior::removed;
    if (text == "Isolated") return SplitBehavior::isolated;
    if (text == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
    if (text == "MergedWithNext") return SplitBehavior::merged_with_next;
    if (text == "Contiguous") return SplitBehavior::contiguous;
    fail(Code::invalid_argument, name, ": a pre_tokenizer's behavior is ", in_quotes(text),
         ", not Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

}  // namespace

void split_at(const Word& word, const std::vector<Match>& matches, SplitBehavior behavior, bool invert,
              std::vector<Word>& out) {
    const auto size = static_cast<uint32_t>(word.text.size());
    const auto emit = [&](uint32_t begin, uint32_t end) {
        if (begin < end) out.push_back({word.text.substr(begin, end - begin), word.at_start && begin == 0});
    };
    // The text as alternating spans; visit(begin, end, is_delimiter). Two matches without anything between them follow
    // each other.
    const auto spans = [&](auto visit) {
        uint32_t done = 0;
        for (const Match& match : matches) {
            if (match.begin > done) visit(done, match.begin, invert);
            visit(match.begin, match.end, !invert);
            done = match.end;
        }
        if (done < size || size == 0) visit(done, size, invert);
    };
    uint32_t open_begin = 0, open_end = 0;  // the span not yet emitted
    bool open = false, previous = false;
    switch (behavior) {
        case SplitBehavior::removed:
            spans([&](uint32_t begin, uint32_t end, bool delimiter) {
                if (!delimiter) emit(begin, end);
            });
            return;
        case SplitBehavior::isolated:
            spans([&](uint32_t begin, uint32_t end, bool) { emit(begin, end); });
            return;
        case SplitBehavior::contiguous:
        case SplitBehavior::merged_with_previous:
            spans([&](uint32_t begin, uint32_t end, bool delimiter) {
                const bool joins =
                    behavior == SplitBehavior::contiguous ? delimiter == previous : delimiter && !previous;
                if (open && joins) {
                    open_end = end;
                } else {
                    if (open) emit(open_begin, open_end);
                    open_begin = begin;
                    open_end = end;
                    open = true;
                }
                previous = delimiter;
            });
            if (open) emit(open_begin, open_end);
            return;
        case SplitBehavior::merged_with_next:
            // From the right, as Hugging Face does: of several delimiters in a row the last one joins what follows.
            spans([&](uint32_t begin, uint32_t end, bool delimiter) {
                if (open && previous && !delimiter) {
                    open_end = end;
                } else {
                    if (open) emit(open_begin, open_end);
                    open_begin = begin;
                    open_end = end;
                    open = true;
                }
                previous = delimiter;
            });
            if (open) emit(open_begin, open_end);
            return;
    }
}

PreTokenizer PreTokenizer::parse(const nlohmann::json& json, std::string_view name) {
    PreTokenizer out;
    out.name_ = name;
    if (json.is_null()) return out;
    for (const nlohmann::json* part : flatten_sequence(json, "pretokenizers", name, "pre_tokenizer"))
        out.add(*part, name);
    if (!out.stages_.empty() && out.stages_.back().kind == Kind::map_bytes) {
        out.stages_.pop_back();
        out.raw_bytes_ = true;
    }
    return out;
}

void PreTokenizer::add_split(Regex pattern, SplitBehavior behavior, bool invert) {
    Stage stage;
    stage.pattern = std::move(pattern);
    stage.behavior = behavior;
    stage.invert = invert;
    stages_.push_back(std::move(stage));
}

void PreTokenizer::add_metaspace(const nlohmann::json& json, std::string_view name) {
    Stage stage;
    stage.kind = Kind::metaspace;
    stage.replacement = char_field(json, "replacement", name);
    const std::string scheme = json.contains("prepend_scheme") ? string_field(json, "prepend_scheme", name) : "always";
    if (scheme != "first" && scheme != "never" && scheme != "always")
        fail(Code::invalid_argument, name, ": prepend_scheme is ", in_quotes(scheme), ", not first, never or always");
    stage.scheme = scheme == "first" ? Scheme::first : scheme == "never" ? Scheme::never : Scheme::always;
    if (!bool_field(json, "add_prefix_space", true, name)) stage.scheme = Scheme::never;
    const std::string replacement = stage.replacement;
    stages_.push_back(std::move(stage));
    if (bool_field(json, "split", true, name)) add_split(Regex::literal(replacement), SplitBehavior::merged_with_next);
}

void PreTokenizer::add(const nlohmann::json& json, std::string_view name) {
    const std::string type = type_of(json, name, "pre_tokenizer");
    if (type == "ByteLevel") {
        Stage stage;
        if (bool_field(json, "add_prefix_space", true, name)) {
            stage.kind = Kind::prefix_space;
            stages_.push_back(std::move(stage));
        }
        if (bool_field(json, "use_regex", true, name))
            add_split(Regex::compile(gpt2_expression, name), SplitBehavior::isolated);
        Stage map;
        map.kind = Kind::map_bytes;
        stages_.push_back(std::move(map));
    } else if (type == "Split") {
        add_split(pattern_field(json, name), behavior_of(json, name), bool_field(json, "invert", false, name));
    } else if (type == "Digits") {
        add_split(Regex::compile("\\p{N}", name), bool_field(json, "individual_digits", false, name)
                                                      ? SplitBehavior::isolated
                                                      : SplitBehavior::contiguous);
    } else if (type == "Metaspace") {
        add_metaspace(json, name);
    } else if (type == "Punctuation") {
        add_split(Regex::compile(punctuation_expression, name),
                  json.contains("behavior") ? behavior_of(json, name) : SplitBehavior::isolated);
    } else if (type == "Whitespace") {
        add_split(Regex::compile(whitespace_expression, name), SplitBehavior::removed, true);
    } else if (type == "WhitespaceSplit") {
        add_split(Regex::compile("\\s", name), SplitBehavior::removed);
    } else if (type == "CharDelimiterSplit") {
        add_split(Regex::literal(char_field(json, "delimiter", name)), SplitBehavior::removed);
    } else if (type == "BertPreTokenizer") {
        add_split(Regex::compile("\\s", name), SplitBehavior::removed);
        add_split(Regex::compile(punctuation_expression, name), SplitBehavior::isolated);
    } else if (type == "FixedLength") {
        const int32_t length = json.contains("length") ? int_field(json, "length", name) : 5;
        if (length < 1 || length > UINT16_MAX)  // what a PCRE2 repeat takes
            fail(Code::invalid_argument, name, ": a FixedLength pre_tokenizer's length is ", length, ", not 1 to ",
                 UINT16_MAX);
        add_split(Regex::compile(concat("(?m:.{1,", length, "})"), name), SplitBehavior::isolated);
    } else {
        fail(Code::unimplemented, name, ": pre_tokenizer '", type,
             "' is not supported: no tokenizer of a model that generates text is known to use it");
    }
}

const std::vector<Word>& PreTokenizer::split(const Word& text, PreTokenizerScratch& scratch) const {
    scratch.texts.clear();
    scratch.words.assign(1, text);
    uint64_t grown = 0;  // bytes of this stage's texts
    const auto keep = [&](std::string changed) -> std::string_view {
        grown += changed.size();
        if (grown > grown_text_limit(text.text.size()))
            fail(Code::resource_exhausted, name_,
                 ": a ByteLevel or Metaspace step of the pre_tokenizer makes more than ",
                 grown_text_limit(text.text.size()), " bytes of a text of ", text.text.size(),
                 ": take the step out, or download the file again");
        return scratch.texts.emplace_back(std::move(changed));
    };
    for (const Stage& stage : stages_) {
        scratch.next.clear();
        grown = 0;
        for (const Word& word : scratch.words) {
            switch (stage.kind) {
                case Kind::split:
                    scratch.matches.clear();
                    stage.pattern.find_all(word.text, scratch.regex, scratch.matches);
                    split_at(word, scratch.matches, stage.behavior, stage.invert, scratch.next);
                    break;
                case Kind::prefix_space:
                    if (word.text.starts_with(' '))
                        scratch.next.push_back(word);
                    else
                        scratch.next.push_back({keep(std::string(1, ' ').append(word.text)), word.at_start});
                    break;
                case Kind::metaspace: {
                    const bool prepend =
                        !word.text.starts_with(' ') && !word.text.starts_with(stage.replacement) &&
                        (stage.scheme == Scheme::always || (stage.scheme == Scheme::first && word.at_start));
                    std::string changed = prepend ? stage.replacement : "";
                    for (char c : word.text) {
                        if (c == ' ')
                            changed += stage.replacement;
                        else
                            changed += c;
                    }
                    scratch.next.push_back({keep(std::move(changed)), word.at_start});
                    break;
                }
                case Kind::map_bytes:
                    scratch.next.push_back({keep(map_bytes(word.text)), word.at_start});
                    break;
            }
        }
        scratch.words.swap(scratch.next);
    }
    return scratch.words;
}

}  // namespace quantplug::engine
