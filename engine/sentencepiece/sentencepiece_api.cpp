#include "engine/sentencepiece/sentencepiece_api.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

// Neither is in an installed header; without them the library prints to stderr.
namespace sentencepiece::logging {
__attribute__((weak)) void SetMinLogLevel(int level);
}
namespace google::protobuf {
enum LogLevel : int;
using LogHandler = void(LogLevel, const char*, int, const std::string&);
__attribute__((weak)) LogHandler* SetLogHandler(LogHandler*);
}  // namespace google::protobuf

struct qp_sp_model {
    sentencepiece::SentencePieceProcessor processor;
};

namespace {

// ModelProto is field 3, normalizer_spec, with field 3, add_dummy_prefix = false: protobuf merges what is appended to a
// message.
constexpr char no_prefix[] = {0x1A, 0x02, 0x18, 0x00};

void write_error(const char* text, char* error, size_t size) {
    if (!error || size == 0) return;
    const size_t n = std::min(std::strlen(text), size - 1);
    std::memcpy(error, text, n);
    error[n] = '\0';
}

template <typename Body, typename Result>
Result guarded(Body body, Result failed, char* error, size_t error_size) {
    try {
        return body();
    } catch (const std::exception& e) {
        write_error(e.what(), error, error_size);
    } catch (...) {
        write_error("unknown exception", error, error_size);
    }
    return failed;
}

qp_sp_model* open_model(const void* bytes, size_t size, int32_t keep_prefix, char* error, size_t error_size) {
    return guarded(
        [&]() -> qp_sp_model* {
            constexpr int fatal_only = 3;
            if (sentencepiece::logging::SetMinLogLevel) sentencepiece::logging::SetMinLogLevel(fatal_only);
            if (google::protobuf::SetLogHandler) google::protobuf::SetLogHandler(nullptr);
            auto model = std::make_unique<qp_sp_model>();
            std::string proto(static_cast<const char*>(bytes), size);
            if (!keep_prefix) proto.append(no_prefix, sizeof no_prefix);
            const auto status = model->processor.LoadFromSerializedProto(proto);
            if (!status.ok()) {
                write_error(status.error_message(), error, error_size);
                return nullptr;
            }
            return model.release();
        },
        static_cast<qp_sp_model*>(nullptr), error, error_size);
}

void close_model(qp_sp_model* model) { delete model; }

int32_t size(const qp_sp_model* model) { return model->processor.GetPieceSize(); }

const char* piece(const qp_sp_model* model, int32_t id, size_t* length) {
    const std::string& text = model->processor.IdToPiece(id);
    *length = text.size();
    return text.data();
}

int32_t type(const qp_sp_model* model, int32_t id) {
    const auto& p = model->processor;
    return p.IsUnknown(id)   ? QP_SP_UNKNOWN
           : p.IsControl(id) ? QP_SP_CONTROL
           : p.IsUnused(id)  ? QP_SP_UNUSED
           : p.IsByte(id)    ? QP_SP_BYTE
                             : QP_SP_NORMAL;
}

int32_t id(const qp_sp_model* model, const char* text, size_t length) {
    return guarded(
        [&]() -> int32_t {
            const std::string_view wanted(text, length);
            const int found = model->processor.PieceToId(wanted);
            // An unknown piece gives the id of unk.
            return found >= 0 && model->processor.IdToPiece(found) == wanted ? found : -1;
        },
        -1, nullptr, 0);
}

int32_t bos(const qp_sp_model* model) { return model->processor.bos_id(); }
int32_t eos(const qp_sp_model* model) { return model->processor.eos_id(); }
int32_t unk(const qp_sp_model* model) { return model->processor.unk_id(); }

int32_t adds_prefix_space(const qp_sp_model* model) {
    return guarded(
        [&]() -> int32_t {
            std::vector<std::string> pieces;
            if (!model->processor.Encode("a", &pieces).ok() || pieces.empty()) return 0;
            return pieces[0].rfind("\xE2\x96\x81", 0) == 0;
        },
        0, nullptr, 0);
}

int32_t encode(const qp_sp_model* model, const char* text, size_t length, void (*emit)(void*, int32_t), void* context,
               char* error, size_t error_size) {
    return guarded(
        [&]() -> int32_t {
            std::vector<int> ids;
            const auto status = model->processor.Encode(std::string_view(text, length), &ids);
            if (!status.ok()) {
                write_error(status.error_message(), error, error_size);
                return -1;
            }
            for (int one : ids) emit(context, one);
            return 0;
        },
        -1, error, error_size);
}

constexpr qp_sp_functions functions = {QP_SP_ABI, 0,   open_model, close_model,       size,  piece, type, id,
                                       bos,       eos, unk,        adds_prefix_space, encode};

}  // namespace

extern "C" const qp_sp_functions* quantplug_sentencepiece_v1(void) { return &functions; }
