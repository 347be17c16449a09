#include "engine/checkpoint/writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"

namespace quantplug::engine {

namespace fs = std::filesystem;

namespace {

constexpr uint64_t max_side_file = uint64_t{64} << 20;
constexpr int max_attempts = 100;

[[noreturn]] void write_failed(const fs::path& path, int error) {
    const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
    fail(full ? Code::resource_exhausted : Code::data_loss, "writing ", path.string(),
         " failed: ", std::generic_category().message(error),
         full ? ": free some space, or write to another disk" : "");
}

void write_all(int fd, uint64_t offset, std::span<const std::byte> bytes, const fs::path& path) {
    size_t done = 0;
    while (done < bytes.size()) {
        const size_t piece = std::min(bytes.size() - done, size_t{1} << 30);
        const ssize_t put = ::pwrite(fd, bytes.data() + done, piece, off_t(offset + done));
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) write_failed(path, put < 0 ? errno : EIO);
        done += size_t(put);
    }
}

/// Closes at the end of the scope.
class Descriptor {
 public:
    explicit Descriptor(int fd) : fd_(fd) {}
    ~Descriptor() {
        if (fd_ >= 0) ::close(fd_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int get() const { return fd_; }

 private:
    int fd_;
};

int create_new(const fs::path& path) {
    int fd = -1;
    do fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/// A rename survives a power cut only when its folder has been flushed. File systems that cannot are let be.
void flush_folder(const fs::path& folder) {
    const Descriptor fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd.get() >= 0) ::fsync(fd.get());
}

fs::path parent_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

/// "<path>.partial-<pid>", with a counter where a killed process of the same id has left one behind.
fs::path partial_name(const fs::path& path, int attempt) {
    fs::path name = path;
    name += concat(".partial-", ::getpid());
    if (attempt > 0) name += concat("-", attempt);
    return name;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(fs::path path, std::vector<TensorDecl> tensors, const Metadata& metadata)
    : path_(std::move(path)) {
    std::error_code ignored;  // what is wrong with the name comes out where it is opened
    if (fs::exists(fs::symlink_status(path_, ignored))) fail(Code::already_exists, path_.string(), " exists already");
    // Wide types first: every tensor is then aligned to its type without holes, which the format forbids.
    std::stable_sort(tensors.begin(), tensors.end(),
                     [](const TensorDecl& a, const TensorDecl& b) { return size_of(a.type) > size_of(b.type); });
    // nlohmann's ordered_json looks keys up one by one; a header of 100,000 tensors is put together by hand.
    std::string header = "{";
    if (!metadata.empty()) header += concat("\"__metadata__\":", nlohmann::json(metadata).dump(), ",");
    uint64_t offset = 0;
    for (const TensorDecl& tensor : tensors) {
        uint64_t bytes = size_of(tensor.type);
        if (bytes == 0)
            fail(Code::internal, "tensor \"", printable(tensor.name), "\" is declared with an unknown type");
        std::string shape;
        for (const int64_t n : tensor.shape) {
            if (n < 0 || __builtin_mul_overflow(bytes, uint64_t(n), &bytes))
                fail(Code::internal, "the shape of tensor \"", printable(tensor.name), "\" is not possible");
            shape += concat(shape.empty() ? "" : ",", n);
        }
        uint64_t end = 0;
        if (__builtin_add_overflow(offset, bytes, &end) || end > uint64_t{1} << 62)
            fail(Code::internal, path_.string(), " would be larger than any file can be");
        if (!slots_.emplace(tensor.name, Slot{offset, bytes, 0}).second)
            fail(Code::internal, "tensor \"", printable(tensor.name), "\" is declared twice");
        header += concat(header.size() > 1 && header.back() != ',' ? "," : "", nlohmann::json(tensor.name).dump(),
                         ":{\"dtype\":\"", name_of(tensor.type), "\",\"shape\":[", shape, "],\"data_offsets\":[",
                         offset, ",", end, "]}");
        offset = end;
    }
    if (header.back() == ',') header.pop_back();
    header += '}';
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const uint64_t data_start = 8 + header.size();
    for (auto& [name, slot] : slots_) slot.offset += data_start;
    size_ = data_start + offset;

    for (int attempt = 0; fd_ < 0 && attempt < max_attempts; ++attempt) {
        temporary_ = partial_name(path_, attempt);
        fd_ = create_new(temporary_);
        if (fd_ < 0 && errno != EEXIST) break;
    }
    if (fd_ < 0)
        fail(Code::failed_precondition, "cannot create ", path_.string(), ": ", std::generic_category().message(errno));
    try {
        // A full disk shows now and not after an hour; file systems without preallocation are let be.
        if (::fallocate(fd_, 0, 0, off_t(size_)) != 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
            write_failed(path_, errno);
        std::array<std::byte, 8> length{};
        for (size_t i = 0; i < 8; ++i) length[i] = std::byte(header.size() >> (8 * i));
        put(0, length);
        put(8, std::as_bytes(std::span(header)));
    } catch (...) {
        discard();
        throw;
    }
}

SafetensorsWriter::~SafetensorsWriter() { discard(); }

void SafetensorsWriter::discard() noexcept {
    if (fd_ < 0) return;
    ::close(fd_);
    fd_ = -1;
    ::unlink(temporary_.c_str());
}

void SafetensorsWriter::put(uint64_t offset, std::span<const std::byte> bytes) { write_all(fd_, offset, bytes, path_); }

void SafetensorsWriter::write(std::string_view name, std::span<const std::byte> bytes) {
    const auto found = slots_.find(std::string(name));
    if (found == slots_.end()) fail(Code::internal, "tensor \"", printable(name), "\" was not declared");
    Slot& slot = found->second;
    if (bytes.size() > slot.bytes - slot.written)
        fail(Code::internal, "tensor \"", printable(name), "\" gets more than its ", slot.bytes, " bytes");
    put(slot.offset + slot.written, bytes);
    slot.written += bytes.size();
}

uint64_t SafetensorsWriter::finish() {
    for (const auto& [name, slot] : slots_)
        if (slot.written != slot.bytes)
            fail(Code::internal, "tensor \"", printable(name), "\" got ", slot.written, " of its ", slot.bytes,
                 " bytes");
    if (::fsync(fd_) != 0 && errno != EINVAL && errno != EROFS) write_failed(path_, errno);
    const int fd = std::exchange(fd_, -1);
    if (::close(fd) != 0 && errno != EINTR) {
        const int error = errno;
        ::unlink(temporary_.c_str());
        write_failed(path_, error);
    }
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
        const int error = errno;
        ::unlink(temporary_.c_str());
        write_failed(path_, error);
    }
    flush_folder(parent_of(path_));
    return size_;
}

OutputFolder::OutputFolder(const fs::path& out) {
    std::error_code error;
    const fs::path whole = fs::absolute(out, error);
    if (!error) out_ = fs::weakly_canonical(whole, error);
    if (error || out_.empty()) fail(Code::invalid_argument, out.string(), " cannot be a folder's name");
    if (!out_.has_filename()) out_ = out_.parent_path();  // "x/"
    const fs::file_status status = fs::status(out_, error);
    if (fs::exists(status)) {
        if (!fs::is_directory(status)) fail(Code::already_exists, out_.string(), " is a file: name another folder");
        const bool empty = fs::is_empty(out_, error);
        if (error) fail(Code::failed_precondition, "cannot list ", out_.string(), ": ", error.message());
        if (!empty) fail(Code::already_exists, out_.string(), " is not empty: name another folder, or delete it");
    }
    if (!fs::is_directory(parent_of(out_), error)) {
        fs::create_directories(parent_of(out_), error);
        if (error) fail(Code::failed_precondition, "cannot create ", parent_of(out_).string(), ": ", error.message());
    }
    int made = -1;
    for (int attempt = 0; made != 0 && attempt < max_attempts; ++attempt) {
        temporary_ = partial_name(out_, attempt);
        made = ::mkdir(temporary_.c_str(), 0777);
        if (made != 0 && errno != EEXIST) break;
    }
    if (made != 0)
        fail(Code::failed_precondition, "cannot create ", temporary_.string(), ": ",
             std::generic_category().message(errno));
}

OutputFolder::~OutputFolder() {
    if (committed_) return;
    std::error_code ignored;
    fs::remove_all(temporary_, ignored);
}

void OutputFolder::write_text(std::string_view file_name, std::string_view text) {
    const fs::path path = temporary_ / file_name;
    const Descriptor fd(create_new(path));
    if (fd.get() < 0) write_failed(path, errno);
    write_all(fd.get(), 0, std::as_bytes(std::span(text.data(), text.size())), path);
    if (::fsync(fd.get()) != 0 && errno != EINVAL && errno != EROFS) write_failed(path, errno);
}

void OutputFolder::copy_side_files(const fs::path& source) {
    std::error_code error;
    std::set<fs::path> files;
    for (fs::directory_iterator entry(source, error), end; !error && entry != end; entry.increment(error))
        if (entry->is_regular_file(error)) files.insert(entry->path());
    if (error) fail(Code::failed_precondition, "cannot list ", source.string(), ": ", error.message());
    for (const fs::path& file : files) {
        const std::string name = file.filename().string();
        const auto is_weights = [&](std::string_view suffix) { return name.ends_with(suffix); };
        constexpr std::array<std::string_view, 9> suffixes{".safetensors", ".bin", ".gguf", ".index.json", ".pt",
                                                           ".pth",         ".h5",  ".part", ".incomplete"};
        // Configurations of a quantiser describe the weights that are not copied.
        if (name == "quantize_config.json" || name == "quant_config.json") continue;
        if (name.starts_with('.') || std::any_of(suffixes.begin(), suffixes.end(), is_weights)) continue;
        if (fs::exists(fs::symlink_status(temporary_ / name, error))) continue;
        const uint64_t size = fs::file_size(file, error);
        if (error) fail(Code::data_loss, "cannot inspect ", file.string(), ": ", error.message());
        if (size <= max_side_file) write_text(name, read_text_file(file, max_side_file));
    }
}

void OutputFolder::commit() {
    flush_folder(temporary_);
    if (::rename(temporary_.c_str(), out_.c_str()) != 0) {
        const int error = errno;
        if (error == ENOTEMPTY || error == EEXIST || error == ENOTDIR)
            fail(Code::already_exists, out_.string(),
                 " has appeared while the model was written: delete it, or name another folder");
        write_failed(out_, error);
    }
    committed_ = true;
    flush_folder(parent_of(out_));
}

}  // namespace quantplug::engine
