// Columns of a stored matrix as a matrix of their own: the parts of fused projections, one expert of a stack.
#pragma once

#include <memory>
#include <vector>

#include "engine/model/decoder.h"
#include "kernels/matrix.h"

namespace quantplug::engine {

/// Codes, scales, zero points and bias of these outputs; the order of the rows is shared. Empty `columns`: the whole.
kernels::QuantSource select_columns(std::shared_ptr<const kernels::QuantSource> whole,
                                    std::vector<ColumnRange> columns);

/// The values of a plain part, (out, in) whatever the file's orientation; a transposed one is read when it is opened
/// and held, others are streamed. Borrows the folder and the part.
kernels::DenseSource open_dense(const ModelFolder& folder, const LinearPart& part);

}  // namespace quantplug::engine
