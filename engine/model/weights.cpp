#include "engine/model/weights.h"

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

uint64_t weight_bytes(const Decoder& decoder, const kernels::Device& device) {
    uint64_t total = 0;
    const auto add = [&](uint64_t bytes) { total = total + bytes < total ? UINT64_MAX : total + bytes; };
    for (const LinearPart& l : decoder.linears) add(device.matrix_bytes(l.shape));
    for (const NormPart& n : decoder.norms) add(uint64_t(n.size) * sizeof(float));
    return total;
}

void load_weights(const ModelFolder& folder, const Format& format, Decoder& decoder, kernels::Device& device,
                  const std::function<bool(double fraction, const char* what)>& progress) {
    uint64_t total = 1, done = 0;
    for (const LinearPart& l : decoder.linears) total += l.stored_bytes;
    QuantisedMatrices quantised(folder, format);
    for (const LinearPart& l : decoder.linears) {
        if (progress && !progress(double(done) / double(total), "loading weights"))
            fail(Code::cancelled, "loading was cancelled");
        kernels::Matrix& matrix = l.slot.in(decoder.spec);
        if (l.quantised)
            check(device.pack(quantised.open(l), &matrix), concat(folder.name(), ": ", l.module));
        else
            check(device.pack(open_dense(folder, l), &matrix), concat(folder.name(), ": ", l.tensor));
        done += l.stored_bytes;
    }
    if (decoder.tied) {
        kernels::ModelSpec& spec = decoder.spec;
        (spec.embedding.id ? spec.head : spec.embedding) = spec.embedding.id ? spec.embedding : spec.head;
    }
    for (const NormPart& n : decoder.norms) {
        std::vector<float> values;
        for (const std::string& tensor : n.tensors) {
            const std::vector<float> one = folder.read_f32(tensor);
            values.insert(values.end(), one.begin(), one.end());
        }
        for (float& value : values) value += n.added;
        check(device.upload(values, &n.in(decoder.spec)), concat(folder.name(), ": ", n.tensors.front()));
    }
}

}  // namespace quantplug::engine
