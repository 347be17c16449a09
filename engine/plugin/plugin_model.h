// A loaded model behind the ABI.
#pragma once

#include <memory>
#include <quantplug/backend.hpp>
#include <string>

#include "engine/model/model.h"

namespace quantplug::engine {

/// Facts that inspect and model_info share.
void fill_info(const Decoder& decoder, const Tokenizer& tokenizer, const std::string& format, uint64_t file_bytes,
               qp_model_info& out);

/// What a folder's generation_config.json recommends; an explicit do_sample: false is temperature 0.
qp_sampling recommended_sampling(const ModelFolder& folder);

class PluginModel : public backend::Model {
 public:
    PluginModel(std::unique_ptr<engine::Model> model, const qp_sampling& sampling, std::string format,
                uint64_t file_bytes)
        : model_(std::move(model)), sampling_(sampling), format_(std::move(format)), file_bytes_(file_bytes) {}

    void info(qp_model_info& out) const override;
    void default_sampling(qp_sampling& out) const override { out = sampling_; }
    std::vector<int32_t> tokenize(std::string_view text, uint32_t flags) const override;
    std::string detokenize(backend::Ids ids, uint32_t flags) const override;
    std::unique_ptr<backend::Detokenizer> detokenizer(uint32_t flags) const override;
    backend::Finish generate(const backend::GenerateParams& params, backend::Emitter& emitter) override;
    void score(backend::Ids ids, float* logprobs, backend::Progress& progress) override;
    std::unique_ptr<backend::LogitsSession> open_logits(std::vector<int32_t> ids) override;

 private:
    std::unique_ptr<engine::Model> model_;
    qp_sampling sampling_;
    std::string format_;
    uint64_t file_bytes_;
};

}  // namespace quantplug::engine
