#include "engine/checkpoint/writer.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <random>

#include "checkpoint_files.h"
#include "engine/checkpoint/folder.h"
#include "tests/support/data.h"

using namespace quantplug::engine;
using namespace quantplug::test;
namespace fs = std::filesystem;

namespace {

size_t entries(const fs::path& path) {
    return size_t(std::distance(fs::directory_iterator(path), fs::directory_iterator()));
}

/// A file-size limit for the scope: writing beyond it fails as on a full disk.
class SmallDisk {
 public:
    explicit SmallDisk(rlim_t bytes) {
        handler_ = std::signal(SIGXFSZ, SIG_IGN);
        ::getrlimit(RLIMIT_FSIZE, &old_);
        rlimit limit = old_;
        limit.rlim_cur = bytes;
        ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    ~SmallDisk() {
        ::setrlimit(RLIMIT_FSIZE, &old_);
        std::signal(SIGXFSZ, handler_);
    }

 private:
    rlimit old_{};
    void (*handler_)(int) = nullptr;
};

}  // namespace

TEST_CASE("writer: what is written is read back, aligned and without holes") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937 random(seed);
    const TempDir dir;
    const std::vector<TensorDecl> tensors{
        {"odd", StoredType::u8, {3}},        {"half \"quoted\"\n", StoredType::f16, {5, 3}},
        {"wide", StoredType::f32, {7, 2}},   {"none", StoredType::bf16, {0, 4}},
        {"int", StoredType::i32, {1, 1, 3}}, {"scalar", StoredType::f64, {}}};
    std::map<std::string, std::string> data;
    SafetensorsWriter writer(dir.path() / "m.safetensors", tensors, {{"format", "pt"}, {"a", "\xc3\xa9"}});
    std::vector<std::string> order;
    for (const TensorDecl& tensor : tensors) {
        uint64_t bytes = size_of(tensor.type);
        for (const int64_t n : tensor.shape) bytes *= uint64_t(n);
        std::string& text = data[tensor.name];
        text.resize(bytes);
        for (char& c : text) c = char(random());
        order.push_back(tensor.name);
    }
    std::shuffle(order.begin(), order.end(), random);
    for (const std::string& name : order)
        for (size_t at = 0; at < data[name].size();) {
            const size_t piece = std::min<size_t>(1 + random() % 9, data[name].size() - at);
            writer.write(name, as_span(data[name]).subspan(at, piece));
            at += piece;
        }
    CHECK_FALSE(fs::exists(dir.path() / "m.safetensors"));
    const uint64_t size = writer.finish();
    CHECK(entries(dir.path()) == 1);
    CHECK(fs::file_size(dir.path() / "m.safetensors") == size);

    const SafetensorsFile file = SafetensorsFile::open(dir.path() / "m.safetensors");
    CHECK(file.metadata().at("a") == "\xc3\xa9");
    REQUIRE(file.tensors().size() == tensors.size());
    uint64_t total = 0;
    for (const TensorInfo& tensor : file.tensors()) {
        CAPTURE(tensor.name);
        CHECK(tensor.offset % size_of(tensor.type) == 0);
        std::string out(tensor.bytes, '?');
        file.read(tensor, 0, std::as_writable_bytes(std::span(out)));
        CHECK(out == data[tensor.name]);
        total += tensor.bytes;
    }
    CHECK(file.tensors().front().offset % 8 == 0);
    CHECK(file.tensors().front().offset + total == size);
}

TEST_CASE("writer: files without tensors or metadata are valid") {
    const TempDir dir;
    SafetensorsWriter(dir.path() / "a.safetensors", {}).finish();
    SafetensorsWriter(dir.path() / "b.safetensors", {}, {}).finish();
    CHECK(SafetensorsFile::open(dir.path() / "a.safetensors").tensors().empty());
    CHECK(SafetensorsFile::open(dir.path() / "b.safetensors").tensors().empty());
}

TEST_CASE("writer: wrong use is an error, and nothing is left behind") {
    const TempDir dir;
    const fs::path path = dir.path() / "m.safetensors";
    const std::string four(4, 'x');
    {
        SafetensorsWriter writer(path, {{"a", StoredType::f16, {3}}});
        writer.write("a", as_span(four));
        CHECK_REFUSED(writer.write("a", as_span(four)), Code::internal, "\"a\"", "6 bytes");
        CHECK_REFUSED(writer.write("b", as_span(four)), Code::internal, "\"b\"");
        CHECK_REFUSED(writer.finish(), Code::internal, "\"a\"", "4 of its 6");
    }
    CHECK(entries(dir.path()) == 0);
    const auto make = [&](std::vector<TensorDecl> tensors) { SafetensorsWriter(path, std::move(tensors)); };
    CHECK_REFUSED(make({{"a", StoredType::f16, {1}}, {"a", StoredType::f16, {1}}}), Code::internal, "twice");
    CHECK_REFUSED(make({{"a", StoredType::f16, {-1}}}), Code::internal, "\"a\"");
    CHECK_REFUSED(make({{"a", StoredType::f16, {int64_t{1} << 62, 4}}}), Code::internal, "\"a\"");
    CHECK_REFUSED(make({{"a", StoredType::unknown, {1}}}), Code::internal, "\"a\"");
    CHECK(entries(dir.path()) == 0);
    write_file(path, "mine");
    CHECK_REFUSED(make({}), Code::already_exists, "m.safetensors");
    CHECK(read_file(path) == "mine");
    CHECK_REFUSED(SafetensorsWriter("/nonexistent/m.safetensors", {}), Code::failed_precondition,
                  "/nonexistent/m.safetensors");
}

TEST_CASE("writer: a full disk is said at once, and nothing is left behind") {
    const TempDir dir;
    const SmallDisk disk(100'000);
    CHECK_REFUSED(SafetensorsWriter(dir.path() / "m.safetensors", {{"a", StoredType::f32, {1'000'000}}}),
                  Code::resource_exhausted, "m.safetensors", "free some space");
    CHECK(entries(dir.path()) == 0);
    CHECK_REFUSED(
        [&] {
            OutputFolder out(dir.path() / "model");
            out.write_text("tokenizer.json", std::string(200'000, 'x'));
        }(),
        Code::resource_exhausted, "tokenizer.json");
    CHECK(entries(dir.path()) == 0);
}

TEST_CASE("output folder: complete or absent") {
    const TempDir dir;
    const fs::path out = dir.path() / "deep" / "model";
    {
        OutputFolder folder(out);
        folder.write_text("config.json", "{}");
        CHECK(folder.path().filename().string() == "model.partial-" + std::to_string(::getpid()));
        CHECK(fs::exists(folder.path() / "config.json"));
        CHECK_FALSE(fs::exists(out));
        // Another one to the same name works in a folder of its own.
        OutputFolder second(out);
        CHECK(second.path() != folder.path());
    }
    CHECK(entries(out.parent_path()) == 0);
    {
        OutputFolder folder(out / "");
        folder.write_text("config.json", "{\"a\":1}");
        folder.commit();
    }
    CHECK(entries(out.parent_path()) == 1);
    CHECK(read_file(out / "config.json") == "{\"a\":1}");
    CHECK_REFUSED(OutputFolder{out}, Code::already_exists, out.string().c_str(), "not empty");
    CHECK_REFUSED(OutputFolder{out / "config.json"}, Code::already_exists, "is a file");
    fs::create_directory(dir.path() / "empty");
    OutputFolder into_empty(dir.path() / "empty");
    into_empty.write_text("a", "b");
    into_empty.commit();
    CHECK(read_file(dir.path() / "empty" / "a") == "b");
}

TEST_CASE("output folder: what appears meanwhile is not overwritten") {
    const TempDir dir;
    {
        OutputFolder folder(dir.path() / "model");
        folder.write_text("a", "new");
        fs::create_directory(dir.path() / "model");
        write_file(dir.path() / "model" / "a", "theirs");
        CHECK_REFUSED(folder.commit(), Code::already_exists, "model", "appeared");
    }
    CHECK(read_file(dir.path() / "model" / "a") == "theirs");
    CHECK(entries(dir.path()) == 1);
}

TEST_CASE("output folder: side files are copied, weights and what describes them are not") {
    const TempDir dir;
    const fs::path source = dir.path() / "source";
    fs::create_directories(source / "sub");
    for (const char* name : {"config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "LICENSE",
                             "model.safetensors", "pytorch_model.bin", "m.gguf", "model.safetensors.index.json",
                             "quantize_config.json", ".hidden", "sub/x.json"})
        write_file(source / name, name);
    fs::create_symlink("tokenizer.json", source / "linked.json");
    OutputFolder folder(dir.path() / "out");
    folder.write_text("config.json", "mine");
    folder.copy_side_files(source);
    folder.commit();
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir.path() / "out"))
        names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    CHECK(names == std::vector<std::string>{"LICENSE", "chat_template.jinja", "config.json", "linked.json",
                                            "tokenizer.json", "tokenizer.model"});
    CHECK(read_file(dir.path() / "out" / "config.json") == "mine");
    CHECK(read_file(dir.path() / "out" / "linked.json") == "tokenizer.json");
    CHECK_FALSE(fs::is_symlink(dir.path() / "out" / "linked.json"));
}
