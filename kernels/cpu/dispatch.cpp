#include "kernels/cpu/dispatch.h"

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

struct InstructionSet {
    const char* name;
    bool (*present)();
    const Table& (*table)();
    bool chosen;  // without being named
};

#if defined(__x86_64__)
// The registers that the system saves (Intel SDM volume 1, section 13.3): XMM and YMM; those and the AVX-512 state.
constexpr uint64_t saves_256 = 0x06, saves_512 = 0xe6;

struct Processor {
    uint64_t saved = 0;
    bool f16c = false, avx2 = false, avxvnni = false, avx512vnni = false;

    Processor() {
        unsigned a, b, c, d;
        if (!__get_cpuid(1, &a, &b, &c, &d)) return;
        f16c = c & bit_F16C;
        if (c & bit_OSXSAVE) {
            unsigned low, high;
            asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
            saved = uint64_t(high) << 32 | low;
        }
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        constexpr unsigned avx512 = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
        avx2 = b & bit_AVX2;
        avx512vnni = (b & avx512) == avx512 && (c & bit_AVX512VNNI);
        if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) avxvnni = a & bit_AVXVNNI;
    }
    bool saves(uint64_t registers) const { return (saved & registers) == registers; }
};

bool has_avx2() {
    const Processor cpu;
    return cpu.avx2 && cpu.f16c && cpu.saves(saves_256);
}
bool has_avxvnni() { return has_avx2() && Processor().avxvnni; }
bool has_avx512vnni() { return has_avx2() && Processor().avx512vnni && Processor().saves(saves_512); }
#endif

bool always() { return true; }

// The best first.
constexpr InstructionSet instruction_sets[] = {
#if defined(__x86_64__)
    {"avx512vnni", has_avx512vnni, avx512vnni_table, true},
    {"avxvnni", has_avxvnni, avxvnni_table, true},
    {"avxvnni-evex", has_avx512vnni, avxvnni_evex_table, false},
    {"avx2", has_avx2, avx2_table, true},
#endif
    {"portable", always, portable_table, true},
};

}  // namespace

const Table* choose_table(const char* name, const char** error) {
    const bool any = !name || !*name;
    for (const InstructionSet& set : instruction_sets) {
        if (any ? !set.chosen : std::strcmp(name, set.name) != 0) continue;
        if (set.present()) return &set.table();
        if (any) continue;
        *error = "names an instruction set that this processor lacks";
        return nullptr;
    }
    *error = "names no instruction set of this program";
    return nullptr;
}

Status machine_table(const Table** out) {
    const char* name = std::getenv("QUANTPLUG_CPU");
    const char* error = "";
    *out = choose_table(name, &error);
    if (*out) return {};
    return Status::error(invalid_argument, std::string("QUANTPLUG_CPU=") + name + " " + error +
                                               "; set one of portable, avx2, avxvnni, avx512vnni, or unset it");
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
