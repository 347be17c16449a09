// exports_score.hpp - the tables of score/1 and logits/1. Included by exports.hpp. C++17.
#ifndef QUANTPLUG_DETAIL_EXPORTS_SCORE_HPP
#define QUANTPLUG_DETAIL_EXPORTS_SCORE_HPP

#include <quantplug/detail/model_handle.hpp>

namespace quantplug::backend::detail {

template <class B>
struct QUANTPLUG_HIDDEN ScoreExports {
    static constexpr State& state = StateOf<B>::state;

    static int32_t QP_CALL score(qp_model* model, const int32_t* ids, uint64_t n_ids, float* logprobs,
                                 qp_progress_fn progress, void* user, qp_error* error) noexcept {
        return guarded(state, "score", error, [&](const Backend&) {
            ModelHandle& handle = ModelHandle::from(model, "score");
            const ModelCall call(handle, "score");
            const Ids view{ids, static_cast<size_t>(n_ids)};
            handle.check_ids(view, "score", "ids", 2);
            need(logprobs, "score", "logprobs");
            const Turn turn(handle, "score");
            turn.check_cancel("score");
            Progress report(progress, user, &handle.cancel);
            handle.model->score(view, logprobs, report);
        });
    }

    static int32_t QP_CALL logits_open(qp_model* model, const int32_t* ids, uint64_t n_ids, qp_logits_session** out,
                                       qp_error* error) noexcept {
        return guarded(state, "logits open", error, [&](const Backend&) {
            *need(out, "logits open", "out") = nullptr;
            ModelHandle& handle = ModelHandle::from(model, "logits open");
            const ModelCall call(handle, "logits open");
            const Ids view{ids, static_cast<size_t>(n_ids)};
            handle.check_ids(view, "logits open", "ids", 1);
            const Turn turn(handle, "logits open");
            turn.check_cancel("logits open");
            auto made = std::unique_ptr<SessionHandle>(
                new SessionHandle{handle, handle.model->open_logits(std::vector<int32_t>(view.begin(), view.end()))});
            if (!made->session)
                throw Error(QP_INTERNAL, "logits open gave nothing and no error: report it to the plugin's author");
            handle.add_child("logits open");
            *out = reinterpret_cast<qp_logits_session*>(made.release());
        });
    }

    static int32_t QP_CALL logits_next(qp_logits_session* session, const float** row, uint64_t* position,
                                       qp_error* error) noexcept {
        return guarded(state, "logits next", error, [&](const Backend&) {
            *need(row, "logits next", "row") = nullptr;
            *need(position, "logits next", "position") = 0;
            SessionHandle& object = *reinterpret_cast<SessionHandle*>(need(session, "logits next", "session"));
            const ModelCall call(object.model, "logits next");
            const Turn turn(object.model, "logits next");
            if (!object.session->next(*row, *position)) throw Error(QP_NOT_FOUND, "logits next: that was the last row");
        });
    }

    static void QP_CALL logits_close(qp_logits_session* session) noexcept {
        if (!session) return;
        guarded(state, "logits close", nullptr, [&](const Backend&) {
            const std::unique_ptr<SessionHandle> object(reinterpret_cast<SessionHandle*>(session));
            ModelHandle& handle = object->model;
            if (in_callback(handle)) {  // from a callback of the model: the queue is this thread's already
                object->session.reset();
            } else {
                const Turn turn(handle, "logits close");
                object->session.reset();
            }
            handle.remove_child();
        });
    }

    static constexpr qp_score score_table = {sizeof(qp_score), 0, score};
    static constexpr qp_logits logits_table = {sizeof(qp_logits), 0, logits_open, logits_next, logits_close};

 private:
    static bool in_callback(ModelHandle& model) {
        const std::lock_guard<std::mutex> lock(model.mutex);
        return model.calls_of_this_thread() > 0;
    }
};

}  // namespace quantplug::backend::detail

#endif
