// A loop over independent tasks for the tools. Threads of its own: a region of the kernels' pool that lasts seconds
// would hold up the steps of loaded models.
#pragma once

#include <cstdint>
#include <functional>

namespace quantplug::engine {

/// Runs task(0) .. task(count-1), each once, on the calling thread and others; how many there are must not matter to
/// the result. `poll`, if any, is called on the calling thread between its tasks with the number finished; what it
/// throws stops the loop. The first exception of a task is thrown again when all threads have stopped.
void parallel_for(int64_t count, const std::function<void(int64_t)>& task,
                  const std::function<void(int64_t finished)>& poll = {});

}  // namespace quantplug::engine
