// exports.hpp - the table of a backend: C functions over its methods. Included by backend.hpp. C++17.
#ifndef QUANTPLUG_DETAIL_EXPORTS_HPP
#define QUANTPLUG_DETAIL_EXPORTS_HPP

#include <quantplug/detail/exports_chat.hpp>
#include <quantplug/detail/exports_engine.hpp>
#include <quantplug/detail/exports_score.hpp>
#include <quantplug/detail/exports_tools.hpp>
#include <quantplug/detail/generation.hpp>

namespace quantplug::backend {

namespace detail {

template <class B>
struct QUANTPLUG_HIDDEN Exports {
    static constexpr State& state = StateOf<B>::state;

    static int32_t QP_CALL init(const qp_host* host, qp_error* error) noexcept {
        const FloatScope float_scope;
        try {
            if (state.forked()) throw called_after_fork("init");
            const std::lock_guard<std::mutex> lock(state.mutex);
            need_sized(host, "init", "host");
            if (state.inits.load() == 0) {
                auto made = std::make_unique<B>();
                state.host = copy_sized(host);
                state.attach(*made);
                state.first_pid.store(process_id());
                state.backend.store(made.release());
            }
            state.inits.fetch_add(1);
            return QP_OK;
        } catch (...) {
            return caught(nullptr, "init", error);
        }
    }

    static int32_t QP_CALL deinit(qp_error* error) noexcept {
        const FloatScope float_scope;
        try {
            if (state.forked()) throw called_after_fork("deinit");
            const std::lock_guard<std::mutex> lock(state.mutex);
            const uint32_t inits = state.inits.load();
            if (inits == 0) throw Error(QP_FAILED_PRECONDITION, "deinit called without an init that it could balance");
            if (inits > 1) {
                state.inits.store(inits - 1);
                return QP_OK;
            }
            state.inits.store(State::kDeciding);            // before the counts are read: a call that comes now waits
            const uint32_t running = state.running.load();  // first: a load that ends now counts as one or the other
            const uint32_t models = state.models.load();
            state.inits.store(models || running ? 1 : 0);
            if (models || running)
                throw Error(QP_FAILED_PRECONDITION, "deinit: " + std::to_string(models) + " models are loaded and " +
                                                        std::to_string(running) +
                                                        " calls are running: unload and wait for them first");
            delete state.backend.exchange(nullptr);
            state.host = qp_host{};
            return QP_OK;
        } catch (...) {
            return caught(nullptr, "deinit", error);
        }
    }

    static int32_t QP_CALL probe(const char* path, qp_probe_result* out, qp_error* error) noexcept {
        return guarded(state, "probe", error, [&](const Backend& backend) {
            need(path, "probe", "path");
            write_out(out, "probe", [&](qp_probe_result& full) { backend.probe(path, full); });
        });
    }

    static int32_t QP_CALL list_load_options(uint32_t index, qp_option_info* out, qp_error* error) noexcept {
        return guarded(state, "list_load_options", error, [&](const Backend& backend) {
            write_out(out, "list_load_options", [&](qp_option_info& full) {
                if (!backend.load_option(index, full))
                    throw Error(QP_NOT_FOUND, "there is no load option number " + std::to_string(index));
            });
        });
    }

    static int32_t QP_CALL inspect(const char* path, qp_model_info* out, qp_error* error) noexcept {
        return guarded(state, "inspect", error, [&](const Backend& backend) {
            need(path, "inspect", "path");
            write_out(out, "inspect", [&](qp_model_info& full) {
                full.bos_id = full.eos_id = -1;
                backend.inspect(path, full);
            });
        });
    }

    static int32_t QP_CALL plan_memory(const qp_load_params* params, qp_memory_plan* out, qp_error* error) noexcept {
        return guarded(state, "plan_memory", error, [&](const Backend& backend) {
            const LoadParams read = read_load_params(backend, params, "plan_memory");
            write_out(out, "plan_memory", [&](qp_memory_plan& full) {
                backend.plan_memory(read, full);
                if (full.total == 0) full.total = full.weights + full.kv_cache + full.scratch + full.other;
            });
        });
    }

    static int32_t QP_CALL load(const qp_load_params* params, qp_model** out, qp_error* error) noexcept {
        return guarded(state, "load", error, [&](const Backend& backend) {
            *need(out, "load", "out") = nullptr;
            const LoadParams read = read_load_params(backend, params, "load");
            Progress progress(params->progress, params->user);
            auto made = std::make_unique<ModelHandle>();
            made->model = backend.load(read, progress);
            if (!made->model)
                throw Error(QP_INTERNAL, "load gave no model and no error: report it to the plugin's author");
            made->has_engine = (B::extensions & kEngine) != 0;
            made->info.bos_id = made->info.eos_id = -1;
            made->model->info(made->info);
            state.models.fetch_add(1);
            *out = made.release()->handle();
        });
    }

    static int32_t QP_CALL unload(qp_model* model, qp_error* error) noexcept {
        return guarded(state, "unload", error, [&](const Backend&) {
            detail::unload(&ModelHandle::from(model, "unload"));
            state.models.fetch_sub(1);
        });
    }

    static int32_t QP_CALL model_info(qp_model* model, qp_model_info* out, qp_error* error) noexcept {
        return guarded(state, "model_info", error, [&](const Backend&) {
            ModelHandle& handle = ModelHandle::from(model, "model_info");
            const ModelCall call(handle, "model_info");
            write_out(out, "model_info", [&](qp_model_info& full) { full = handle.info; });
        });
    }

    static int32_t QP_CALL default_sampling(qp_model* model, qp_sampling* out, qp_error* error) noexcept {
        return guarded(state, "default_sampling", error, [&](const Backend&) {
            ModelHandle& handle = ModelHandle::from(model, "default_sampling");
            const ModelCall call(handle, "default_sampling");
            write_out(out, "default_sampling", [&](qp_sampling& full) { handle.model->default_sampling(full); });
        });
    }

    static int32_t QP_CALL tokenize(qp_model* model, const char* text, uint64_t text_size, uint32_t flags, int32_t* ids,
                                    uint64_t capacity, uint64_t* n_ids, qp_error* error) noexcept {
        return guarded(state, "tokenize", error, [&](const Backend&) {
            *need(n_ids, "tokenize", "n_ids") = 0;
            ModelHandle& handle = ModelHandle::from(model, "tokenize");
            const ModelCall call(handle, "tokenize");
            if (text_size) need(text, "tokenize", "text");
            check_flags(flags, QP_BOS_ON | QP_BOS_OFF | QP_SPECIAL_TEXT, "tokenize");
            if ((flags & QP_BOS_ON) && (flags & QP_BOS_OFF))
                throw Error(QP_INVALID_ARGUMENT, "tokenize: flags have both QP_BOS_ON and QP_BOS_OFF: give one");
            const std::string_view given(text_size ? text : "", static_cast<size_t>(text_size));
            const std::vector<int32_t> made = valid_utf8(given) ? handle.model->tokenize(given, flags)
                                                                : handle.model->tokenize(replace_invalid(given), flags);
            copy_out(made.data(), made.size(), ids, capacity, n_ids, "tokenize");
        });
    }

    static int32_t QP_CALL detokenize(qp_model* model, const int32_t* ids, uint64_t n_ids, uint32_t flags, char* text,
                                      uint64_t capacity, uint64_t* text_size, qp_error* error) noexcept {
        return guarded(state, "detokenize", error, [&](const Backend&) {
            *need(text_size, "detokenize", "text_size") = 0;
            ModelHandle& handle = ModelHandle::from(model, "detokenize");
            const ModelCall call(handle, "detokenize");
            if (n_ids) need(ids, "detokenize", "ids");
            check_flags(flags, QP_SPECIAL_TEXT | QP_BOS_ON | QP_BOS_OFF, "detokenize");
            const std::string made =
                handle.model->detokenize({ids, static_cast<size_t>(n_ids)}, flags & QP_SPECIAL_TEXT);
            copy_out(made.data(), made.size(), text, capacity, text_size, "detokenize");
        });
    }

    static int32_t QP_CALL detokenizer_create(qp_model* model, uint32_t flags, qp_detokenizer** out,
                                              qp_error* error) noexcept {
        return guarded(state, "detokenizer_create", error, [&](const Backend&) {
            *need(out, "detokenizer_create", "out") = nullptr;
            ModelHandle& handle = ModelHandle::from(model, "detokenizer_create");
            const ModelCall call(handle, "detokenizer_create");
            check_flags(flags, QP_SPECIAL_TEXT | QP_BOS_ON | QP_BOS_OFF, "detokenizer_create");
            auto made = std::unique_ptr<DetokenizerHandle>(
                new DetokenizerHandle{handle, handle.model->detokenizer(flags & QP_SPECIAL_TEXT), std::string()});
            if (!made->detokenizer)
                throw Error(QP_INTERNAL,
                            "detokenizer_create gave nothing and no error: report it to the plugin's author");
            handle.add_child("detokenizer_create");
            *out = reinterpret_cast<qp_detokenizer*>(made.release());
        });
    }

    static int32_t QP_CALL detokenizer_push(qp_detokenizer* detokenizer, int32_t id, const char** text,
                                            uint64_t* text_size, qp_error* error) noexcept {
        return guarded(state, "detokenizer_push", error, [&](const Backend&) {
            lend(detokenizer, "detokenizer_push", text, text_size,
                 [&](Detokenizer& object) { return object.push(id); });
        });
    }

    static int32_t QP_CALL detokenizer_finish(qp_detokenizer* detokenizer, const char** text, uint64_t* text_size,
                                              qp_error* error) noexcept {
        return guarded(state, "detokenizer_finish", error, [&](const Backend&) {
            lend(detokenizer, "detokenizer_finish", text, text_size,
                 [&](Detokenizer& object) { return object.finish(); });
        });
    }

    static void QP_CALL detokenizer_destroy(qp_detokenizer* detokenizer) noexcept {
        if (!detokenizer) return;
        guarded(state, "detokenizer_destroy", nullptr, [&](const Backend&) {
            const std::unique_ptr<DetokenizerHandle> object(reinterpret_cast<DetokenizerHandle*>(detokenizer));
            object->detokenizer.reset();
            object->model.remove_child();
        });
    }

    static int32_t QP_CALL generate(qp_model* model, const qp_generate_params* params, qp_event_fn on_event, void* user,
                                    qp_error* error) noexcept {
        const FloatScope float_scope;  // around the final event too
        GenerateCall generation(on_event, user);
        qp_error own = make<qp_error>();  // for the final event, whatever the caller's holds
        const int32_t status = guarded(state, "generate", &own, [&](const Backend& backend) {
            need(on_event, "generate", "on_event");
            ModelHandle& handle = ModelHandle::from(model, "generate");
            const ModelCall call(handle, "generate");
            try {  // the final event is sent while unload still waits for this call
                generation.read(handle, params);
                if (handle.has_engine) {
                    refuse_in_callback(handle, "generate");
                    generation.run(handle);
                } else {
                    const Turn turn(handle, "generate");
                    turn.check_cancel("generate");
                    generation.run(handle);
                }
            } catch (...) {
                generation.end(caught(&backend, "generate", &own), own.message);
                throw;
            }
        });
        if (status == QP_OK) return status;
        set_error(error, status, own.message, std::strlen(own.message));
        if (model) generation.end(status, own.message);
        return status;
    }

    static const void* QP_CALL get_extension(const char* id) noexcept {
        if (!id) return nullptr;
        const std::string_view name(id);
        if ((B::extensions & kScore) && name == QP_EXT_SCORE) return &ScoreExports<B>::score_table;
        if ((B::extensions & kLogits) && name == QP_EXT_LOGITS) return &ScoreExports<B>::logits_table;
        if ((B::extensions & kTools) && name == QP_EXT_TOOLS) return &ToolExports<B>::tools_table;
        if ((B::extensions & kQuantize) && name == QP_EXT_QUANTIZE) return &ToolExports<B>::quantize_table;
        if ((B::extensions & kEngine) && name == QP_EXT_ENGINE) return &EngineExports<B>::table;
        if ((B::extensions & kChat) && name == QP_EXT_CHAT) return &ChatExports<B>::table;
        return B::extension(id);
    }

    static constexpr qp_plugin table = {sizeof(qp_plugin),
                                        0,
                                        init,
                                        deinit,
                                        probe,
                                        list_load_options,
                                        inspect,
                                        plan_memory,
                                        load,
                                        unload,
                                        model_info,
                                        default_sampling,
                                        tokenize,
                                        detokenize,
                                        detokenizer_create,
                                        detokenizer_push,
                                        detokenizer_finish,
                                        detokenizer_destroy,
                                        generate,
                                        get_extension};

 private:
    static LoadParams read_load_params(const Backend& backend, const qp_load_params* given, const char* hook) {
        const qp_load_params in = copy_sized(need_sized(given, hook, "params"));
        need(in.path, hook, "params.path");
        if (!*in.path)
            throw Error(QP_INVALID_ARGUMENT, std::string(hook) + ": params.path is empty: give a model folder");
        if (in.n_options) need(in.options, hook, "params.options");
        std::vector<qp_option_info> known;
        for (qp_option_info info = make<qp_option_info>();
             backend.load_option(static_cast<uint32_t>(known.size()), info); info = make<qp_option_info>())
            known.push_back(info);
        return {in.path, LoadOptions(std::move(known), in.options, in.n_options)};
    }

    template <class Call>
    static void lend(qp_detokenizer* detokenizer, const char* hook, const char** text, uint64_t* text_size,
                     Call&& call) {
        *need(text, hook, "text") = "";
        *need(text_size, hook, "text_size") = 0;
        DetokenizerHandle& object = *reinterpret_cast<DetokenizerHandle*>(need(detokenizer, hook, "detokenizer"));
        object.text = call(*object.detokenizer);
        *text = object.text.c_str();
        *text_size = object.text.size();
    }
};

}  // namespace detail

inline void Backend::log(int32_t level, std::string_view line) const noexcept {
    if (!host_ || !host_->log) return;
    try {
        std::string text(line);
        for (char& c : text)
            if (c == '\n' || c == '\r' || c == '\0') c = ' ';
        host_->log(host_->context, level, text.c_str());
    } catch (...) {  // no memory for a line of log: it is lost
    }
}

template <class B>
constexpr qp_entry make_entry(const char* name, const char* version, const char* formats) noexcept {
    return {sizeof(qp_entry), QP_ABI_DRAFT, name, version, formats, &detail::Exports<B>::table};
}

template <class B, class Body>
int32_t guard(const char* function, qp_error* error, Body&& body) noexcept {
    return detail::guarded(detail::Exports<B>::state, function, error,
                           [&](const Backend& backend) { body(static_cast<const B&>(backend)); });
}

}  // namespace quantplug::backend

#endif
