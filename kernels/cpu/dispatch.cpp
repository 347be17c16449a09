#include <cstring>

#include "kernels/cpu/table.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {

const Table* choose_table(const char* name, const char** error) {
#if defined(__x86_64__)
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
#else
    const bool has_avx2 = false;
#endif
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
