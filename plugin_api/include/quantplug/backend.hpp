// backend.hpp - the ABI for a backend in C++17: derive from Backend and Model, and make_entry gives the tables.
//
//   class MyModel : public quantplug::backend::Model { ... };
//   class MyBackend : public quantplug::backend::Backend { ... };
//   #define QP_BUILDING_PLUGIN, before the first include, declares the exported symbol; in one file:
//   const qp_entry quantplug_entry_v1 = quantplug::backend::make_entry<MyBackend>("mine", "1.0", "my_format");
//
// What this layer does, so that a backend need not:
//  - Every entry is a barrier: nothing is thrown across it. Error becomes its code, std::bad_alloc
//    QP_RESOURCE_EXHAUSTED, what Backend::translate knows its code, anything else QP_INTERNAL; the sentence goes into
//    qp_error, cut at a character's edge.
//  - Null pointers, struct sizes, flags, load options, sampling values, token ids and prompt lengths are checked before
//    a method sees them; invalid UTF-8 in a text to tokenize is replaced by U+FFFD; out-structs are filled as far as
//    the caller's goes.
//  - init and deinit are counted; live models, detokenizers, sessions and running calls too, and what still has any is
//    not destroyed.
//  - generate, score and sessions of one model queue, and steps of its engine exclude one another; unload sets the
//    cancel flag, sees to the final events of a running step, waits for what runs, then destroys the model.
//  - MXCSR is saved, set (round to nearest, no flush to zero) and restored around every entry and after every callback,
//    on the calling thread; threads and CUDA devices of its own are the backend's.
//  - A call in the child of a fork is refused.
// Methods that are const may be called from several threads at once, the others queue. Parameters are borrowed for the
// call.
#ifndef QUANTPLUG_BACKEND_HPP
#define QUANTPLUG_BACKEND_HPP

#include <quantplug/ext/chat.h>
#include <quantplug/ext/engine.h>
#include <quantplug/ext/logits.h>
#include <quantplug/ext/quantize.h>
#include <quantplug/ext/score.h>
#include <quantplug/ext/tools.h>
#include <quantplug/plugin.h>

#include <cstddef>
#include <memory>
#include <quantplug/common.hpp>
#include <quantplug/detail/callbacks.hpp>
#include <quantplug/detail/load_options.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace quantplug::backend {

/// A borrowed array.
template <class T>
struct View {
    const T* data = nullptr;
    size_t size = 0;

    const T* begin() const { return data; }
    const T* end() const { return data + size; }
    const T& operator[](size_t i) const { return data[i]; }
};
using Ids = View<int32_t>;

struct LoadParams {
    std::string path;  // the model folder
    LoadOptions options;
};

/// Everything that it points to, the arrays of `sampling` too, is borrowed for the call: submit copies what it keeps.
struct GenerateParams {
    Ids prompt;                          // 1..n_ctx ids, each in 0..n_vocab-1
    qp_sampling sampling{};              // values in range; only bits of Model::supported_sampling are set
    uint64_t ignored = 0;                // the bits that were taken out of sampling.set
    std::vector<std::string_view> stop;  // none is empty
    Ids stop_ids;                        // beside the model's own
    uint32_t max_tokens = 0;             // 0: until the context is full
    uint32_t n_top = 0;                  // at most n_vocab
    bool ignore_eos = false;
    bool special_text = false;
};

/// How a generation ended.
struct Finish {
    uint32_t reason = QP_FINISH_STOP;  // STOP, LENGTH or CANCELLED; what throws is ERROR
    int32_t stop_id = -1;
    double prefill_seconds = -1;  // negative: measured here, up to the first tokens
    double decode_seconds = -1;   // negative: measured here, from the first tokens
};

class Detokenizer {
 public:
    virtual ~Detokenizer() = default;

    /// Text that became certain with `id`: whole UTF-8 characters, often none.
    virtual std::string push(int32_t id) = 0;

    /// What is left, an unfinished character as U+FFFD; then it starts anew.
    virtual std::string finish() = 0;
};

class LogitsSession {
 public:
    virtual ~LogitsSession() = default;

    /// n_vocab floats at `row`, the prediction after ids[position], valid until the next call; false after the last
    /// row.
    virtual bool next(const float*& row, uint64_t& position) = 0;
};

class Model {
 public:
    virtual ~Model() = default;

    /// Read once after load: n_vocab and n_ctx bound what the calls below are given (0: not checked).
    virtual void info(qp_model_info& out) const = 0;

    /// `out` comes with nothing set.
    virtual void default_sampling(qp_sampling& out) const { static_cast<void>(out); }

    /// QP_SET_* that generate and submit obey; others are taken out of the request and reported as ignored.
    virtual uint64_t supported_sampling() const {
        return QP_SET_TEMPERATURE | QP_SET_TOP_K | QP_SET_TOP_P | QP_SET_MIN_P | QP_SET_SEED;
    }

    /// `text` is valid UTF-8; `flags`: QP_BOS_*, QP_SPECIAL_TEXT.
    virtual std::vector<int32_t> tokenize(std::string_view text, uint32_t flags) const = 0;

    /// Ids are not checked. `flags`: QP_SPECIAL_TEXT.
    virtual std::string detokenize(Ids ids, uint32_t flags) const = 0;
    virtual std::unique_ptr<Detokenizer> detokenizer(uint32_t flags) const = 0;

    /// Sends prefill and tokens events; the final one is sent for it. Returns soon (a step at most) after a send
    /// returned false or emitter.cancelled() became true, with QP_FINISH_CANCELLED. With kEngine it takes no turn: it
    /// is called from several threads at once, beside step and beside score or a session, and where it waits it looks
    /// at emitter.cancelled() after every wake().
    virtual Finish generate(const GenerateParams& params, Emitter& emitter) = 0;

    /// logprobs[i] = ln p(ids[i+1] | ids[0..i]), ids.size - 1 values.
    virtual void score(Ids ids, float* logprobs, Progress& progress) {
        static_cast<void>(ids), static_cast<void>(logprobs), static_cast<void>(progress);
        throw Error(QP_UNIMPLEMENTED, "this model cannot score");
    }

    virtual std::unique_ptr<LogitsSession> open_logits(std::vector<int32_t> ids) {
        static_cast<void>(ids);
        throw Error(QP_UNIMPLEMENTED, "this model gives no logits");
    }

    // kEngine. submit, cancel, wake and engine_status are called from any thread, beside a step; cancel, wake and
    // engine_status also from within its events, so no lock that they take is held over EngineEvents::emit.

    /// The request's number, from 1, never used twice. OUT_OF_RANGE and RESOURCE_EXHAUSTED as ext/engine.h says.
    virtual uint64_t submit(const GenerateParams& params) {
        static_cast<void>(params);
        throw no_engine();
    }

    /// One step at a time. wait_ms: 0 does not wait, -1 waits without end. Sends the events of submitted requests only
    /// (never of generate's), for each a final one, last, with `ignored` as submit was given it. Returns the number of
    /// requests that have not had theirs. What it throws ends no request.
    virtual uint64_t step(int32_t wait_ms, EngineEvents& events) {
        static_cast<void>(wait_ms), static_cast<void>(events);
        throw no_engine();
    }

    /// The final event follows from a step. NOT_FOUND: no such request, or it has ended.
    virtual void cancel(uint64_t request) {
        static_cast<void>(request);
        throw no_engine();
    }

    /// A step that waits, or else the next one, returns without waiting. Also called when unload begins.
    virtual void wake() { throw no_engine(); }

    virtual void engine_status(qp_engine_status& out) const {
        static_cast<void>(out);
        throw no_engine();
    }

    // kChat: JSON in and out as ext/chat.h says.

    virtual std::string chat_render(std::string_view request_json) const {
        static_cast<void>(request_json);
        throw no_chat();
    }
    virtual std::string chat_parse(std::string_view request_json) const {
        static_cast<void>(request_json);
        throw no_chat();
    }
    virtual std::string chat_describe() const { throw no_chat(); }

 private:
    static Error no_engine() { return Error(QP_UNIMPLEMENTED, "this model has no engine: use generate"); }
    static Error no_chat() { return Error(QP_UNIMPLEMENTED, "this model has no chat templates: give it raw text"); }
};

/// Extensions that a backend has: `static constexpr unsigned extensions = kScore | kTools;`
inline constexpr unsigned kScore = 1, kLogits = 2, kTools = 4, kQuantize = 8, kEngine = 16, kChat = 32;

/// One object for the plugin: made by the first init, destroyed by the last deinit.
class Backend {
 public:
    static constexpr unsigned extensions = 0;  // a derived class hides it

    /// Tables of other extensions by id, or null; may be called before init. Their functions use guard() below.
    static const void* extension(const char* id) { return static_cast<void>(id), nullptr; }

    virtual ~Backend() = default;

    /// `out` comes with score 0; a folder that is not for this backend gets a reason and no exception.
    virtual void probe(const char* path, qp_probe_result& out) const = 0;

    /// Load option number `index`; false past the end. Defaults are valid values; strings live as long as the library.
    virtual bool load_option(uint32_t index, qp_option_info& out) const {
        return static_cast<void>(index), static_cast<void>(out), false;
    }

    virtual void inspect(const char* path, qp_model_info& out) const = 0;

    /// `total` is summed up where it is left 0.
    virtual void plan_memory(const LoadParams& params, qp_memory_plan& out) const = 0;
    virtual std::unique_ptr<Model> load(const LoadParams& params, Progress& progress) const = 0;

    /// Tool number `index`; false past the end. Strings live as long as the library.
    virtual bool tool(uint32_t index, qp_tool_info& out) const {
        return static_cast<void>(index), static_cast<void>(out), false;
    }

    /// `name` is one of tool()'s.
    virtual void run_tool(std::string_view name, std::string_view arguments_json, JsonEvents& events) const {
        static_cast<void>(name), static_cast<void>(arguments_json), static_cast<void>(events);
        throw Error(QP_UNIMPLEMENTED, "this plugin has no tools");
    }

    virtual void quantizer(qp_tool_info& out) const { static_cast<void>(out); }
    virtual void quantize(std::string_view arguments_json, JsonEvents& events) const {
        static_cast<void>(arguments_json), static_cast<void>(events);
        throw Error(QP_UNIMPLEMENTED, "this plugin makes no checkpoints");
    }

    /// Called inside a catch: `try { throw; } catch (const MyError& e) { ...; return true; }`. False for exceptions it
    /// does not know.
    virtual bool translate(int32_t& code, std::string& message) const {
        return static_cast<void>(code), static_cast<void>(message), false;
    }

    /// [any-thread] One line to the host's log. Not yet in the constructor, where no host is attached.
    void log(int32_t level, std::string_view line) const noexcept;

 private:
    friend struct detail::State;
    const qp_host* host_ = nullptr;
};

/// The exported entry. Strings live as long as the library: literals.
template <class B>
constexpr qp_entry make_entry(const char* name, const char* version, const char* formats) noexcept;

/// The barrier for a function of an extension table of B's own: body(const B&) may throw; what it throws becomes the
/// status and `error`.
template <class B, class Body>
int32_t guard(const char* function, qp_error* error, Body&& body) noexcept;

}  // namespace quantplug::backend

#include <quantplug/detail/exports.hpp>

#endif
