// A whole backend, to start from: copy it and replace what reads and what generates.
//
// Its "model" is a folder with words.txt, one word a line: token i is line i, and whatever the prompt is, the words are
// said in order. To build it outside of this tree, against an installed quantplug, put this CMakeLists.txt beside it:
//
//   cmake_minimum_required(VERSION 3.25)
//   project(template_backend LANGUAGES CXX)
//   find_package(quantplug REQUIRED)
//   quantplug_add_plugin(template_backend NAME template SOURCES template_backend.cpp OUTPUT_DIR ${CMAKE_BINARY_DIR})
//
// and run: cmake -S . -B build -DCMAKE_PREFIX_PATH=<where quantplug is installed> && cmake --build build
// It gives build/libquantplug_template.so and its manifest; QUANTPLUG_PLUGIN_PATH=build quantplug plugins lists it.
#define QP_BUILDING_PLUGIN
#include <algorithm>
#include <fstream>
#include <limits>
#include <quantplug/backend.hpp>

namespace {

namespace qp = quantplug::backend;
using quantplug::Error;

constexpr size_t kMaxWords = 65536, kMaxBytes = 4096;

/// The words of a folder. What is wrong with the file is a sentence that names it, whatever the file holds.
std::vector<std::string> read_words(const std::string& folder) {
    const std::string path = folder + "/words.txt";
    std::ifstream file(path);
    if (!file) throw Error(QP_NOT_FOUND, path + " cannot be opened: give a folder that has it");
    std::vector<std::string> words;
    std::string word;
    for (char c; file.get(c);) {
        if (c != '\n') word += c;
        if (word.size() > kMaxBytes)
            throw Error(QP_DATA_LOSS,
                        path + ": line " + std::to_string(words.size() + 1) + " is longer than 4096 bytes: split it");
        if (c != '\n') continue;
        if (!qp::detail::valid_utf8(word) || word.empty())
            throw Error(QP_DATA_LOSS,
                        path + ": line " + std::to_string(words.size() + 1) + " is empty or not UTF-8: correct it");
        if (words.size() == kMaxWords) throw Error(QP_DATA_LOSS, path + " has more than 65536 lines: shorten it");
        words.push_back(std::move(word));
        word.clear();
    }
    if (words.empty() || !word.empty())
        throw Error(QP_DATA_LOSS, path + " has no line, or the last one does not end: it is cut off");
    return words;
}

/// Text of the token `id` in a sequence: the word and a space, none for ids that are not there.
std::string text_of(const std::vector<std::string>& words, int32_t id) {
    return id >= 0 && static_cast<size_t>(id) < words.size() ? words[static_cast<size_t>(id)] + ' ' : std::string();
}

class WordDetokenizer : public qp::Detokenizer {
 public:
    explicit WordDetokenizer(const std::vector<std::string>& words) : words_(words) {}
    std::string push(int32_t id) override {
        return text_of(words_, id);
    }  // words are whole characters: nothing to hold back
    std::string finish() override { return {}; }

 private:
    const std::vector<std::string>& words_;  // the model's, which outlives its detokenizers
};

void describe(const std::vector<std::string>& words, qp_model_info& out) {
    out.n_layers = out.hidden_size = 1;
    out.n_vocab = static_cast<uint32_t>(words.size());
    out.n_ctx = 1024;
    out.n_params = words.size();
    for (const std::string& word : words) out.file_bytes += word.size() + 1;
    quantplug::copy_text(out.format, "words");
    quantplug::copy_text(out.architecture, "template");
    quantplug::copy_text(out.tokenizer, "one id a word");
}

class WordModel : public qp::Model {
 public:
    WordModel(std::vector<std::string> words, int64_t repeat) : words_(std::move(words)), repeat_(repeat) {}

    void info(qp_model_info& out) const override {
        describe(words_, out);
        quantplug::copy_text(out.device, "cpu");
        quantplug::copy_text(out.compute, "default");
    }

    uint64_t supported_sampling() const override {
        return 0;
    }  // the next word is certain: every field is reported as ignored

    std::vector<int32_t> tokenize(std::string_view text, uint32_t) const override {
        std::vector<int32_t> ids;
        for (size_t at = 0; at < text.size();) {
            const size_t end = std::min(text.find(' ', at), text.size());
            const auto word = std::find(words_.begin(), words_.end(), text.substr(at, end - at));
            if (end > at)
                ids.push_back(word == words_.end() ? 0 : static_cast<int32_t>(word - words_.begin()));  // unknown: id 0
            at = end + 1;
        }
        return ids;
    }

    std::string detokenize(qp::Ids ids, uint32_t) const override {
        std::string text;
        for (int32_t id : ids) text += text_of(words_, id);
        return text;
    }

    std::unique_ptr<qp::Detokenizer> detokenizer(uint32_t) const override {
        return std::make_unique<WordDetokenizer>(words_);
    }

    qp::Finish generate(const qp::GenerateParams& params, qp::Emitter& emitter) override {
        qp::Finish finish;
        if (!emitter.prefill(params.prompt.size)) return finish.reason = QP_FINISH_CANCELLED, finish;
        size_t longest_stop = 1;
        for (std::string_view stop : params.stop) longest_stop = std::max(longest_stop, stop.size());
        const uint64_t room = 1024 - params.prompt.size;
        const uint64_t limit = params.max_tokens ? std::min<uint64_t>(params.max_tokens, room) : room;
        const uint64_t n_words = words_.size() * static_cast<uint64_t>(repeat_);
        std::string held;  // text that may still become a stop string
        for (uint64_t i = 0; i < std::min(limit, n_words); ++i) {
            const int32_t id = static_cast<int32_t>(i % words_.size());
            held += text_of(words_, id);
            size_t certain = held.size() - std::min(held.size(), longest_stop - 1);
            while (certain > 0 && certain < held.size() && (held[certain] & 0xc0) == 0x80)
                --certain;  // whole characters only
            bool stopped = std::find(params.stop_ids.begin(), params.stop_ids.end(), id) != params.stop_ids.end();
            if (stopped) finish.stop_id = id;
            for (std::string_view stop : params.stop)
                if (const size_t found = held.find(stop); found != std::string::npos)
                    stopped = true, certain = std::min(certain, found), held.resize(found);
            if (stopped || i + 1 == std::min(limit, n_words)) certain = held.size();
            const qp_top top = {id, 0.0f};  // ln 1
            const uint32_t n_top = std::min(params.n_top, 1u);
            const qp_token token = {id, 0.0f, 0, n_top};
            if (!emitter.tokens(&token, 1, &top, n_top, std::string_view(held).substr(0, certain)))
                return finish.reason = QP_FINISH_CANCELLED, finish;
            if (stopped) return finish;
            held.erase(0, certain);
        }
        finish.reason = limit < n_words ? QP_FINISH_LENGTH : QP_FINISH_STOP;
        return finish;
    }

    void score(qp::Ids ids, float* logprobs, qp::Progress& progress) override {
        for (size_t i = 0; i + 1 < ids.size; ++i) {
            const auto next = (static_cast<size_t>(ids[i]) + 1) % words_.size();
            logprobs[i] = static_cast<size_t>(ids[i + 1]) == next ? 0.0f : -std::numeric_limits<float>::infinity();
        }
        progress.report(1.0, "score");
    }

 private:
    std::vector<std::string> words_;
    int64_t repeat_;
};

class WordBackend : public qp::Backend {
 public:
    static constexpr unsigned extensions = qp::kScore;

    void probe(const char* path, qp_probe_result& out) const override {
        quantplug::copy_text(out.format, "words");
        if (std::ifstream(std::string(path) + "/words.txt"))
            out.score = 90;
        else
            quantplug::copy_text(out.reason,
                                 std::string(path) + " has no words.txt: it is not a folder of this backend");
    }

    bool load_option(uint32_t index, qp_option_info& out) const override {
        if (index > 0) return false;
        out.type = QP_OPTION_INT;
        out.key = "repeat";
        out.help = "How often the words are said.";
        out.default_value = "1";
        out.minimum = 1;
        out.maximum = 1000;
        return true;
    }

    void inspect(const char* path, qp_model_info& out) const override { describe(read_words(path), out); }

    void plan_memory(const qp::LoadParams& params, qp_memory_plan& out) const override {
        out.ctx = 1024;
        for (const std::string& word : read_words(params.path)) out.weights += sizeof word + word.capacity() + 1;
    }

    std::unique_ptr<qp::Model> load(const qp::LoadParams& params, qp::Progress& progress) const override {
        progress.report(0.0, "words");
        auto model = std::make_unique<WordModel>(read_words(params.path), params.options.integer("repeat"));
        progress.report(1.0, "words");
        log(QP_LOG_INFO, "loaded " + params.path);
        return model;
    }
};

}  // namespace

const qp_entry quantplug_entry_v1 = qp::make_entry<WordBackend>("template", "1.0", "words");
