// The object file of an instruction set exports its table and nothing else: an inline function compiled there could be
// linked into a machine that lacks the instructions.
#include <doctest/doctest.h>

#include <cstdio>
#include <string>

#include "../support/data.h"

TEST_CASE("the object of an instruction set defines no symbol but its table") {
    for (const std::string set : {"avx2", "avxvnni", "avxvnni_evex", "avx512vnni"}) {
        INFO(set);
        const auto object =
            std::filesystem::path(QP_BINARY_DIR) / ("kernels/CMakeFiles/quantplug_kernels.dir/cpu/" + set + ".cpp.o");
        if (!std::filesystem::exists(object)) {
            MESSAGE("skipped: " << object.string() << " is not there");
            continue;
        }
        const std::string command = "nm -C --defined-only --extern-only '" + object.string() + "' 2>&1";
        std::FILE* pipe = popen(command.c_str(), "r");
        REQUIRE(pipe);
        std::string foreign;
        int tables = 0;
        char line[4096];
        while (std::fgets(line, sizeof line, pipe)) {
            const std::string text = line;
            if (text.find(" T ") != std::string::npos && text.find("::" + set + "_table()") != std::string::npos) {
                ++tables;
            } else if (text.find("san") == std::string::npos && text.find(" V ") == std::string::npos) {
                // Left out: a sanitizer's own symbols, and weak data (TSan brings a pointer to the personality
                // routine).
                foreign += text;
            }
        }
        CHECK(pclose(pipe) == 0);
        CHECK(tables == 1);
        CHECK_MESSAGE(foreign.empty(), foreign);
    }
}
