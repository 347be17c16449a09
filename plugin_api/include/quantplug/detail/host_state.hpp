// host_state.hpp - what the objects of host.hpp share and hold: a call's error, a callback's exception, counted
// handles. C++11.
#ifndef QUANTPLUG_DETAIL_HOST_STATE_HPP
#define QUANTPLUG_DETAIL_HOST_STATE_HPP

#include <exception>
#include <functional>
#include <memory>
#include <quantplug/common.hpp>
#include <quantplug/detail/complete.hpp>
#include <string>
#include <utility>
#include <vector>

namespace quantplug {

typedef std::vector<std::pair<std::string, std::string>> Options;  // key, value
typedef std::function<bool(double fraction, const char* what)> ProgressFn;
typedef std::function<bool(const qp_event& event)> EventFn;  // the event is borrowed for the call
typedef std::function<bool(uint64_t request, const qp_event& event)> EngineEventFn;
typedef std::function<bool(const char* json)> JsonEventFn;

namespace detail {

/// A qp_error for one call, and the exception that it becomes.
class Status {
 public:
    Status() : error_(make<qp_error>()) {}
    qp_error* get() { return &error_; }

    void check(int32_t code, const char* hook) {
        if (code == QP_OK) return;
        error_.message[sizeof error_.message - 1] = '\0';
        if (error_.message[0]) throw Error(code, error_.message);
        throw Error(code, std::string(hook) + " failed with " + code_name(code) + " and gave no reason");
    }

 private:
    qp_error error_;
};

/// Carries a callback through C: an exception cancels, is kept, and is thrown again on the host's side.
template <class Fn>
struct Callback {
    const Fn* fn;
    std::exception_ptr thrown;

    explicit Callback(const Fn& f) : fn(&f), thrown() {}

    template <class... Args>
    int32_t operator()(Args... args) noexcept {
        if (thrown) return 1;
        try {
            return !*fn || (*fn)(args...) ? 0 : 1;
        } catch (...) {
            thrown = std::current_exception();
            return 1;
        }
    }
    void rethrow() const {
        if (thrown) std::rethrow_exception(thrown);
    }
};

inline int32_t QP_CALL on_progress(void* user, double fraction, const char* what) {
    return (*static_cast<Callback<ProgressFn>*>(user))(fraction, what);
}
inline int32_t QP_CALL on_json(void* user, const char* json) {
    return (*static_cast<Callback<JsonEventFn>*>(user))(json);
}

/// An initialised plugin: deinit when the last Plugin, Model or session is gone.
struct PluginState {
    std::string name, version, formats;
    qp_plugin table;

    PluginState(const qp_entry* entry, const qp_host* host)
        : name(entry->name), version(entry->version), formats(entry->formats), table(complete(entry->plugin)) {
        Status status;
        status.check(table.init(host, status.get()), "init");
    }
    ~PluginState() { table.deinit(nullptr); }
    PluginState(const PluginState&) = delete;
    PluginState& operator=(const PluginState&) = delete;
};

struct ModelState {
    std::shared_ptr<PluginState> plugin;
    qp_model* handle;

    ModelState(std::shared_ptr<PluginState> p, qp_model* h) : plugin(std::move(p)), handle(h) {}
    ~ModelState() {
        if (handle) plugin->table.unload(handle, nullptr);
    }
    ModelState(const ModelState&) = delete;
    ModelState& operator=(const ModelState&) = delete;
};

/// qp_load_params over a folder and options; what it points to is the caller's.
struct LoadParams {
    std::vector<qp_option> options;
    qp_load_params params;

    LoadParams(const std::string& path, const Options& given) : options(), params(make<qp_load_params>()) {
        for (const auto& option : given) options.push_back(qp_option{option.first.c_str(), option.second.c_str()});
        params.path = path.c_str();
        params.options = options.data();
        params.n_options = static_cast<uint32_t>(options.size());
    }
};

}  // namespace detail

}  // namespace quantplug

#endif
