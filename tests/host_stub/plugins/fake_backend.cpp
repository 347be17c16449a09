// A plugin with every extension and a known distribution. Its model is a folder with salt.txt, a number; the text is
// bytes (fake_model.h).
#define QP_BUILDING_PLUGIN
#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <fstream>
#include <map>
#include <mutex>
#include <quantplug/backend.hpp>
#include <thread>

#include "tests/host_stub/plugins/fake_model.h"

namespace {

namespace qp = quantplug::backend;
namespace fake = quantplug::test;
using quantplug::Error;

uint64_t read_salt(const std::string& folder) {
    uint64_t salt = 0;
    std::ifstream file(folder + "/salt.txt");
    if (!(file >> salt)) throw Error(QP_NOT_FOUND, folder + "/salt.txt cannot be read");
    return salt;
}

class FakeLogits : public qp::LogitsSession {
 public:
    FakeLogits(std::vector<int32_t> ids, uint64_t salt, int64_t delay_ms)
        : ids_(std::move(ids)), salt_(salt), delay_(delay_ms) {}
    bool next(const float*& row, uint64_t& position) override {
        if (next_ == ids_.size()) return false;
        std::this_thread::sleep_for(delay_);
        row_ = fake::fake_logits(ids_[next_], next_, salt_);
        row = row_.data();
        position = next_++;
        return true;
    }

 private:
    std::vector<int32_t> ids_;
    std::vector<float> row_;
    uint64_t salt_, next_ = 0;
    std::chrono::milliseconds delay_;
};

class NoDetokenizer : public qp::Detokenizer {
 public:
    std::string push(int32_t id) override { return std::string(1, static_cast<char>('a' + id % 26)); }
    std::string finish() override { return {}; }
};

class FakeModel : public qp::Model {
 public:
    FakeModel(uint64_t salt, bool adds_bos, int64_t ctx, int64_t delay_ms)
        : salt_(salt), adds_bos_(adds_bos), ctx_(ctx), delay_ms_(delay_ms) {}

    void info(qp_model_info& out) const override {
        out.n_vocab = fake::kFakeVocab;
        out.n_ctx = static_cast<uint32_t>(ctx_);
        out.bos_id = fake::kFakeBos;
        out.adds_bos = adds_bos_;
        quantplug::copy_text(out.device, "cpu (fake)");
    }
    void default_sampling(qp_sampling& out) const override {
        out.temperature = 0;
        out.set = QP_SET_TEMPERATURE;
    }
    std::vector<int32_t> tokenize(std::string_view text, uint32_t flags) const override {
        std::vector<int32_t> ids = fake::fake_tokens(text);
        const bool bos = (flags & QP_BOS_ON) || (adds_bos_ && !(flags & QP_BOS_OFF));
        if (bos) ids.insert(ids.begin(), fake::kFakeBos);
        return ids;
    }
    std::string detokenize(qp::Ids ids, uint32_t flags) const override {
        std::string text;
        for (const int32_t id : ids) {
            if (id == fake::kFakeBos)
                text += flags & QP_SPECIAL_TEXT ? "<bos>" : "";
            else
                text += static_cast<char>(id == 35 ? 0xff : 'a' + id % 26);  // 35: a byte that is no UTF-8
        }
        return text;
    }
    std::unique_ptr<qp::Detokenizer> detokenizer(uint32_t) const override { return std::make_unique<NoDetokenizer>(); }

    // Forever, a letter every 5 ms, unless max_tokens ends it.
    qp::Finish generate(const qp::GenerateParams& params, qp::Emitter& emitter) override {
        qp::Finish finish;
        finish.reason = QP_FINISH_CANCELLED;
        emitter.cached(params.prompt.size / 2);
        if (!emitter.prefill(params.prompt.size)) return finish;
        for (uint32_t i = 0; params.max_tokens == 0 || i < params.max_tokens; ++i) {
            const qp_top top[2] = {{static_cast<int32_t>(i % 30), -0.5f}, {1, -1.5f}};
            const qp_token token = {static_cast<int32_t>(i % 30), -0.5f, 0, params.n_top < 2 ? params.n_top : 2};
            if (!emitter.tokens(&token, 1, top, 2, std::string(1, static_cast<char>('a' + i % 26)))) return finish;
            if (params.max_tokens == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
        finish.reason = QP_FINISH_LENGTH;
        return finish;
    }
    void score(qp::Ids ids, float* logprobs, qp::Progress& progress) override {
        for (size_t i = 0; i + 1 < ids.size; ++i) {
            const std::vector<float> row = fake::fake_logits(ids[i], i, salt_);
            double sum = 0;
            for (const float logit : row) sum += std::exp(double{logit});
            logprobs[i] = static_cast<float>(double{row[static_cast<size_t>(ids[i + 1])]} - std::log(sum));
        }
        progress.report(1, "score");
    }

    // A step is a token of each request. With id 35 in the prompt every second request says something else.
    uint64_t submit(const qp::GenerateParams& params) override {
        const std::lock_guard lock(mutex_);
        const bool odd = std::find(params.prompt.begin(), params.prompt.end(), 35) != params.prompt.end();
        ++last_number_;
        requests_[last_number_] = {
            params.max_tokens, odd && last_number_ % 2 == 0 ? 1 : 0, params.prompt.size, 0, params.ignored, false};
        changed_.notify_all();
        return last_number_;
    }
    uint64_t step(int32_t wait_ms, qp::EngineEvents& events) override {
        std::vector<uint64_t> numbers;
        {
            std::unique_lock lock(mutex_);
            changed_.wait_for(lock, std::chrono::milliseconds(wait_ms), [&] { return !requests_.empty(); });
            for (const auto& [number, request] : requests_) numbers.push_back(number);
        }
        for (const uint64_t number : numbers) {
            std::unique_lock lock(mutex_);
            Request& request = requests_.at(number);
            const bool stopped = request.cancelled;
            lock.unlock();
            auto event = quantplug::make<qp_event>();
            event.kind = QP_EVENT_TOKENS;
            const auto i = static_cast<int32_t>(request.n_generated++);
            const qp_token token = {(i + request.first) % 30, -0.5f, 0, 0};
            const auto letter = static_cast<char>('a' + i % 26);
            event.n_tokens = 1;
            event.tokens = &token;
            event.text = &letter;
            event.text_size = 1;
            const bool cancelled = stopped || !events.emit(number, event);
            if (!cancelled && (request.length == 0 || request.n_generated < request.length)) continue;
            event = quantplug::make<qp_event>();
            event.kind = QP_EVENT_END;
            event.n_generated = request.n_generated;
            event.n_prompt = event.n_done = request.n_prompt;
            event.ignored = request.ignored;
            event.finish_reason = cancelled ? QP_FINISH_CANCELLED : QP_FINISH_LENGTH;
            lock.lock();
            requests_.erase(number);
            lock.unlock();
            events.emit(number, event);
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        const std::lock_guard lock(mutex_);
        return requests_.size();
    }
    void cancel(uint64_t request) override {
        const std::lock_guard lock(mutex_);
        const auto found = requests_.find(request);
        if (found == requests_.end()) throw Error(QP_NOT_FOUND, "there is no such request");
        found->second.cancelled = true;
    }
    void wake() override { changed_.notify_all(); }

    // The prompt is the request's own JSON, so that a test knows how long it is.
    std::string chat_render(std::string_view request_json) const override {
        if (request_json.find("unsayable") != std::string_view::npos)
            throw Error(QP_INVALID_ARGUMENT, "the template says: not that");
        std::string ids;
        for (const int32_t id : fake::fake_tokens(request_json)) ids += (ids.empty() ? "" : ",") + std::to_string(id);
        return "{\"prompt\":\"\",\"ids\":[" + ids + "],\"stop\":[\"<end>\"],\"stop_ids\":[3]}";
    }
    std::string chat_describe() const override {
        return std::string("{\"templates\":[") + (salt_ == 6 ? "" : "\"default\"") +
               "],\"source\":\"\",\"modes\":[\"raw\",\"chatml\"],\"tool_format\":null}";
    }

    std::unique_ptr<qp::LogitsSession> open_logits(std::vector<int32_t> ids) override {
        return std::make_unique<FakeLogits>(std::move(ids), salt_, delay_ms_);
    }

 private:
    struct Request {
        uint64_t length;
        int32_t first;
        uint64_t n_prompt, n_generated, ignored;
        bool cancelled;
    };

    uint64_t salt_;
    bool adds_bos_;
    int64_t ctx_, delay_ms_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::map<uint64_t, Request> requests_;
    uint64_t last_number_ = 0;
};

qp_option_info option(uint32_t type, const char* key, const char* default_value, int64_t minimum, int64_t maximum) {
    auto out = quantplug::make<qp_option_info>();
    out.type = type;
    out.key = key;
    out.help = "A test's.";
    out.default_value = default_value;
    out.minimum = minimum;
    out.maximum = maximum;
    return out;
}

class FakeBackend : public qp::Backend {
 public:
    static constexpr unsigned extensions =
        qp::kScore | qp::kLogits | qp::kTools | qp::kQuantize | qp::kEngine | qp::kChat;

    void probe(const char* path, qp_probe_result& out) const override {
        if (std::ifstream(std::string(path) + "/salt.txt"))
            out.score = 90;
        else
            quantplug::copy_text(out.reason, "it has no salt.txt");
    }
    bool load_option(uint32_t index, qp_option_info& out) const override {
        if (index == 0) out = option(QP_OPTION_INT, "ctx", "0", 0, 1 << 20);
        if (index == 1) out = option(QP_OPTION_BOOL, "adds_bos", "0", 0, 1);
        if (index == 2) out = option(QP_OPTION_BOOL, "vocab_only", "0", 0, 1);
        if (index == 3) out = option(QP_OPTION_INT, "delay_ms", "0", 0, 1000);  // of a row of logits
        return index < 4;
    }
    void inspect(const char*, qp_model_info& out) const override {
        out.n_vocab = fake::kFakeVocab;
        out.bits_per_weight = 4.125;
        quantplug::copy_text(out.warnings, "first\nsecond");
    }
    void plan_memory(const qp::LoadParams& params, qp_memory_plan& out) const override {
        out.ctx = static_cast<uint32_t>(params.options.integer("ctx"));
        out.weights = 1000;
        out.kv_cache = 100;
        out.n_devices = 2;
        for (uint32_t i = 0; i < 2; ++i) {
            quantplug::copy_text(out.devices[i].device, i == 0 ? "cpu" : "cuda:0");
            out.devices[i].n_layers = i + 1;
            out.devices[i].total = 550;
            out.devices[i].free = 1000 * i;
        }
    }
    std::unique_ptr<qp::Model> load(const qp::LoadParams& params, qp::Progress& progress) const override {
        progress.report(0.5, "weights");
        const int64_t ctx = params.options.integer("ctx");
        return std::make_unique<FakeModel>(read_salt(params.path), params.options.flag("adds_bos"), ctx ? ctx : 4096,
                                           params.options.integer("delay_ms"));
    }

    bool tool(uint32_t index, qp_tool_info& out) const override {
        out.name = index == 0 ? "dequantize" : "import-gguf";
        out.help = "Does nothing.";
        out.arguments = "{}";
        return index < 2;
    }
    // The arguments come back in the last event. {"dtype": "f32"} with "fault" in the input's name: an event that is no
    // JSON.
    void run_tool(std::string_view name, std::string_view arguments_json, qp::JsonEvents& events) const override {
        const std::string arguments(arguments_json);
        events.emit("{\"event\":\"progress\",\"fraction\":0.5,\"what\":\"half\"}");
        if (arguments.find("fault") != std::string::npos) events.emit("{");
        events.emit(
            "{\"event\":\"done\",\"tensors\":3,\"bytes\":12,\"architecture\":\"F\",\"tokenizer\":\"t\",\"tool\":\"" +
            std::string(name) + "\",\"arguments\":" + arguments + "}");
    }
    void quantizer(qp_tool_info& out) const override { out.name = "exl2"; }
    void quantize(std::string_view arguments_json, qp::JsonEvents& events) const override {
        events.emit("{\"event\":\"layer\",\"name\":\"a\",\"bits\":4}");
        events.emit("{\"event\":\"done\",\"bits_per_weight\":4.5,\"seconds\":1.5,\"arguments\":" +
                    std::string(arguments_json) + "}");
    }
};

}  // namespace

const qp_entry quantplug_entry_v1 = qp::make_entry<FakeBackend>("fake", "1.0", "salt,pepper");
