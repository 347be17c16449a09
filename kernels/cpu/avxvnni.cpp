// AVX-VNNI: AVX2 + F16C + vpdpbusd, registers of 256 bits.
#include "kernels/cpu/generic.h"
#include "kernels/cpu/x86/columns256.h"
#include "kernels/cpu/x86/dense.h"
#include "kernels/cpu/x86/exact.h"
#include "kernels/cpu/x86/peak.h"
#include "kernels/cpu/x86/vnni.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {

const Table& avxvnni_table() {
    static constexpr Table table = vnni_table("avxvnni");
    return table;
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
