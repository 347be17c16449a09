#include <chrono>

#include "host_stub/cli/command_line.h"

int main(int argc, char** argv) {
    const auto start = std::chrono::steady_clock::now();
    return quantplug::host::run_command_line(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc), start);
}
