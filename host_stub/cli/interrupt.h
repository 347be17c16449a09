// Ctrl-C: once stops cleanly, twice at once.
#pragma once

namespace quantplug::host {

/// From now on SIGINT and SIGTERM set a flag, and a second one ends the process with 130; SIGPIPE is ignored (writes
/// report it).
void install_interrupt_handlers();

/// Forgets a Ctrl-C that has been obeyed, so that the program goes on and the next one is a first one again. A SIGTERM
/// stays.
void clear_interrupt();

/// [any-thread] Whether to stop: what callbacks answer to a plugin.
bool interrupted();

}  // namespace quantplug::host
