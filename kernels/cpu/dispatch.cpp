#include <cstring>

#include "kernels/cpu/table.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

#if defined(__x86_64__)
// The system saves the 256-bit registers (which __builtin_cpu_supports looks at), and the processor has both.
bool machine_has_avx2() {
    unsigned a, b, c = 0, d;
    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#else
bool machine_has_avx2() { return false; }
#endif

}  // namespace

const Table* choose_table(const char* name, const char** error) {
    const bool has_avx2 = machine_has_avx2();
    const bool any = !name || !*name;
    if (!any && std::strcmp(name, "portable") != 0 && std::strcmp(name, "avx2") != 0) {
        *error = "is none of portable, avx2";
        return nullptr;
    }
#if defined(__x86_64__)
    if (has_avx2 && (any || std::strcmp(name, "avx2") == 0)) return &avx2_table();
#endif
    if (!any && !has_avx2 && std::strcmp(name, "avx2") == 0) {
        *error = "names an instruction set that this processor lacks";
        return nullptr;
    }
    return &portable_table();
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
