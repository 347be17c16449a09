// The instruction set of this process.
#pragma once

#include "kernels/cpu/table.h"
#include "kernels/status.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {

/// The table that QUANTPLUG_CPU names, or the machine's best.
Status machine_table(const Table** out);

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
