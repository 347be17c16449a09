// The flags of most commands, in one file: CLI11 takes longer to compile than a command does.
#include "host_stub/cli/flags.h"

#include "host_stub/cli/commands/commands.h"

namespace quantplug::host {

void add_plugins(CLI::App& command, PluginsArguments& arguments) {
    command.add_option("--backend", arguments.backend, "also look at this library or manifest, first")
        ->type_name("PATH");
    add_output_arguments(command, arguments);
    command.footer("Example: every plugin that is found, where, and why one is not used\n  quantplug plugins");
}

void add_info(CLI::App& command, InfoArguments& arguments) {
    add_model_arguments(command, arguments);
    add_output_arguments(command, arguments);
    command.footer(
        "Example: what a folder is, and the memory that it takes with 4096 tokens of context\n"
        "  quantplug info models/smollm2-exl2 --ctx 4096");
}

void add_generate(CLI::App& command, GenerateArguments& arguments) {
    add_model_arguments(command, arguments);
    CLI::Option* text =
        command.add_option("-p,--prompt", arguments.input.text, "the prompt, as raw text")->type_name("TEXT");
    CLI::Option* ids = command.add_option("--ids", arguments.input.ids, "the prompt as token ids")->type_name("1,2,3");
    command.add_option("-f,--file", arguments.input.file, "the prompt from a file; - is standard input")
        ->type_name("FILE");
    command.callback([text, ids, &arguments] {
        arguments.input.has_text = text->count() > 0;
        arguments.input.has_ids = ids->count() > 0;
    });
    command
        .add_option("-n,--n-tokens", arguments.n_tokens,
                    "at most this many tokens (default: until the context is full)")
        ->check(CLI::Range(1u, 0x7fffffffu))
        ->type_name("N");
    command.add_flag("--ignore-eos", arguments.ignore_eos, "go on after the model's own stop tokens");
    add_sampling_arguments(command, arguments.sampling);
    command.add_option("--batch", arguments.batch, "the same prompt B times at once; greedy streams must agree")
        ->check(CLI::Range(1u, 65536u))
        ->type_name("B");
    command.add_option("--logprobs", arguments.n_top, "the K most probable tokens beside each token (with --json)")
        ->check(CLI::Range(0u, 1000000u))
        ->type_name("K");
    add_special(command, arguments.special,
                "text like <|im_start|> is the token, and tokens are written so (default off)");
    add_bos(command, arguments.bos);
    add_output_arguments(command, arguments);
    command.footer(
        "Example: go on with a sentence, the most probable token each time\n"
        "  quantplug generate models/smollm2-exl2 -p \"The capital of France is\" -n 16 --temp 0");
}

void add_chat(CLI::App& command, ChatArguments& arguments) {
    add_model_arguments(command, arguments);
    CLI::Option* text = command.add_option("-p,--prompt", arguments.text, "one turn, then exit")->type_name("TEXT");
    command.callback([text, &arguments] { arguments.has_text = text->count() > 0; });
    command
        .add_option("--mode", arguments.mode, "a built-in format: chatml, llama3, raw, ... (default: the model's own)")
        ->type_name("NAME");
    CLI::Option* system = command.add_option("--system", arguments.system, "the system message")->type_name("TEXT");
    system->each([&arguments](const std::string&) { arguments.has_system = true; });
    command
        .add_option("-n,--n-tokens", arguments.n_tokens,
                    "at most this many tokens an answer (default: until the context is full)")
        ->check(CLI::Range(1u, 0x7fffffffu))
        ->type_name("N");
    add_sampling_arguments(command, arguments.sampling);
    add_output_arguments(command, arguments);
    command.footer(
        "Lines are turns; a line that ends in \\ goes on in the next. /clear begins anew, /system TEXT changes the\n"
        "system message, /quit leaves. Ctrl-C stops the answer, at the prompt the program.\n"
        "Example: one question\n"
        "  quantplug chat models/smollm2-exl2 -p \"What is the capital of France?\" --temp 0");
}

void add_tokenize(CLI::App& command, TokenizeArguments& arguments) {
    add_model_arguments(command, arguments);
    CLI::Option* text = command.add_option("-p,--prompt", arguments.input.text, "the text")->type_name("TEXT");
    command.add_option("-f,--file", arguments.input.file, "the text from a file; - is standard input")
        ->type_name("FILE");
    command.callback([text, &arguments] { arguments.input.has_text = text->count() > 0; });
    command.add_flag("--lines", arguments.input.lines, "one result per line of the input");
    add_special(command, arguments.special, "text like <|im_start|> is the token (default off)");
    add_bos(command, arguments.bos);
    add_output_arguments(command, arguments);
    command.footer("Example: the ids of a text\n  quantplug tokenize models/smollm2-exl2 -p \"Hello world\"");
}

void add_detokenize(CLI::App& command, DetokenizeArguments& arguments) {
    add_model_arguments(command, arguments);
    CLI::Option* ids = command.add_option("--ids", arguments.input.ids, "the token ids")->type_name("1,2,3");
    command.add_option("-f,--file", arguments.input.file, "the ids from a file; - is standard input")
        ->type_name("FILE");
    command.callback([ids, &arguments] { arguments.input.has_ids = ids->count() > 0; });
    command.add_flag("--lines", arguments.input.lines, "one result per line of the input");
    add_special(command, arguments.special, "special tokens are written as their text (default off)");
    add_output_arguments(command, arguments);
    command.footer("Example: the text of two ids\n  quantplug detokenize models/smollm2-exl2 --ids 19556,905");
}

void add_perplexity(CLI::App& command, PerplexityArguments& arguments) {
    add_model_arguments(command, arguments);
    command.add_option("-f,--file", arguments.file, "the text; - is standard input")->type_name("FILE");
    add_bos(command, arguments.bos);
    CLI::Option* base =
        command.add_option("--kl-base", arguments.base_folder, "the model to compare with; may be the same folder")
            ->type_name("DIR");
    command.add_option("--kl-base-compute", arguments.base_compute, "--compute of the base (default: the model's own)")
        ->check(CLI::IsMember({"default", "exact"}))
        ->needs(base);
    command.add_option("--kl-base-device", arguments.base_device, "--device of the base (default: the model's own)")
        ->check(device_validator())
        ->needs(base);
    command.add_option("--dump-logprobs", arguments.dump_file, "write float32 .npy, (predictions, n_vocab)")
        ->type_name("FILE");
    add_output_arguments(command, arguments);
    command.footer(
        "Rows have --ctx ids (default 512).\n"
        "Example: what 4 bits cost\n"
        "  quantplug perplexity models/smollm2-gptq -f eval.txt --kl-base models/smollm2-f16");
}

void add_dequantize(CLI::App& command, DequantizeArguments& arguments) {
    command.add_option("-m,--model,DIR", arguments.folder, "the quantised model folder")->type_name("DIR")->required();
    command.add_option("OUT", arguments.out, "the folder to make, absent or empty")->required();
    command.add_option("--dtype", arguments.dtype, "of the matrices (default f16)")
        ->check(CLI::IsMember({"f16", "f32"}));
    add_backend_arguments(command, arguments);
    add_output_arguments(command, arguments);
    command.footer(
        "Example: the decoded values as FP16, for any other program\n"
        "  quantplug dequantize models/llama2-exl2 models/llama2-f16");
}

void add_import_gguf(CLI::App& command, ImportGgufArguments& arguments) {
    command.add_option("FILE", arguments.file, "the GGUF file")->required();
    command.add_option("OUT", arguments.out, "the folder to make, absent or empty")->required();
    command.add_option("--dtype", arguments.dtype, "of the matrices (default f16)")
        ->check(CLI::IsMember({"f16", "f32"}));
    add_backend_arguments(command, arguments);
    add_output_arguments(command, arguments);
    command.footer(
        "Example: a folder to quantise from\n  quantplug import-gguf SmolLM2-135M-Instruct.Q4_1.gguf "
        "models/smollm2-f16");
}

void add_quantize(CLI::App& command, QuantizeArguments& arguments) {
    command.add_option("-i,--in", arguments.in, "the plain model folder")->type_name("DIR")->required();
    command.add_option("-o,--out", arguments.work, "work folder; round to nearest needs none and leaves it alone")
        ->type_name("DIR");
    command.add_option("--compile-full", arguments.out, "the folder to make, absent or empty (also -cf)")
        ->type_name("DIR")
        ->required();
    command.add_option("--to", arguments.format, "the format to make")
        ->check(CLI::IsMember({"exl2", "gptq"}))
        ->required();
    command.add_option("--method", arguments.method, "rtn: round to nearest, no calibration")
        ->check(CLI::IsMember({"rtn"}))
        ->required();
    command.add_option("-b,--bits", arguments.bits, "bits per weight")->check(CLI::Range(1.0, 16.0))->type_name("BPW");
    command.add_option("--group-size", arguments.group_size, "rows that share a scale; -1: all")->type_name("N");
    command.add_option("--head-bits", arguments.head_bits, "bits of the head (also -hb)")
        ->check(CLI::Range(1, 16))
        ->type_name("N");
    add_backend_arguments(command, arguments);
    add_output_arguments(command, arguments);
    command.footer(
        "Example: a GPTQ folder at 4 bits in groups of 128\n"
        "  quantplug quantize -i models/smollm2-f16 -cf models/smollm2-gptq --to gptq --method rtn -b 4 --group-size "
        "128");
}

}  // namespace quantplug::host
