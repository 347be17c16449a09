// Logits of a model folder for given ids, without a tokenizer or a plugin; and the converters, for comparisons.
//
//   qp_logits logits FOLDER exl2|gptq cpu|reference|cuda exact|default|fast OUT < requests
//   qp_logits quantize IN OUT exl2|gptq BITS GROUP_SIZE
//   qp_logits dequantize IN OUT exl2|gptq
//
// A request is a line "PREFILL id id ...": the first PREFILL ids in one step, the others one by one. OUT gets the
// logits of every id, (ids, n_vocab) FP32, request after request; the first line of standard output is n_vocab.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/model/decoder.h"
#include "engine/model/graph.h"
#include "engine/model/weights.h"
#include "engine/tools/dequantize.h"
#include "engine/tools/quantize.h"
#include "exl2_backend/exl2_format.h"
#include "exl2_backend/rtn.h"
#include "gptq_backend/gptq_format.h"
#include "gptq_backend/rtn.h"
#include "kernels/device.h"

namespace {

using namespace quantplug;

constexpr int32_t block_tokens = 32, max_rows = 512;

std::unique_ptr<engine::Format> format_of(const std::string& name) {
    if (name == "exl2") return exl2::make_format();
    if (name == "gptq") return gptq::make_format();
    engine::fail(engine::Code::invalid_argument, "format ", name, " is unknown; exl2 and gptq are");
}

void check(const kernels::Status& status) {
    if (!status.ok()) engine::fail(engine::Code(status.code), status.message);
}

/// One model on a device, computing one sequence after the other.
class Computer {
 public:
    Computer(const std::string& path, const std::string& format_name, const std::string& device,
             const std::string& compute)
        : folder_(engine::ModelFolder::open(path)), format_(format_of(format_name)) {
        decoder_ = engine::read_decoder(folder_, *format_);
        if (device == "reference")
            device_ = kernels::make_reference_device();
        else if (device == "cuda")
            check(kernels::make_cuda_device(0, &device_));
        else
            check(kernels::make_cpu_device(1, &device_));
        decoder_.spec.compute = compute == "exact"  ? kernels::Compute::exact
                                : compute == "fast" ? kernels::Compute::fast
                                                    : kernels::Compute::standard;
        decoder_.spec.max_positions =
            decoder_.position_limit > 0 ? std::min(decoder_.position_limit, max_rows) : max_rows;
        const uint64_t planned = engine::weight_bytes(decoder_, *device_);
        engine::load_weights(folder_, *format_, decoder_, *device_, {});
        if (device_->memory().weights != planned)
            engine::fail(engine::Code::internal, path, ": ", planned, " bytes of weights were planned and ",
                         device_->memory().weights, " are held");
        kernels::KvSpec kv;
        kv.type = compute == "exact" ? kernels::KvSpec::f32 : kernels::KvSpec::f16;
        kv.block_tokens = block_tokens;
        kv.n_blocks = max_rows / block_tokens;
        check(device_->make_kv(decoder_.spec, kv, &kv_));
        check(device_->prepare(decoder_.spec, max_rows, max_rows));
        for (int32_t b = kv.n_blocks; b-- > 0;) blocks_.push_back(b);
    }

    int32_t n_vocab() const { return decoder_.spec.n_vocab; }

    /// `count` ids behind the first `done`.
    std::vector<float> step(const std::vector<int32_t>& ids, size_t done, size_t count, size_t length) {
        std::vector<kernels::Row> rows;
        std::vector<kernels::Wanted> wanted;
        for (size_t i = 0; i < count; ++i) {
            rows.push_back({0, ids[done + i], int32_t(done + i), int32_t(length)});
            wanted.push_back({int32_t(i), kernels::Wanted::logits, 0});
        }
        kernels::Step step;
        step.rows = rows;
        step.kv = kv_;
        step.block_table = blocks_;
        step.max_blocks = int32_t(blocks_.size());
        step.wanted = wanted;
        step.prefill = count > 1;
        kernels::StepResult result;
        check(device_->wait(device_->submit(decoder_.spec, step, engine::decoder_walk(decoder_.spec, {})), &result));
        return std::move(result.values);
    }

 private:
    engine::ModelFolder folder_;
    std::unique_ptr<engine::Format> format_;
    engine::Decoder decoder_;
    std::unique_ptr<kernels::Device> device_;
    kernels::Kv kv_;
    std::vector<int32_t> blocks_;
};

void logits(const std::vector<std::string>& arguments) {
    Computer computer(arguments.at(1), arguments.at(2), arguments.at(3), arguments.at(4));
    std::ofstream out(arguments.at(5), std::ios::binary);
    std::printf("%d\n", computer.n_vocab());
    std::string line;
    while (std::getline(std::cin, line)) {
        std::istringstream words(line);
        size_t prefill = 0;
        words >> prefill;
        std::vector<int32_t> ids;
        for (int32_t id; words >> id;) ids.push_back(id);
        const auto write = [&](const std::vector<float>& values) {
            out.write(reinterpret_cast<const char*>(values.data()), std::streamsize(values.size() * sizeof(float)));
        };
        prefill = std::min(prefill, ids.size());
        if (prefill > 0) write(computer.step(ids, 0, prefill, prefill));
        for (size_t at = prefill; at < ids.size(); ++at) write(computer.step(ids, at, 1, at + 1));
    }
}

void quantize(const std::vector<std::string>& arguments) {
    engine::QuantizeRequest request;
    request.in = arguments.at(1);
    request.out = arguments.at(2);
    request.bits = std::stoi(arguments.at(4));
    request.group_size = std::stoi(arguments.at(5));
    const auto result = engine::quantize(
        request, arguments.at(3) == "exl2" ? engine::MakeQuantizer(exl2::make_quantizer) : gptq::make_quantizer);
    std::printf("%.4f\n", result.bits_per_weight);
}

void dequantize(const std::vector<std::string>& arguments) {
    engine::dequantize(*format_of(arguments.at(3)), arguments.at(1), arguments.at(2));
}

}  // namespace

int main(int argc, char** argv) {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    try {
        if (arguments.empty()) return 2;
        if (arguments[0] == "logits") logits(arguments);
        if (arguments[0] == "quantize") quantize(arguments);
        if (arguments[0] == "dequantize") dequantize(arguments);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
