// AVX-512 (F, BW, DQ, VL) + VNNI, registers of 512 bits.
#include "kernels/cpu/generic.h"
#include "kernels/cpu/x86/columns512.h"
#include "kernels/cpu/x86/dense.h"
#include "kernels/cpu/x86/exact.h"
#include "kernels/cpu/x86/peak.h"
#include "kernels/cpu/x86/vnni.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {

const Table& avx512vnni_table() {
    static constexpr Table table = vnni_table("avx512vnni");
    return table;
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
