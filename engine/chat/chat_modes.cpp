#include "engine/chat/chat_modes.h"

namespace quantplug::engine {
namespace {

// Roles in markers, one turn after another.
constexpr std::string_view chatml =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

constexpr std::string_view llama3 =
    "{{ '<|begin_of_text|>' }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}";

constexpr std::string_view zephyr =
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}";

constexpr std::string_view phi3 =
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}";

constexpr std::string_view phi4 =
    "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}";

constexpr std::string_view granite3 =
    "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}";

constexpr std::string_view cohere =
    "{% for m in messages %}<|START_OF_TURN_TOKEN|>"
    "{{ {'system': '<|SYSTEM_TOKEN|>', 'user': '<|USER_TOKEN|>'}.get(m.role, '<|CHATBOT_TOKEN|>') }}"
    "{{ m.content }}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}";

constexpr std::string_view tulu =
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}";

constexpr std::string_view metharme =
    "{% for m in messages %}{{ {'system': '<|system|>', 'user': '<|user|>'}.get(m.role, '<|model|>') }}{{ m.content }}"
    "{% endfor %}{% if add_generation_prompt %}<|model|>{% endif %}";

// The system's text is part of the first turn of the user.
constexpr std::string_view llama2 =
    "{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = '<<SYS>>\n' ~ m.content ~ '\n<</SYS>>\n\n' %}"
    "{% elif m.role == 'user' %}{{ bos_token }}[INST] {{ ns.system }}{{ m.content }} [/INST]{% set ns.system = '' %}"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}";

constexpr std::string_view mistral =
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = m.content ~ '\n\n' %}"
    "{% elif m.role == 'user' %}[INST] {{ ns.system }}{{ m.content }} [/INST]{% set ns.system = '' %}"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}";

constexpr std::string_view gemma =
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = m.content ~ '\n\n' %}{% else %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ ns.system }}{{ m.content|trim "
    "}}<end_of_turn>\n"
    "{% set ns.system = '' %}{% endif %}{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}";

// Names in front of the lines.
constexpr std::string_view raw =
    "{% set user = user_name or 'User' %}{% set bot = bot_name or 'Assistant' %}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}\n\n{% else %}"
    "{{ bot if m.role == 'assistant' else user }}: {{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ bot }}:{% endif %}";

constexpr std::string_view alpaca =
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}"
    "### Instruction:\n{{ m.content }}\n\n{% else %}### Response:\n{{ m.content }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}";

constexpr std::string_view vicuna =
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}"
    "USER: {{ m.content }}\n{% else %}ASSISTANT: {{ m.content }}{{ eos_token }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}";

constexpr std::string_view deepseek =
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n{% elif m.role == 'user' %}"
    "### Instruction:\n{{ m.content }}\n{% else %}### Response:\n{{ m.content }}\n<|EOT|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}";

constexpr std::string_view deepseek_chat =
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}"
    "User: {{ m.content }}\n\n{% else %}Assistant: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}";

constexpr std::string_view deepseek_r1 =
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "<｜User｜>{{ m.content }}{% else %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}";

constexpr std::string_view solar =
    "{% for m in messages %}{{ {'system': '### System:', 'user': '### User:'}.get(m.role, '### Assistant:') }}\n"
    "{{ m.content }}\n\n{% endfor %}{% if add_generation_prompt %}### Assistant:\n{% endif %}";

constexpr std::string_view openchat =
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}<|end_of_turn|>{% else %}"
    "GPT4 Correct {{ m.role | title }}: {{ m.content }}<|end_of_turn|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}GPT4 Correct Assistant:{% endif %}";

constexpr std::string_view granite =
    "{% for m in messages %}{{ {'system': 'System:', 'user': 'Question:'}.get(m.role, 'Answer:') }}\n{{ m.content "
    "}}\n\n"
    "{% endfor %}{% if add_generation_prompt %}Answer:\n{% endif %}";

constexpr ChatMode modes[] = {
    {"raw", "lines with names in front, for any model", raw, "\nUser:"},
    {"llama", "Llama 2 chat", llama2, ""},
    {"codellama", "Code Llama instruct", llama2, ""},
    {"llama3", "Llama 3 instruct", llama3, "<|eot_id|>"},
    {"chatml", "ChatML: Qwen, Yi, many finetunes", chatml, "<|im_end|>"},
    {"alpaca", "Alpaca and its finetunes", alpaca, "### Instruction:"},
    {"vicuna", "Vicuna 1.1 and later", vicuna, "USER:"},
    {"tinyllama", "TinyLlama chat", zephyr, ""},
    {"zephyr", "Zephyr, StableLM", zephyr, ""},
    {"mistral", "Mistral and Mixtral instruct", mistral, ""},
    {"gemma", "Gemma 1 to 3 instruct", gemma, "<end_of_turn>"},
    {"phi3", "Phi-3 and 3.5 instruct", phi3, "<|end|>"},
    {"phi4", "Phi-4", phi4, "<|im_end|>"},
    {"deepseek", "DeepSeek Coder instruct", deepseek, "<|EOT|>"},
    {"deepseek-chat", "DeepSeek LLM and V2 chat", deepseek_chat, "<｜end▁of▁sentence｜>"},
    {"deepseek-r1", "DeepSeek V3, R1 and its distillates", deepseek_r1, "<｜end▁of▁sentence｜>"},
    {"solar", "SOLAR instruct", solar, "### User:"},
    {"openchat", "OpenChat 3.5, Starling", openchat, "<|end_of_turn|>"},
    {"nous", "Nous Hermes 2 and 3", chatml, "<|im_end|>"},
    {"cohere", "Command R, Aya", cohere, "<|END_OF_TURN_TOKEN|>"},
    {"granite", "Granite code instruct", granite, "Question:"},
    {"granite3", "Granite 3 instruct", granite3, "<|end_of_text|>"},
    {"tulu", "Tulu, OLMo instruct", tulu, ""},
    {"metharme", "Pygmalion 2 and role-play finetunes", metharme, "<|user|>"},
};

}  // namespace

std::span<const ChatMode> chat_modes() { return modes; }

const ChatMode* find_chat_mode(std::string_view name) {
    for (const ChatMode& mode : modes)
        if (mode.name == name) return &mode;
    return nullptr;
}

}  // namespace quantplug::engine
