/* ext/chat.h - quantplug.chat/1: messages to a prompt by the model's own chat template, and tool calls back from an answer. */
#ifndef QUANTPLUG_EXT_CHAT_H
#define QUANTPLUG_EXT_CHAT_H

#include <quantplug/ext/tools.h>
#include <quantplug/model.h>

#define QP_EXT_CHAT "quantplug.chat/1"

/* JSON in and out; on_result is called once, on the calling thread, with one document that is borrowed for the call. Unknown keys are refused by name. */
typedef struct qp_chat {
    uint32_t struct_size;
    uint32_t reserved;

    /* [any-thread] {"messages": [{"role", "content", ...}, ...], "tools": [...], "add_generation_prompt": true, "continue_final_message": false,
     *   "template": name of one of the model's templates, "template_text": a template itself, "mode": a built-in format, "variables": {...}}; only messages is
     * required. Content is a string, null, or a list of {"type": "text", "text"}.
     * Result: {"prompt": text, "ids": [...], "stop": [strings], "stop_ids": [...]}. In the ids the template's special tokens are tokens, text of a message
     * that looks like one stays text, and BOS stands once at most. QP_INVALID_ARGUMENT: what the template raises, with its message; QP_NOT_FOUND: the
     * model has no template and no mode is named; QP_RESOURCE_EXHAUSTED: the template's work has no end. */
    int32_t(QP_CALL* render)(qp_model* model, const char* request_json, qp_json_event_fn on_result, void* user, qp_error* error);

    /* [any-thread] {"text": an answer, "tools": as for render, "format": "hermes"|"llama3"|"mistral"; default: by the template}.
     * Result: {"content": text outside of calls or null, "tool_calls": [{"id", "type": "function", "function": {"name", "arguments": JSON text}}, ...]}.
     * Text that is no call stays content. */
    int32_t(QP_CALL* parse)(qp_model* model, const char* request_json, qp_json_event_fn on_result, void* user, qp_error* error);

    /* [any-thread] {"templates": [names], "source": file of the default one, "modes": [names], "tool_format": name or null} */
    int32_t(QP_CALL* describe)(qp_model* model, qp_json_event_fn on_result, void* user, qp_error* error);
} qp_chat;

#endif
