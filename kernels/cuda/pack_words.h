// The parts of pack_image that are most of its work: words, scales, zero points. Within pack.cpp only.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/layout.h"
#include "kernels/matrix.h"
#include "kernels/status.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

void clear_image(uint8_t* image, uint64_t bytes);

/// packed_group (view.n_groups): the source group of each, -1 for padding (scale 0).
void put_scales(const QuantSource& source, const MatrixView& view, const std::vector<int32_t>& packed_group,
                uint32_t* scales);
void put_zeros(const QuantSource& source, const MatrixView& view, const std::vector<int32_t>& packed_group,
               uint16_t* zeros);

/// slab0: the first slab (32 rows of K') of each source group. `words` is zero before.
Status put_codes(const QuantSource& source, const MatrixView& view, const std::vector<int32_t>& slab0,
                 const std::vector<int32_t>& packed_group, uint32_t* words);

/// Words and scales of a plain matrix; both are zero before.
Status put_plain(const DenseSource& source, const MatrixView& view, uint32_t* words, uint32_t* scales);

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
