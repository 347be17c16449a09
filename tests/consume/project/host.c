/* A whole host in C: host_c <plugin> <model folder> prints what the model says to token 0. */
#include <dlfcn.h>
#include <quantplug/ext/chat.h>
#include <quantplug/ext/engine.h>
#include <quantplug/ext/logits.h>
#include <quantplug/ext/quantize.h>
#include <quantplug/ext/score.h>
#include <quantplug/ext/tools.h>
#include <quantplug/plugin.h>
#include <stdio.h>

static int32_t QP_CALL on_event(void* user, const qp_event* event) {
    fwrite(event->text, 1, (size_t)event->text_size, (FILE*)user);
    return 0;
}

static int failed(int32_t status, const qp_error* error) {
    if (status != QP_OK) fprintf(stderr, "error %d: %s\n", (int)status, error->message);
    return status != QP_OK;
}

int main(int argc, char** argv) {
    const int32_t prompt = 0;
    qp_error error = {.struct_size = sizeof error};
    qp_host host = {.struct_size = sizeof host};
    qp_load_params load = {.struct_size = sizeof load};
    qp_generate_params generate = {.struct_size = sizeof generate, .prompt = &prompt, .n_prompt = 1};
    qp_model* model = NULL;
    if (argc != 3) return 2;
    void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
    const qp_entry* entry = (const qp_entry*)dlsym(library, QP_ENTRY_SYMBOL);
    if (!entry || entry->draft != QP_ABI_DRAFT || !QP_HAS(entry->plugin, generate)) return 1;
    const qp_plugin* plugin = entry->plugin;
    if (failed(plugin->init(&host, &error), &error)) return 1;
    load.path = argv[2];
    if (failed(plugin->load(&load, &model, &error), &error)) return 1;
    if (failed(plugin->generate(model, &generate, on_event, stdout, &error), &error)) return 1;
    printf("\n");
    if (failed(plugin->unload(model, &error), &error)) return 1;
    return failed(plugin->deinit(&error), &error);
}
