// A loaded model behind the ABI.
#pragma once

#include <memory>
#include <quantplug/backend.hpp>
#include <string>

#include "engine/chat/chat.h"
#include "engine/model/model.h"
#include "engine/plugin/sampling_map.h"
#include "engine/schedule/scheduler.h"

namespace quantplug::engine {

/// Facts that inspect and model_info share.
void fill_info(const Decoder& decoder, const Tokenizer& tokenizer, const std::string& format, uint64_t file_bytes,
               qp_model_info& out);

class PluginModel : public backend::Model {
 public:
    PluginModel(std::unique_ptr<engine::Model> model, const qp_sampling& sampling, std::string format,
                uint64_t file_bytes, ChatTemplates templates);

    void info(qp_model_info& out) const override;
    void default_sampling(qp_sampling& out) const override { out = sampling_; }
    uint64_t supported_sampling() const override { return supported_sampling_mask; }
    std::vector<int32_t> tokenize(std::string_view text, uint32_t flags) const override;
    std::string detokenize(backend::Ids ids, uint32_t flags) const override;
    std::unique_ptr<backend::Detokenizer> detokenizer(uint32_t flags) const override;
    backend::Finish generate(const backend::GenerateParams& params, backend::Emitter& emitter) override;
    void score(backend::Ids ids, float* logprobs, backend::Progress& progress) override;
    std::unique_ptr<backend::LogitsSession> open_logits(std::vector<int32_t> ids) override;

    uint64_t submit(const backend::GenerateParams& params) override;
    uint64_t step(int32_t wait_ms, backend::EngineEvents& events) override;
    void cancel(uint64_t request) override;
    void wake() override;
    void engine_status(qp_engine_status& out) const override;

    std::string chat_render(std::string_view request_json) const override { return chat_.render(request_json); }
    std::string chat_parse(std::string_view request_json) const override { return chat_.parse(request_json); }
    std::string chat_describe() const override { return chat_.describe(); }

 private:
    Scheduler& scheduler() const;  // FAILED_PRECONDITION where there are no weights

    std::unique_ptr<engine::Model> model_;
    std::unique_ptr<Scheduler> scheduler_;
    qp_sampling sampling_;
    std::string format_;
    uint64_t file_bytes_;
    Chat chat_;
};

}  // namespace quantplug::engine
