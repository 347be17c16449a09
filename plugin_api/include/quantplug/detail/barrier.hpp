// barrier.hpp - the state of a plugin, and the barrier that every entry goes through. Included by exports.hpp. C++17.
#ifndef QUANTPLUG_DETAIL_BARRIER_HPP
#define QUANTPLUG_DETAIL_BARRIER_HPP

#include <atomic>
#include <cstdio>
#include <exception>
#include <mutex>
#include <new>
#include <quantplug/backend.hpp>
#include <string>
#include <thread>

#if defined(_WIN32)
#include <process.h>
#else
#include <unistd.h>
#endif

// Hidden whatever the compiler's flags are: no symbol beside the entry, and none of STB_GNU_UNIQUE.
#if defined(__GNUC__)
#define QUANTPLUG_HIDDEN __attribute__((visibility("hidden")))
#else
#define QUANTPLUG_HIDDEN
#endif

namespace quantplug::backend::detail {

inline int64_t process_id() noexcept {
#if defined(_WIN32)
    return _getpid();
#else
    return getpid();
#endif
}

/// One for a plugin, constant-initialised and never destroyed.
struct State {
    std::mutex mutex;  // init, deinit
    std::atomic<const Backend*> backend{nullptr};
    std::atomic<int64_t> first_pid{0};                 // of the first init, for ever
    static constexpr uint32_t kDeciding = UINT32_MAX;  // in `inits` while the last deinit reads the counts
    std::atomic<uint32_t> inits{0};
    std::atomic<uint32_t> running{0};  // calls inside the barrier
    std::atomic<uint32_t> models{0};
    qp_host host{};  // written by the first init, read while inits > 0

    bool forked() const noexcept {
        const int64_t pid = first_pid.load();
        return pid != 0 && pid != process_id();
    }
    /// After the call is counted in `running`.
    bool initialised() const noexcept {
        uint32_t n;
        while ((n = inits.load()) == kDeciding) std::this_thread::yield();
        return n != 0;
    }
    void attach(Backend& made) noexcept { made.host_ = &host; }
};

/// The state of the plugin that B makes.
template <class B>
struct QUANTPLUG_HIDDEN StateOf {
    static inline State state;
};

inline Error called_after_fork(const char* hook) {
    return Error(QP_FAILED_PRECONDITION,
                 std::string(hook) + " called after fork: start a new process instead, a plugin does not survive fork");
}

/// Inside a catch: the status of the exception, and its sentence into `error`, which may be null. A backend's own
/// exceptions come through `backend`, which may be null.
inline int32_t caught(const Backend* backend, const char* hook, qp_error* error) noexcept {
    const auto set = [&](int32_t code, const char* text, size_t size) {
        const int32_t status = code > QP_OK && code <= QP_DATA_LOSS ? code : QP_INTERNAL;
        set_error(error, status, text, size);
        return status;
    };
    const auto out_of_memory = [&] {
        char text[160];
        const int n =
            std::snprintf(text, sizeof text,
                          "out of memory in %s: free some, or ask for less (a shorter context, a smaller model)", hook);
        return set(QP_RESOURCE_EXHAUSTED, text, static_cast<size_t>(n < 0 ? 0 : n));
    };
    try {
        throw;
    } catch (const Error& e) {
        return set(e.code(), e.what(), std::strlen(e.what()));
    } catch (const std::bad_alloc&) {
        return out_of_memory();
    } catch (...) {
        try {
            int32_t code = QP_INTERNAL;
            std::string message;
            if (backend && backend->translate(code, message)) return set(code, message.data(), message.size());
            throw;
        } catch (const std::bad_alloc&) {
            return out_of_memory();
        } catch (const std::exception& e) {
            char text[1024];
            const int n = std::snprintf(text, sizeof text, "%s failed: %s", hook, e.what());
            return set(QP_INTERNAL, text,
                       n < 0                               ? 0
                       : n < static_cast<int>(sizeof text) ? static_cast<size_t>(n)
                                                           : sizeof text - 1);
        } catch (...) {
            char text[160];
            const int n =
                std::snprintf(text, sizeof text,
                              "%s failed with an exception of unknown type: report it to the plugin's author", hook);
            return set(QP_INTERNAL, text, static_cast<size_t>(n < 0 ? 0 : n));
        }
    }
}

class Running {
 public:
    explicit Running(State& state) noexcept : state_(state) { state_.running.fetch_add(1); }
    ~Running() { state_.running.fetch_sub(1); }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

 private:
    State& state_;
};

/// body(const Backend&) after the checks that hold for every hook but init and deinit.
template <class Body>
int32_t guarded(State& state, const char* hook, qp_error* error, Body&& body) noexcept {
    const FloatScope float_scope;
    const Running running(state);
    try {
        if (state.forked()) throw called_after_fork(hook);
        if (!state.initialised())
            throw Error(QP_FAILED_PRECONDITION, std::string(hook) + " called before init: call init first");
        body(*state.backend.load());
        return QP_OK;
    } catch (...) {
        return caught(state.backend.load(), hook, error);
    }
}

// ---- checks of arguments

template <class T>
T* need(T* pointer, const char* hook, const char* argument) {
    if (!pointer)
        throw Error(QP_INVALID_ARGUMENT, std::string(hook) + ": argument '" + argument + "' is null: give one");
    return pointer;
}

/// The smallest struct_size that is accepted: that of 1.0, for ever.
template <class T>
constexpr uint32_t first_size = 0;
template <>
inline constexpr uint32_t first_size<qp_host> = 32;
template <>
inline constexpr uint32_t first_size<qp_probe_result> = 512;
template <>
inline constexpr uint32_t first_size<qp_load_params> = 40;
template <>
inline constexpr uint32_t first_size<qp_memory_plan> = 56;
template <>
inline constexpr uint32_t first_size<qp_model_info> = 2352;
template <>
inline constexpr uint32_t first_size<qp_option_info> = 56;
template <>
inline constexpr uint32_t first_size<qp_sampling> = 256;
template <>
inline constexpr uint32_t first_size<qp_generate_params> = 64;
template <>
inline constexpr uint32_t first_size<qp_engine_status> = 64;
template <>
inline constexpr uint32_t first_size<qp_tool_info> = 32;

template <class T>
T* need_sized(T* pointer, const char* hook, const char* argument) {
    using Struct = std::remove_const_t<T>;
    static_assert(first_size<Struct> > 0 && first_size<Struct> <= sizeof(Struct));
    need(pointer, hook, argument);
    if (pointer->struct_size < first_size<Struct>)
        throw Error(QP_INVALID_ARGUMENT, std::string(hook) + ": struct_size of argument '" + argument + "' is " +
                                             std::to_string(pointer->struct_size) + ", the smallest is " +
                                             std::to_string(first_size<Struct>) + ": set it to sizeof");
    return pointer;
}

/// fill(T&) on a struct of this header's size, then the caller's is filled as far as it goes.
template <class T, class Fill>
void write_out(T* out, const char* hook, Fill&& fill) {
    need_sized(out, hook, "out");
    T full = make<T>();
    fill(full);
    fill_sized(out, full);
}

inline void check_flags(uint32_t flags, uint32_t known, const char* hook) {
    if (flags & ~known)
        throw Error(QP_INVALID_ARGUMENT, std::string(hook) + ": flags are " + std::to_string(flags) +
                                             ", and this plugin knows " + std::to_string(known) +
                                             ": leave the others out");
}

/// "outputs" in a size query: the size is set, and a buffer that is too small is refused untouched.
template <class T>
void copy_out(const T* data, size_t size, T* out, uint64_t capacity, uint64_t* out_size, const char* hook) {
    *out_size = size;
    if (!out) return;
    if (capacity < size)
        throw Error(QP_OUT_OF_RANGE, std::string(hook) + ": the buffer holds " + std::to_string(capacity) + " and " +
                                         std::to_string(size) + " are needed: give a larger one");
    if (size) std::memcpy(out, data, size * sizeof(T));
}

/// Invalid bytes become U+FFFD, one for each maximal part of a character (as Unicode 15, section 3.9, recommends).
inline std::string replace_invalid(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
        size_t n = utf8_length(text.data() + i, text.size() - i);
        if (n) {
            out.append(text, i, n);
        } else {
            out += "\xef\xbf\xbd";
            n = 1;
            // A prefix is part of a character when some last bytes would make it one.
            char whole[4] = {text[i], '\x80', '\x80', '\x80'};
            const unsigned char lead = static_cast<unsigned char>(text[i]);
            const size_t full = lead < 0xc2 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 1;
            for (size_t k = 1; k + 1 < full && i + k < text.size(); ++k) {
                whole[k] = text[i + k];
                if (!utf8_length(whole, full)) break;
                n = k + 1;
            }
        }
        i += n;
    }
    return out;
}

inline bool valid_utf8(std::string_view text) noexcept {
    for (size_t i = 0; i < text.size();) {
        const size_t n = utf8_length(text.data() + i, text.size() - i);
        if (!n) return false;
        i += n;
    }
    return true;
}

}  // namespace quantplug::backend::detail

#endif
