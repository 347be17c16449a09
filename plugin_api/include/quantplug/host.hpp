// host.hpp - the ABI for a host in C++11: plugins, models and detokenizers as objects, failures as exceptions. Needs
// the standard library only.
//
//   quantplug::Host host([](int32_t level, const char* line) { ... });
//   quantplug::Plugin plugin(entry, host.table());          // `entry`: the symbol QP_ENTRY_SYMBOL of an opened library
//   quantplug::Model model = plugin.load("/models/x", {{"ctx", "2048"}});
//   quantplug::GenerateRequest request;
//   request.prompt = model.tokenize("Once upon a time");
//   model.generate(request, [](const qp_event& event) {
//       fwrite(event.text, 1, event.text_size, stdout);
//       return true;
//   });
//
// Many at once (class Engine): submit(request) gives a number, and one thread of yours calls step until it returns 0.
// class Chat turns messages into a prompt.
//
// Everything throws quantplug::Error. Callbacks return true to go on and false to cancel; an exception out of a
// callback cancels and comes out of the call. Thread rules are those of the C headers. Objects keep alive what they
// came from, so that any order of destruction is right; the library itself must stay mapped, and the qp_host alive,
// until the last of them is gone.
#ifndef QUANTPLUG_HOST_HPP
#define QUANTPLUG_HOST_HPP

#include <functional>
#include <memory>
#include <quantplug/common.hpp>
#include <quantplug/detail/generate_request.hpp>
#include <quantplug/detail/host_state.hpp>
#include <string>
#include <utility>
#include <vector>

namespace quantplug {

/// Why this entry cannot be used, as one sentence; empty: it can. Runs no code of the plugin.
inline std::string entry_problem(const qp_entry* entry) {
    const uint32_t absurd = 1u << 16;
    if (!entry) return "the library has no symbol " QP_ENTRY_SYMBOL ": it is no plugin of this major version";
    if (!QP_HAS(entry, plugin) || entry->struct_size > absurd)
        return "the entry says it has " + std::to_string(entry->struct_size) + " bytes, and " +
               std::to_string(sizeof(qp_entry)) + " are expected: the plugin is damaged";
    if (entry->draft != QP_ABI_DRAFT)
        return "the plugin was built for draft " + std::to_string(entry->draft) +
               " of the interface and this program for draft " + std::to_string(QP_ABI_DRAFT) + ": rebuild the plugin";
    if (!entry->name) return "the entry has no name";
    for (size_t i = 0; i == 0 || entry->name[i]; ++i) {
        const char c = entry->name[i];
        if (i >= 64 || !((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_')) {
            char name[72];
            copy_text(name, sizeof name, entry->name, i + (c ? 1 : 0));
            return "the entry's name '" + std::string(name) + "' is not 1 to 64 of a-z, 0-9 and _";
        }
    }
    const std::string name = entry->name;
    if (!entry->version || !entry->formats) return "the entry of plugin '" + name + "' has no version or no formats";
    const qp_plugin* plugin = entry->plugin;
    if (!plugin) return "the entry of plugin '" + name + "' has no table of hooks";
    if (!QP_HAS(plugin, generate) || plugin->struct_size > absurd)
        return "the table of plugin '" + name + "' says it has " + std::to_string(plugin->struct_size) +
               " bytes, too few or too many to hold the hooks up to generate: the plugin is damaged";
    return std::string();
}

/// What a plugin is given; must outlive it. `log` may be called from any thread.
class Host {
 public:
    typedef std::function<void(int32_t level, const char* line)> LogFn;

    explicit Host(LogFn log = LogFn()) : log_(std::move(log)), table_(make<qp_host>()) {
        table_.context = this;
        table_.log = &Host::on_log;
        table_.get_extension = &Host::on_get_extension;
    }
    Host(const Host&) = delete;
    Host& operator=(const Host&) = delete;
    const qp_host* table() const { return &table_; }

 private:
    static void QP_CALL on_log(void* context, int32_t level, const char* text) {
        const Host* self = static_cast<const Host*>(context);
        try {
            if (self->log_ && text) self->log_(level, text);
        } catch (...) {  // a line that cannot be logged is lost: nothing may unwind into the plugin
        }
    }
    static const void* QP_CALL on_get_extension(void*, const char*) { return nullptr; }

    LogFn log_;
    qp_host table_;
};

/// A loaded model; a copy is another reference to it. Unloaded by `unload`, or when the last reference, detokenizer and
/// session is gone.
class Model {
 public:
    Model() : state_() {}
    explicit operator bool() const { return state_ && state_->handle; }

    /// Cancels what runs and frees the model now. Refused while a detokenizer or session lives; then nothing has
    /// changed.
    void unload() {
        detail::Status status;
        if (!*this) return;
        status.check(hooks().unload(handle(), status.get()), "unload");
        state_->handle = nullptr;
    }

    qp_model_info info() const {
        detail::Status status;
        qp_model_info out = make<qp_model_info>();
        status.check(hooks().model_info(handle(), &out, status.get()), "model_info");
        return out;
    }

    qp_sampling default_sampling() const {
        detail::Status status;
        qp_sampling out = make<qp_sampling>();
        status.check(hooks().default_sampling(handle(), &out, status.get()), "default_sampling");
        return out;
    }

    /// Ids of a text. `flags`: QP_BOS_*, QP_SPECIAL_TEXT.
    std::vector<int32_t> tokenize(const std::string& text, uint32_t flags = QP_BOS_AUTO) const {
        std::vector<int32_t> ids(text.size() + 16);  // nearly always enough, and then one call does
        return sized(ids, "tokenize", [&](int32_t* out, uint64_t capacity, uint64_t* n, qp_error* error) {
            return hooks().tokenize(handle(), text.data(), text.size(), flags, out, capacity, n, error);
        });
    }

    std::string detokenize(const std::vector<int32_t>& ids, uint32_t flags = 0) const {
        std::string text(ids.size() * 8 + 64, '\0');
        return sized(text, "detokenize", [&](char* out, uint64_t capacity, uint64_t* n, qp_error* error) {
            return hooks().detokenize(handle(), ids.data(), ids.size(), flags, out, capacity, n, error);
        });
    }

    /// Runs to the end and returns the final event without its borrowed pointers. A cancel is no exception:
    /// finish_reason tells.
    qp_event generate(const qp_generate_params& params, const EventFn& on_event) const {
        detail::Status status;
        Generation generation(on_event);
        const int32_t code = hooks().generate(handle(), &params, &Model::on_generate, &generation, status.get());
        generation.callback.rethrow();
        if (code != QP_CANCELLED) status.check(code, "generate");
        if (!generation.ended)
            generation.end.finish_reason = code == QP_CANCELLED ? QP_FINISH_CANCELLED : QP_FINISH_STOP;
        return generation.end;
    }

    qp_event generate(const GenerateRequest& request, const EventFn& on_event) const {
        const detail::BorrowedRequest borrowed(request);
        return generate(borrowed.params, on_event);
    }

    /// quantplug.score/1: ids.size() - 1 natural log-probabilities, the first of ids[1].
    std::vector<float> score(const std::vector<int32_t>& ids, const ProgressFn& progress = ProgressFn()) const {
        const qp_score table = detail::extension<qp_score>(hooks(), QP_EXT_SCORE, state_->plugin->name);
        detail::Status status;
        detail::Callback<ProgressFn> callback(progress);
        std::vector<float> logprobs(ids.empty() ? 0 : ids.size() - 1);
        const int32_t code = table.score(handle(), ids.data(), ids.size(), logprobs.data(), &detail::on_progress,
                                         &callback, status.get());
        callback.rethrow();
        status.check(code, "score");
        return logprobs;
    }

    /// For hooks that are called directly: both are valid while the model is loaded.
    qp_model* handle() const {
        if (!*this) throw Error(QP_FAILED_PRECONDITION, "the model is unloaded: load it again");
        return state_->handle;
    }
    const qp_plugin& hooks() const {
        if (!state_) throw Error(QP_FAILED_PRECONDITION, "there is no model: load one");
        return state_->plugin->table;
    }

 private:
    friend class Plugin;
    friend class Detokenizer;
    friend class LogitsSession;
    friend class Engine;
    friend class Chat;

    struct Generation {
        detail::Callback<EventFn> callback;
        qp_event end;
        bool ended;
        explicit Generation(const EventFn& fn) : callback(fn), end(make<qp_event>()), ended(false) {}
    };

    static int32_t QP_CALL on_generate(void* user, const qp_event* event) {
        Generation& generation = *static_cast<Generation*>(user);
        qp_event copy = copy_sized(event);  // an older plugin's event is shorter
        const int32_t answer = generation.callback(std::cref(copy));
        if (copy.kind == QP_EVENT_END) {
            copy.tokens = nullptr;
            copy.top = nullptr;
            copy.text = nullptr;
            copy.error = nullptr;
            copy.n_tokens = copy.n_top = 0;
            copy.text_size = 0;
            generation.end = copy;
            generation.ended = true;
        }
        return answer;
    }

    static constexpr uint64_t kMaxSize = uint64_t{1} << 32;  // ids or bytes; a plugin that names more is wrong

    template <class Buffer, class Call>
    static Buffer sized(Buffer& out, const char* hook, Call call) {
        for (int attempt = 0; attempt < 2; ++attempt) {
            detail::Status status;
            uint64_t n = 0;
            const int32_t code = call(&out[0], out.size(), &n, status.get());
            const bool too_small = n > out.size();
            if (code != QP_OUT_OF_RANGE || !too_small) status.check(code, hook);
            if ((code == QP_OK && too_small) || n > kMaxSize) break;
            out.resize(static_cast<size_t>(n));
            if (code == QP_OK) return std::move(out);
        }
        throw Error(QP_INTERNAL, std::string("the plugin's ") + hook +
                                     " does not keep to the size that it names: report it to its author");
    }

    explicit Model(std::shared_ptr<detail::ModelState> state) : state_(std::move(state)) {}

    std::shared_ptr<detail::ModelState> state_;
};

/// Ids to text one by one, in whole characters. One thread at a time.
class Detokenizer {
 public:
    explicit Detokenizer(const Model& model, uint32_t flags = 0) : model_(model.state_), handle_(nullptr) {
        detail::Status status;
        status.check(model.hooks().detokenizer_create(model.handle(), flags, &handle_, status.get()),
                     "detokenizer_create");
    }
    ~Detokenizer() { model_->plugin->table.detokenizer_destroy(handle_); }
    Detokenizer(const Detokenizer&) = delete;
    Detokenizer& operator=(const Detokenizer&) = delete;

    std::string push(int32_t id) {
        detail::Status status;
        const char* text = nullptr;
        uint64_t size = 0;
        status.check(model_->plugin->table.detokenizer_push(handle_, id, &text, &size, status.get()),
                     "detokenizer_push");
        return std::string(text ? text : "", static_cast<size_t>(text ? size : 0));
    }

    std::string finish() {
        detail::Status status;
        const char* text = nullptr;
        uint64_t size = 0;
        status.check(model_->plugin->table.detokenizer_finish(handle_, &text, &size, status.get()),
                     "detokenizer_finish");
        return std::string(text ? text : "", static_cast<size_t>(text ? size : 0));
    }

 private:
    std::shared_ptr<detail::ModelState> model_;
    qp_detokenizer* handle_;
};

/// quantplug.logits/1: the rows of one pass.
class LogitsSession {
 public:
    LogitsSession(const Model& model, const std::vector<int32_t>& ids)
        : model_(model.state_), table_(), handle_(nullptr) {
        table_ = detail::extension<qp_logits>(model.hooks(), QP_EXT_LOGITS, model_->plugin->name);
        detail::Status status;
        status.check(table_.open(model.handle(), ids.data(), ids.size(), &handle_, status.get()), "logits open");
    }
    ~LogitsSession() { table_.close(handle_); }
    LogitsSession(const LogitsSession&) = delete;
    LogitsSession& operator=(const LogitsSession&) = delete;

    /// False after the last row. `row` has n_vocab floats, the prediction after ids[position]; borrowed until the next
    /// call.
    bool next(const float*& row, uint64_t& position) {
        detail::Status status;
        const int32_t code = table_.next(handle_, &row, &position, status.get());
        if (code == QP_NOT_FOUND) return false;
        status.check(code, "logits next");
        return true;
    }

 private:
    std::shared_ptr<detail::ModelState> model_;
    qp_logits table_;
    qp_logits_session* handle_;
};

/// An initialised plugin; a copy is another reference to it.
class Plugin {
 public:
    /// Throws FAILED_PRECONDITION with entry_problem's sentence, or what the plugin's init says.
    Plugin(const qp_entry* entry, const qp_host* host) : state_() {
        const std::string problem = entry_problem(entry);
        if (!problem.empty()) throw Error(QP_FAILED_PRECONDITION, problem);
        state_ = std::make_shared<detail::PluginState>(entry, host);
    }

    const std::string& name() const { return state_->name; }
    const std::string& version() const { return state_->version; }
    const std::string& formats() const { return state_->formats; }

    /// The completed table: no slot is null.
    const qp_plugin& hooks() const { return state_->table; }

    qp_probe_result probe(const std::string& path) const {
        detail::Status status;
        qp_probe_result out = make<qp_probe_result>();
        status.check(hooks().probe(path.c_str(), &out, status.get()), "probe");
        return out;
    }

    /// Strings are borrowed for as long as the library stays mapped.
    std::vector<qp_option_info> load_options() const {
        std::vector<qp_option_info> all;
        for (uint32_t i = 0;; ++i) {
            detail::Status status;
            qp_option_info out = make<qp_option_info>();
            const int32_t code = hooks().list_load_options(i, &out, status.get());
            if (code == QP_NOT_FOUND) return all;
            status.check(code, "list_load_options");
            all.push_back(out);
        }
    }

    qp_model_info inspect(const std::string& path) const {
        detail::Status status;
        qp_model_info out = make<qp_model_info>();
        status.check(hooks().inspect(path.c_str(), &out, status.get()), "inspect");
        return out;
    }

    qp_memory_plan plan_memory(const std::string& path, const Options& options = Options()) const {
        detail::Status status;
        const detail::LoadParams load_params(path, options);
        qp_memory_plan out = make<qp_memory_plan>();
        status.check(hooks().plan_memory(&load_params.params, &out, status.get()), "plan_memory");
        return out;
    }

    /// A cancel by `progress` is Error with QP_CANCELLED.
    Model load(const std::string& path, const Options& options = Options(),
               const ProgressFn& progress = ProgressFn()) const {
        detail::Status status;
        detail::LoadParams load_params(path, options);
        detail::Callback<ProgressFn> callback(progress);
        load_params.params.progress = &detail::on_progress;
        load_params.params.user = &callback;
        std::shared_ptr<detail::ModelState> model = std::make_shared<detail::ModelState>(state_, nullptr);
        const int32_t code = hooks().load(&load_params.params, &model->handle, status.get());
        if (code != QP_OK) model->handle = nullptr;
        callback.rethrow();
        status.check(code, "load");
        if (!model->handle)
            throw Error(QP_INTERNAL,
                        "load of plugin '" + name() + "' gave no model and no error: report it to its author");
        return Model(std::move(model));
    }

    bool has_extension(const char* id) const { return hooks().get_extension(id) != nullptr; }

    /// The completed table of an extension: extension<qp_score>(QP_EXT_SCORE). UNIMPLEMENTED where the plugin has none.
    template <class Table>
    Table extension(const char* id) const {
        return detail::extension<Table>(hooks(), id, name());
    }

    /// quantplug.tools/1. Strings are borrowed for as long as the library stays mapped.
    std::vector<qp_tool_info> tools() const {
        const qp_tools table = extension<qp_tools>(QP_EXT_TOOLS);
        std::vector<qp_tool_info> all;
        for (uint32_t i = 0;; ++i) {
            detail::Status status;
            qp_tool_info out = make<qp_tool_info>();
            const int32_t code = table.get(i, &out, status.get());
            if (code == QP_NOT_FOUND) return all;
            status.check(code, "tools get");
            all.push_back(out);
        }
    }

    void run_tool(const std::string& tool, const std::string& arguments_json, const JsonEventFn& on_event) const {
        const qp_tools table = extension<qp_tools>(QP_EXT_TOOLS);
        detail::Status status;
        detail::Callback<JsonEventFn> callback(on_event);
        const int32_t code = table.run(tool.c_str(), arguments_json.c_str(), &detail::on_json, &callback, status.get());
        callback.rethrow();
        status.check(code, "tools run");
    }

    /// quantplug.quantize/1: the format that the plugin makes, and its arguments.
    qp_tool_info quantizer() const {
        const qp_quantize table = extension<qp_quantize>(QP_EXT_QUANTIZE);
        detail::Status status;
        qp_tool_info out = make<qp_tool_info>();
        status.check(table.describe(&out, status.get()), "quantize describe");
        return out;
    }

    void quantize(const std::string& arguments_json, const JsonEventFn& on_event) const {
        const qp_quantize table = extension<qp_quantize>(QP_EXT_QUANTIZE);
        detail::Status status;
        detail::Callback<JsonEventFn> callback(on_event);
        const int32_t code = table.run(arguments_json.c_str(), &detail::on_json, &callback, status.get());
        callback.rethrow();
        status.check(code, "quantize run");
    }

 private:
    std::shared_ptr<detail::PluginState> state_;
};

}  // namespace quantplug

#include <quantplug/detail/host_extensions.hpp>

#endif
