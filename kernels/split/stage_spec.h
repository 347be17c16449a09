// What one stage of a split model is given: its layers and ends, with the handles of its own device.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/model.h"
#include "kernels/status.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace split {

/// Handles of the whole: which stage each is on, and its number there. 0 is none.
class PlacedHandles {
 public:
    void reserve_one() {
        if (places_.size() == places_.capacity()) places_.reserve(2 * places_.size());
    }
    uint32_t add(int32_t part, uint32_t id) {
        places_.push_back({part, id});
        return uint32_t(places_.size() - 1);
    }
    /// The number on `part`; one that no device has where the handle is another stage's.
    uint32_t on(int32_t part, uint32_t handle) const {
        if (handle == 0) return 0;
        return handle < places_.size() && places_[handle].part == part ? places_[handle].id : UINT32_MAX;
    }

 private:
    struct Place {
        int32_t part;
        uint32_t id;
    };
    std::vector<Place> places_{Place{-1, 0}};
};

/// Refuses layers whose devices fall or are none of 0 .. n_parts-1, and a part without a layer.
Status check_stages(const ModelSpec& whole, int32_t n_parts);

/// The layers of stage `part`; the embedding for the first stage, the head for the last.
ModelSpec stage_spec(const ModelSpec& whole, int32_t part, int32_t n_parts, const PlacedHandles& matrices,
                     const PlacedHandles& vectors);

/// Every field of the spec as numbers: two specs with equal images are the same model.
using SpecImage = std::vector<uint32_t>;
void write_image(const ModelSpec& spec, SpecImage& out);

}  // namespace split
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
