#include "engine/model/weights.h"

#include <algorithm>
#include <memory>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/model/columns.h"

namespace quantplug::engine {

namespace {

void check(const kernels::Status& status, const std::string& what) {
    if (!status.ok()) fail(Code(status.code), what, ": ", status.message);
}

/// Quantised matrices one after the other; the parts of a fused one follow each other and share it.
class QuantisedMatrices {
 public:
    QuantisedMatrices(const ModelFolder& folder, const Format& format) : folder_(folder), format_(format) {}

    kernels::QuantSource open(const LinearPart& part) {
        if (part.columns.empty()) {
            whole_.reset();
            return format_.open(folder_, part.module, part.shape.in_features, part.stored_columns);
        }
        if (!whole_ || module_ != part.module) {
            whole_.reset();  // the last one goes before the next is read
            whole_ = std::make_shared<kernels::QuantSource>(
                format_.open(folder_, part.module, part.shape.in_features, part.stored_columns));
            check(kernels::validate(*whole_), concat(folder_.name(), ": ", part.module));
            module_ = part.module;
        }
        return select_columns(whole_, part.columns);
    }

 private:
    const ModelFolder& folder_;
    const Format& format_;
    std::string module_;
    std::shared_ptr<const kernels::QuantSource> whole_;
};

}  // namespace

WeightPlace place_of(const Decoder& decoder, const LinearPart& linear, int32_t n_parts) {
    using kernels::ModelSpec;
    if (linear.slot.layer >= 0) return {decoder.spec.layers[size_t(linear.slot.layer)].device};
    const auto slot = linear.slot.of_model;
    const bool embedding = slot == &ModelSpec::embedding;
    if (decoder.tied && n_parts > 1 && (embedding || slot == &ModelSpec::head)) return {0, n_parts - 1};
    return {embedding || slot == &ModelSpec::project_in || slot == &ModelSpec::positions ? 0 : n_parts - 1};
}

WeightPlace place_of(const Decoder& decoder, const NormPart& norm, int32_t n_parts) {
    if (norm.layer >= 0) return {decoder.spec.layers[size_t(norm.layer)].device};
    return {norm.of_model == &kernels::ModelSpec::final_norm ? n_parts - 1 : 0};
}

void for_each_weight(const Decoder& decoder, const kernels::Device& device, int32_t part,
                     const std::function<void(int32_t layer, uint64_t bytes)>& tell) {
    const int32_t n_parts = device.n_parts();
    for (const LinearPart& l : decoder.linears) {
        if (l.slot.layer >= 0 || place_of(decoder, l, n_parts).on(part))
            tell(l.slot.layer, device.matrix_bytes(l.shape));
    }
    for (const NormPart& n : decoder.norms) {
        if (n.layer >= 0 || place_of(decoder, n, n_parts).on(part)) tell(n.layer, uint64_t(n.size) * sizeof(float));
    }
}

uint64_t weight_bytes(const Decoder& decoder, const kernels::Device& device, int32_t part) {
    uint64_t total = 0;
    for_each_weight(decoder, device, part, [&](int32_t layer, uint64_t bytes) {
        if (layer < 0 || decoder.spec.layers[size_t(layer)].device == part)
            total = total + bytes < total ? UINT64_MAX : total + bytes;
    });
    return total;
}

uint64_t largest_weight_bytes(const Decoder& decoder, const kernels::Device& device, int32_t part) {
    uint64_t largest = 0;
    for_each_weight(decoder, device, part, [&](int32_t layer, uint64_t bytes) {
        if (layer < 0 || decoder.spec.layers[size_t(layer)].device == part) largest = std::max(largest, bytes);
    });
    return largest;
}

void reserve_weights(const Decoder& decoder, kernels::Device& device, const std::string& name) {
    for (int32_t part = 0; part < device.n_parts(); ++part) {
        device.select(part);
        check(device.reserve(weight_bytes(decoder, device, part)), name);
    }
}

void load_weights(const ModelFolder& folder, const Format& format, Decoder& decoder, kernels::Device& device,
                  const Progress& progress) {
    const int32_t n_parts = device.n_parts();
    uint64_t total = 1, done = 0;
    for (const LinearPart& l : decoder.linears) total += l.stored_bytes;
    reserve_weights(decoder, device, folder.name());
    QuantisedMatrices quantised(folder, format);
    const auto pack = [&](const LinearPart& l, int32_t part) {
        kernels::Matrix matrix;
        device.select(part);
        if (l.quantised)
            check(device.pack(quantised.open(l), &matrix), concat(folder.name(), ": ", l.module));
        else
            check(device.pack(open_dense(folder, l), &matrix), concat(folder.name(), ": ", l.tensor));
        return matrix;
    };
    kernels::ModelSpec& spec = decoder.spec;
    for (const LinearPart& l : decoder.linears) {
        if (progress && !progress(double(done) / double(total), "loading weights"))
            fail(Code::cancelled, "loading was cancelled");
        const WeightPlace place = place_of(decoder, l, n_parts);
        if (place.second >= 0) {
            spec.embedding = pack(l, place.part);
            spec.head = pack(l, place.second);
        } else {
            l.slot.in(spec) = pack(l, place.part);
        }
        done += l.stored_bytes;
    }
    if (decoder.tied && n_parts == 1)
        (spec.embedding.id ? spec.head : spec.embedding) = spec.embedding.id ? spec.embedding : spec.head;
    for (const NormPart& n : decoder.norms) {
        std::vector<float> values;
        for (const std::string& tensor : n.tensors) {
            const std::vector<float> one = folder.read_f32(tensor);
            values.insert(values.end(), one.begin(), one.end());
        }
        for (float& value : values) value += n.added;
        device.select(place_of(decoder, n, n_parts).part);
        check(device.upload(values, &n.in(spec)), concat(folder.name(), ": ", n.tensors.front()));
    }
    device.select(0);
}

}  // namespace quantplug::engine
