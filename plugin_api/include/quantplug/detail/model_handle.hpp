// model_handle.hpp - what is behind qp_model: its queue, its cancel flag, its live children, and the checks of a
// generation. C++17.
#ifndef QUANTPLUG_DETAIL_MODEL_HANDLE_HPP
#define QUANTPLUG_DETAIL_MODEL_HANDLE_HPP

#include <algorithm>
#include <condition_variable>
#include <quantplug/detail/barrier.hpp>
#include <thread>

namespace quantplug::backend::detail {

inline Error being_unloaded(const char* hook) {
    return Error(QP_CANCELLED, std::string(hook) + ": the model is being unloaded");
}

struct ModelHandle {
    std::unique_ptr<Model> model;
    qp_model_info info = make<qp_model_info>();  // of the model right after load

    std::mutex mutex;  // the fields below
    std::condition_variable changed;
    uint64_t next_ticket = 0;  // generate, score and sessions are served in the order they came
    uint64_t serving = 0;
    std::vector<std::thread::id> callers;  // one for each call of any kind
    uint32_t children = 0;                 // detokenizers and sessions
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
        if (model_.calls_of_this_thread() > 1)
            throw Error(QP_FAILED_PRECONDITION,
                        std::string(hook) + " called from a callback of the same model: return from it first");
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
        model->changed.wait(lock, [&] { return model->callers.empty(); });
    }
    delete model;
}

/// A generation from the host's parameters to its final event.
struct GenerateCall {
    Emitter emitter;
    GenerateParams params;
    Finish finish;

    GenerateCall(qp_event_fn fn, void* user) noexcept : emitter(fn, user) {}

    /// Copies and checks; what the checks do not know stays off.
    void read(const ModelHandle& model, const qp_generate_params* given) {
        const char* hook = "generate";
        const qp_generate_params in = copy_sized(need_sized(given, hook, "params"));
        check_flags(in.flags, QP_GENERATE_IGNORE_EOS | QP_GENERATE_SPECIAL_TEXT, hook);
        params.prompt = {in.prompt, static_cast<size_t>(in.n_prompt)};
        emitter.n_prompt_ = in.n_prompt;
        model.check_ids(params.prompt, hook, "prompt", 1);
        params.sampling = make<qp_sampling>();
        if (in.sampling) params.sampling = copy_sized(need_sized(in.sampling, hook, "sampling"));
        check_sampling(model);
        if (in.n_stop) need(in.stop, hook, "stop");
        for (uint32_t i = 0; i < in.n_stop; ++i) {
            if (!in.stop[i].data || in.stop[i].size == 0)
                throw Error(QP_INVALID_ARGUMENT,
                            "generate: stop string number " + std::to_string(i) + " is empty: leave it out");
            params.stop.emplace_back(in.stop[i].data, static_cast<size_t>(in.stop[i].size));
        }
        if (in.n_stop_ids) need(in.stop_ids, hook, "stop_ids");
        params.stop_ids = {in.stop_ids, in.n_stop_ids};
        model.check_range(params.stop_ids, hook, "stop_ids");
        params.max_tokens = in.max_tokens;
        if (model.info.n_vocab && in.n_top > model.info.n_vocab)
            throw Error(QP_INVALID_ARGUMENT, "generate: n_top is " + std::to_string(in.n_top) + ", and the model has " +
                                                 std::to_string(model.info.n_vocab) + " tokens: ask for fewer");
        params.n_top = in.n_top;
        params.ignore_eos = in.flags & QP_GENERATE_IGNORE_EOS;
        params.special_text = in.flags & QP_GENERATE_SPECIAL_TEXT;
    }

    void run(ModelHandle& model) {
        emitter.unload_ = &model.cancel;
        emitter.start_ = Emitter::Clock::now();
        finish = model.model->generate(params, emitter);
        if (finish.reason == QP_FINISH_CANCELLED)
            throw Error(QP_CANCELLED, model.cancel.load() ? "generate: the model is being unloaded"
                                                          : "generate: cancelled by the callback");
        if (finish.reason != QP_FINISH_STOP && finish.reason != QP_FINISH_LENGTH)
            throw Error(QP_INTERNAL, "generate ended with finish reason " + std::to_string(finish.reason) +
                                         ": report it to the plugin's author");
        emitter.n_done_ = emitter.n_prompt_;
        end(QP_OK);
    }

    /// The final event, once, whatever happened; what the callback answers to it does not matter.
    void end(int32_t status) {
        if (emitter.ended_ || !emitter.fn_) return;
        emitter.ended_ = true;
        const auto now = Emitter::Clock::now();
        const bool decoded = emitter.n_generated_ > 0;
        const auto seconds = [](auto duration) { return std::chrono::duration<double>(duration).count(); };
        qp_event event = emitter.base(QP_EVENT_END);
        event.prefill_seconds = finish.prefill_seconds >= 0
                                    ? finish.prefill_seconds
                                    : seconds((decoded ? emitter.first_tokens_ : now) - emitter.start_);
        event.decode_seconds = finish.decode_seconds >= 0 ? finish.decode_seconds
                               : decoded                  ? seconds(now - emitter.first_tokens_)
                                                          : 0.0;
        event.ignored = emitter.ignored_;
        event.finish_reason = status == QP_OK          ? finish.reason
                              : status == QP_CANCELLED ? QP_FINISH_CANCELLED
                                                       : QP_FINISH_ERROR;
        event.stop_id = status == QP_OK ? finish.stop_id : -1;
        emitter.fn_(emitter.user_, &event);
        set_default_float_state();
    }

 private:
    void check_sampling(const ModelHandle& model) {
        qp_sampling& s = params.sampling;
        const uint64_t known = QP_SET_TEMPERATURE | QP_SET_TOP_K | QP_SET_TOP_P | QP_SET_MIN_P | QP_SET_SEED;
        emitter.ignored_ = s.set & ~(known & model.model->supported_sampling());
        s.set &= ~emitter.ignored_;
        if ((s.set & QP_SET_TOP_K) && s.top_k == 0) s.set &= ~QP_SET_TOP_K;  // hosts write 0 for off
        const auto check = [&](uint64_t bit, const char* name, double value, double maximum, const char* range) {
            if ((s.set & bit) && !(value >= 0 && value <= maximum))
                throw Error(QP_INVALID_ARGUMENT,
                            std::string("generate: ") + name + " is " + std::to_string(value) + ", give " + range);
        };
        check(QP_SET_TEMPERATURE, "temperature", s.temperature, 1e30, "0 or more");
        check(QP_SET_TOP_K, "top_k", s.top_k, 2147483647.0, "1 or more, or leave it unset");
        check(QP_SET_TOP_P, "top_p", s.top_p, 1.0, "0 to 1");
        check(QP_SET_MIN_P, "min_p", s.min_p, 1.0, "0 to 1");
    }
};

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
