// Logits of a folder by the engine's graph on the reference device: no tokenizer, no scheduler.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/model/decoder.h"
#include "engine/model/graph.h"
#include "engine/model/weights.h"
#include "kernels/device.h"

namespace quantplug::test {

/// (ids, n_vocab), one prefill; weights decoded as their format says.
inline std::vector<float> folder_logits(const engine::ModelFolder& folder, const engine::Format& format,
                                        std::span<const int32_t> ids) {
    const auto check = [](const kernels::Status& status) {
        if (!status.ok()) engine::fail(engine::Code(status.code), status.message);
    };
    engine::Decoder decoder = engine::read_decoder(folder, format);
    decoder.spec.compute = kernels::Compute::exact;
    decoder.spec.max_positions = int32_t(ids.size());
    const auto device = kernels::make_reference_device();
    engine::load_weights(folder, format, decoder, *device, {});
    kernels::Kv kv;
    check(device->make_kv(decoder.spec, {kernels::KvSpec::f32, int32_t(ids.size()), 1}, &kv));
    check(device->prepare(decoder.spec, int32_t(ids.size()), int32_t(ids.size())));
    std::vector<kernels::Row> rows;
    std::vector<kernels::Wanted> wanted;
    for (int32_t i = 0; i < int32_t(ids.size()); ++i) {
        rows.push_back({0, ids[size_t(i)], i, int32_t(ids.size())});
        wanted.push_back({i, kernels::Wanted::logits, 0});
    }
    const int32_t block = 0;
    kernels::Step step;
    step.rows = rows;
    step.kv = kv;
    step.block_table = {&block, 1};
    step.max_blocks = 1;
    step.wanted = wanted;
    step.prefill = true;
    kernels::StepResult result;
    check(device->wait(device->submit(decoder.spec, step, engine::decoder_walk(decoder.spec, {})), &result));
    return std::move(result.values);
}

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
    if (a.size() != b.size()) return INFINITY;
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        const double d = std::abs(double(a[i]) - double(b[i]));
        worst = d <= worst ? worst : d;  // NaN counts
    }
    return worst;
}

}  // namespace quantplug::test
