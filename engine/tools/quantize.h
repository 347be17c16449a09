// Plain folders turned into quantised ones. The walk is here; what a matrix becomes is the format's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/checkpoint/folder.h"
#include "engine/checkpoint/writer.h"

namespace quantplug::engine {

struct QuantizeRequest {
    std::filesystem::path in, out;
    std::string method = "rtn";  // round to nearest
    int32_t bits = 4;            // of the decoder's matrices
    int32_t group_size = 128;    // rows that share a scale; -1: all (GPTQ)
    int32_t head_bits = 6;       // EXL2
    bool sym = true;             // GPTQ: zero points fixed at 2^(bits-1)
    uint64_t max_file_bytes = uint64_t{8} << 30;
};

struct QuantizeResult {
    double bits_per_weight = 0;       // decoder matrices, all their stored tensors counted
    double bits_per_weight_head = 0;  // 0: the head is not quantised
    double seconds = 0;
    int64_t tensors = 0;
    uint64_t bytes = 0;  // of all safetensors files
};

struct QuantizeEvent {
    enum Kind : uint8_t { progress, layer } kind = progress;
    double fraction = 0;  // 0..1
    std::string name;     // of the tensor at work; of the matrix that is done
    int32_t bits = 0;     // layer
};

/// A matrix to be quantised: y = x W, stored as checkpoints do, (N, K) floats. Borrows the values.
struct WeightMatrix {
    std::string name;      // module, for messages
    int32_t k = 0, n = 0;  // in_features, out_features
    StoredType type = StoredType::f16;
    std::span<const std::byte> values;

    /// W[rows[i], n0 + j] into out[i * stride + j], i < rows.size(), j < columns. NaN and infinity are refused with
    /// their place.
    void tile(std::span<const int32_t> rows, int32_t n0, int32_t columns, float* out, int64_t stride) const;
};

/// Called on the calling thread with the share of the matrix that is done; throws to cancel. May be empty.
using MatrixProgress = std::function<void(double fraction)>;

/// One format's quantiser, made for one request.
class MatrixQuantizer {
 public:
    virtual ~MatrixQuantizer() = default;

    virtual bool quantizes_head() const = 0;
    /// Fused projections become one matrix each, and every tensor gets the name that EXL2 files have; otherwise all
    /// keep the source's names.
    virtual bool splits_fused() const = 0;
    virtual int32_t bits(bool is_head) const = 0;

    /// The tensors that a matrix becomes, from its shape alone. Refuses shapes that the format cannot hold; the message
    /// names the matrix.
    virtual std::vector<TensorDecl> layout(const std::string& module, int32_t k, int32_t n, bool has_bias,
                                           bool is_head) const = 0;

    /// Their bytes, in layout's order. The same bytes whatever the number of threads. `bias` is empty or (N).
    virtual std::vector<std::vector<std::byte>> quantize(const WeightMatrix& weight, std::span<const float> bias,
                                                         bool is_head, const MatrixProgress& progress) const = 0;

    /// config.json's quantization_config, as the format's writers have it.
    virtual Json quantization_config() const = 0;
    virtual bool writes_quantize_config_file() const = 0;  // the same object in quantize_config.json
    virtual std::string file_stem() const = 0;             // "output", "model"
    virtual bool writes_index() const = 0;                 // where there are several files
};

/// Makes the quantiser, or refuses the request: unknown methods and widths by name, with what there is.
using MakeQuantizer = std::function<std::unique_ptr<MatrixQuantizer>(const QuantizeRequest&)>;

/// Quantises the projections of every decoder layer, experts' too (and the head, from the embedding where tied, if the
/// format does), of a plain folder of a known architecture. What else there is is copied, F32 matrices as F16. Streams:
/// memory holds one matrix and what it becomes. `on_event` false cancels. `out` is complete or absent.
QuantizeResult quantize(const QuantizeRequest& request, const MakeQuantizer& make,
                        const std::function<bool(const QuantizeEvent&)>& on_event = {});

/// invalid_argument where the method is none of `known`.
void check_method(const std::string& method, std::initializer_list<std::string_view> known);
/// invalid_argument where the value is none of `known`: "bits is 7, where exl2 has 2, 3, 4".
void check_choice(std::string_view key, int32_t value, std::string_view format, std::initializer_list<int32_t> known);

}  // namespace quantplug::engine
