// model_handle.hpp - what is behind qp_model: its queue, its cancel flag, its live children, and the requests of its
// engine. C++17.
#ifndef QUANTPLUG_DETAIL_MODEL_HANDLE_HPP
#define QUANTPLUG_DETAIL_MODEL_HANDLE_HPP

#include <algorithm>
#include <condition_variable>
#include <map>
#include <quantplug/detail/barrier.hpp>
#include <thread>

namespace quantplug::backend::detail {

inline Error being_unloaded(const char* hook) {
    return Error(QP_CANCELLED, std::string(hook) + ": the model is being unloaded");
}

inline Error from_callback(const char* hook) {
    return Error(QP_FAILED_PRECONDITION,
                 std::string(hook) + " called from a callback of the same model: return from it first");
}

/// A request of the engine from its submit, or its first event where that came before, to its final event.
struct EngineRequest {
    bool submitted = false;  // submit has returned its number
    bool cancelled = false;  // by a callback
    bool ended = false;      // the final event was sent
};

struct ModelHandle {
    std::unique_ptr<Model> model;
    bool has_engine = false;                     // kEngine: generate takes no turns
    qp_model_info info = make<qp_model_info>();  // of the model right after load

    std::mutex mutex;  // the fields below
    std::condition_variable changed;
    uint64_t next_ticket = 0;  // generate, score and sessions are served in the order they came
    uint64_t serving = 0;
    std::vector<std::thread::id> callers;  // one for each call of any kind
    uint32_t children = 0;                 // detokenizers and sessions
    bool stepping = false;
    std::map<uint64_t, EngineRequest> requests;
    bool unloading = false;
    std::atomic<bool> cancel{false};

    static ModelHandle& from(qp_model* handle, const char* hook) {
        return *reinterpret_cast<ModelHandle*>(need(handle, hook, "model"));
    }
    qp_model* handle() noexcept { return reinterpret_cast<qp_model*>(this); }

    /// Calls that this thread is inside of: more than its own, and it comes from a callback. Under the mutex.
    size_t calls_of_this_thread() const {
        return static_cast<size_t>(std::count(callers.begin(), callers.end(), std::this_thread::get_id()));
    }

    /// Throws QP_CANCELLED once unload has begun: it has counted the children, and cannot be refused any more.
    void add_child(const char* hook) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (unloading) throw being_unloaded(hook);
        ++children;
    }
    void remove_child() {
        const std::lock_guard<std::mutex> lock(mutex);
        --children;
    }

    void check_ids(Ids ids, const char* hook, const char* argument, size_t at_least) const {
        if (ids.size) need(ids.data, hook, argument);
        if (ids.size < at_least)
            throw Error(at_least > 1 ? QP_OUT_OF_RANGE : QP_INVALID_ARGUMENT,
                        std::string(hook) + ": '" + argument + "' has " + std::to_string(ids.size) +
                            " ids, and at least " + std::to_string(at_least) + " are needed");
        if (info.n_ctx && ids.size > info.n_ctx)
            throw Error(QP_OUT_OF_RANGE, std::string(hook) + ": '" + argument + "' has " + std::to_string(ids.size) +
                                             " ids and the context holds " + std::to_string(info.n_ctx) +
                                             ": shorten it, or load the model with a longer context");
        check_range(ids, hook, argument);
    }
    void check_range(Ids ids, const char* hook, const char* argument) const {
        for (size_t i = 0; info.n_vocab && i < ids.size; ++i)
            if (ids[i] < 0 || static_cast<uint32_t>(ids[i]) >= info.n_vocab)
                throw Error(QP_INVALID_ARGUMENT, std::string(hook) + ": id number " + std::to_string(i) + " of '" +
                                                     argument + "' is " + std::to_string(ids[i]) +
                                                     ", and the model has ids 0 to " +
                                                     std::to_string(info.n_vocab - 1));
    }
};

/// A call that uses the model; unload waits for it.
class ModelCall {
 public:
    ModelCall(ModelHandle& model, const char* hook) : model_(model) {
        const std::lock_guard<std::mutex> lock(model_.mutex);
        if (model_.unloading) throw being_unloaded(hook);
        model_.callers.push_back(std::this_thread::get_id());
    }
    ~ModelCall() {
        const std::lock_guard<std::mutex> lock(model_.mutex);
        const auto own = std::find(model_.callers.begin(), model_.callers.end(), std::this_thread::get_id());
        if (own != model_.callers.end()) model_.callers.erase(own);
        // Under the lock: unload frees the mutex as soon as it sees none.
        if (model_.callers.empty()) model_.changed.notify_all();
    }
    ModelCall(const ModelCall&) = delete;
    ModelCall& operator=(const ModelCall&) = delete;

 private:
    ModelHandle& model_;
};

/// The model's queue. Within a ModelCall, or a live child.
class Turn {
 public:
    Turn(ModelHandle& model, const char* hook) : model_(model) {
        std::unique_lock<std::mutex> lock(model_.mutex);
        if (model_.calls_of_this_thread() > 1) throw from_callback(hook);
        const uint64_t ticket = model_.next_ticket++;
        model_.changed.wait(lock, [&] { return model_.serving == ticket; });
    }
    ~Turn() {
        const std::lock_guard<std::mutex> lock(model_.mutex);
        ++model_.serving;
        model_.changed.notify_all();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

    void check_cancel(const char* hook) const {
        if (model_.cancel.load()) throw being_unloaded(hook);
    }

 private:
    ModelHandle& model_;
};

/// Throws where this thread is in a callback of the model. Within a ModelCall.
inline void refuse_in_callback(ModelHandle& model, const char* hook) {
    const std::lock_guard<std::mutex> lock(model.mutex);
    if (model.calls_of_this_thread() > 1) throw from_callback(hook);
}

/// Cancels, drains, and destroys; throws where a child lives, and then everything is as before.
inline void unload(ModelHandle* model) {
    {
        std::unique_lock<std::mutex> lock(model->mutex);
        if (model->unloading) throw Error(QP_FAILED_PRECONDITION, "unload: the model is already being unloaded");
        if (model->calls_of_this_thread())
            throw Error(QP_FAILED_PRECONDITION, "unload called from a callback of the model: return from it first");
        if (model->children)
            throw Error(QP_FAILED_PRECONDITION, "unload: the model has " + std::to_string(model->children) +
                                                    " live detokenizers or sessions: destroy them first");
        model->unloading = true;
        model->cancel.store(true);
        if (model->has_engine) {
            lock.unlock();
            try {
                model->model->wake();
            } catch (...) {  // a step that waits on ends with its wait_ms
            }
            lock.lock();
        }
        model->changed.wait(lock, [&] { return model->callers.empty(); });
    }
    delete model;
}

struct DetokenizerHandle {
    ModelHandle& model;
    std::unique_ptr<Detokenizer> detokenizer;
    std::string text;  // borrowed by the host until the next call
};

struct SessionHandle {
    ModelHandle& model;
    std::unique_ptr<LogitsSession> session;
};

}  // namespace quantplug::backend::detail

#endif
