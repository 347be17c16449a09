// avxvnni.cpp's source in AVX-512's encoding: stands in for it in tests on a machine that lacks AVX-VNNI.
#include "kernels/cpu/generic.h"
#include "kernels/cpu/x86/columns256.h"
#include "kernels/cpu/x86/dense.h"
#include "kernels/cpu/x86/exact.h"
#include "kernels/cpu/x86/peak.h"
#include "kernels/cpu/x86/vnni.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {

const Table& avxvnni_evex_table() {
    static constexpr Table table = vnni_table("avxvnni-evex");
    return table;
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
