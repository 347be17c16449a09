#include "host_stub/cli/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

namespace quantplug::host {
namespace {

std::atomic<int> g_signals{0};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free,
              "a signal handler may touch lock-free atomics only");

std::atomic<bool> g_terminated{false};

void on_signal(int number) {
    if (number == SIGTERM) g_terminated.store(true, std::memory_order_relaxed);
    if (g_signals.fetch_add(1, std::memory_order_relaxed) > 0) ::_exit(130);
}

}  // namespace

void install_interrupt_handlers() {
    struct sigaction action = {};
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    // No SA_RESTART: a read from a terminal must end.
    ::sigaction(SIGINT, &action, nullptr);
    ::sigaction(SIGTERM, &action, nullptr);
    ::signal(SIGPIPE, SIG_IGN);
}

void clear_interrupt() {
    if (!g_terminated.load(std::memory_order_relaxed)) g_signals.store(0, std::memory_order_relaxed);
}

bool interrupted() { return g_signals.load(std::memory_order_relaxed) > 0; }

}  // namespace quantplug::host
