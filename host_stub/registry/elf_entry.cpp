#include "host_stub/registry/elf_entry.h"

#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <quantplug/plugin.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

namespace quantplug::host {
namespace {

constexpr std::string_view kEntryPrefix = "quantplug_entry_v";

#if defined(__x86_64__)
constexpr GElf_Half kMachine = EM_X86_64;
constexpr const char* kMachineName = "x86-64";
#elif defined(__aarch64__)
constexpr GElf_Half kMachine = EM_AARCH64;
constexpr const char* kMachineName = "aarch64";
#else
#error "name this machine's e_machine here"
#endif
// Up to and with the last field of the first draft.
constexpr uint64_t kEntryBytes = offsetof(qp_entry, plugin) + sizeof(qp_entry::plugin);
constexpr unsigned char kByteOrder = ELFDATA2LSB;

struct CloseElf {
    void operator()(Elf* elf) const { elf_end(elf); }
};
using ElfHandle = std::unique_ptr<Elf, CloseElf>;

class File {
 public:
    // O_NONBLOCK: a FIFO in a plugin folder must not block the program.
    explicit File(const std::filesystem::path& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
    ~File() {
        if (fd_ >= 0) ::close(fd_);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    int fd() const { return fd_; }

 private:
    int fd_;
};

std::string damaged(const char* what) { return std::string("is a damaged ELF file: ") + what; }

std::string libelf_reason() {
    const char* message = elf_errmsg(-1);
    return damaged(message ? message : "libelf cannot read it");
}

// The first bytes of the file: what libelf would report as one vague error is told apart here.
std::string why_not_native(std::span<const std::byte> head, uint64_t file_size) {
    if (file_size == 0) return "is an empty file";
    if (head.size() < SELFMAG || std::memcmp(head.data(), ELFMAG, SELFMAG) != 0) {
        const bool text = std::all_of(head.begin(), head.end(), [](std::byte b) {
            const auto c = static_cast<unsigned char>(b);
            return c >= 0x20 ? c != 0x7f : (c >= '\t' && c <= '\r');
        });
        return text ? "is a text file, not a shared library" : "is not an ELF file";
    }
    if (head.size() < EI_NIDENT) return damaged("it ends inside its header");
    const auto ident = [&](int i) { return static_cast<unsigned char>(head[static_cast<size_t>(i)]); };
    if (ident(EI_CLASS) == ELFCLASS32) return "is a 32-bit library, this host is 64-bit";
    if (ident(EI_CLASS) != ELFCLASS64) return damaged("its class is unknown");
    if (ident(EI_DATA) != kByteOrder) return "is a library for a machine of another byte order";
    if (head.size() < sizeof(Elf64_Ehdr)) return damaged("it ends inside its header");
    Elf64_Ehdr header;
    std::memcpy(&header, head.data(), sizeof header);
    if (header.e_machine != kMachine)
        return "is a library for another machine (e_machine " + std::to_string(header.e_machine) + "), this host is " +
               kMachineName;
    if (header.e_type != ET_DYN) return "is an ELF file, but not a shared library";
    return "";
}

std::string why_segments_do_not_fit(Elf* elf, uint64_t file_size) {
    size_t n_segments = 0;
    if (elf_getphdrnum(elf, &n_segments) != 0) return libelf_reason();
    if (n_segments == 0) return damaged("it has no segments to load");
    for (size_t i = 0; i < n_segments; ++i) {
        GElf_Phdr segment;
        if (i > INT32_MAX || !gelf_getphdr(elf, static_cast<int>(i), &segment)) return libelf_reason();
        if (segment.p_type != PT_LOAD) continue;
        if (segment.p_filesz > file_size || segment.p_offset > file_size - segment.p_filesz)
            return damaged("a segment reaches past the file's end; it may be cut short");
    }
    return "";
}

/// Result of reading one table of symbols.
struct Found {
    bool entry = false;
    bool entry_is_data = false;
    uint64_t entry_bytes = 0;
    unsigned other_major = 0;  // of a quantplug_entry_v<n> with another n
};

// Major version of an entry's name, or 0.
unsigned entry_major(std::string_view name) {
    if (name.substr(0, kEntryPrefix.size()) != kEntryPrefix) return 0;
    name.remove_prefix(kEntryPrefix.size());
    unsigned major = 0;
    const auto [end, problem] = std::from_chars(name.data(), name.data() + name.size(), major);
    return problem == std::errc() && end == name.data() + name.size() ? major : 0;
}

std::string read_symbols(Elf* elf, Elf_Scn* section, const GElf_Shdr& header, Found& found) {
    Elf_Data* data = elf_getdata(section, nullptr);
    if (!data) return libelf_reason();
    const size_t n_symbols = data->d_size / sizeof(Elf64_Sym);
    for (size_t i = 0; i < n_symbols && i <= INT32_MAX; ++i) {
        GElf_Sym symbol;
        if (!gelf_getsym(data, static_cast<int>(i), &symbol)) return libelf_reason();
        if (symbol.st_shndx == SHN_UNDEF) continue;
        const char* name = elf_strptr(elf, header.sh_link, symbol.st_name);
        if (!name) return damaged("a symbol's name lies outside its table");
        const unsigned major = entry_major(name);
        if (major == 0) continue;
        if (major != QP_ABI_MAJOR) {
            found.other_major = std::max(found.other_major, major);
            continue;
        }
        const auto binding = GELF_ST_BIND(symbol.st_info);
        if (binding != STB_GLOBAL && binding != STB_WEAK) continue;
        found.entry = true;
        found.entry_is_data = GELF_ST_TYPE(symbol.st_info) == STT_OBJECT;
        found.entry_bytes = symbol.st_size;
    }
    return "";
}

std::string why_not_a_plugin(Elf* elf, uint64_t file_size) {
    if (elf_kind(elf) != ELF_K_ELF) return "is not an ELF file";
    if (std::string reason = why_segments_do_not_fit(elf, file_size); !reason.empty()) return reason;

    bool has_dynsym = false;
    Found found;
    for (Elf_Scn* section = elf_nextscn(elf, nullptr); section; section = elf_nextscn(elf, section)) {
        GElf_Shdr header;
        if (!gelf_getshdr(section, &header)) return libelf_reason();
        if (header.sh_type != SHT_DYNSYM) continue;
        has_dynsym = true;
        if (header.sh_entsize != sizeof(Elf64_Sym) || header.sh_size % sizeof(Elf64_Sym) != 0)
            return damaged("its dynamic symbol table has entries of a wrong size");
        if (header.sh_size > file_size || header.sh_offset > file_size - header.sh_size)
            return damaged("its dynamic symbol table reaches past the file's end; it may be cut short");
        if (std::string reason = read_symbols(elf, section, header, found); !reason.empty()) return reason;
    }
    if (!has_dynsym) return damaged("it has no dynamic symbol table; it may be cut short");
    if (found.entry && found.entry_is_data) {
        if (found.entry_bytes >= kEntryBytes) return "";
        return "exports a " QP_ENTRY_SYMBOL " of " + std::to_string(found.entry_bytes) + " bytes, at least " +
               std::to_string(kEntryBytes) + " are expected";
    }
    if (found.entry) return "exports " QP_ENTRY_SYMBOL " as a function, it must be a data object";
    if (found.other_major != 0)
        return "speaks ABI " + std::to_string(found.other_major) + ", this host " + std::to_string(QP_ABI_MAJOR);
    return "is a shared library, but no quantplug plugin: it does not export " QP_ENTRY_SYMBOL;
}

}  // namespace

std::string why_not_a_plugin(const std::filesystem::path& path) {
    const File file(path);
    if (file.fd() < 0) return std::string("cannot be opened: ") + std::strerror(errno);
    struct stat status;
    if (::fstat(file.fd(), &status) != 0) return std::string("cannot be read: ") + std::strerror(errno);
    if (S_ISDIR(status.st_mode)) return "is a folder, not a shared library";
    if (!S_ISREG(status.st_mode)) return "is not a regular file";
    const auto size = static_cast<uint64_t>(status.st_size);

    std::array<std::byte, 256> head{};
    const ssize_t n_read = ::pread(file.fd(), head.data(), head.size(), 0);
    if (n_read < 0) return std::string("cannot be read: ") + std::strerror(errno);
    if (std::string reason = why_not_native({head.data(), static_cast<size_t>(n_read)}, size); !reason.empty())
        return reason;

    elf_version(EV_CURRENT);
    // ELF_C_READ: read, never mapped; a file cut while it is mapped would be a SIGBUS.
    const ElfHandle elf(elf_begin(file.fd(), ELF_C_READ, nullptr));
    if (!elf) return libelf_reason();
    return why_not_a_plugin(elf.get(), size);
}

std::string why_not_a_plugin(std::span<const std::byte> image) {
    if (std::string reason = why_not_native(image.first(std::min<size_t>(image.size(), 256)), image.size());
        !reason.empty())
        return reason;
    elf_version(EV_CURRENT);
    // libelf takes the image as writable and aligned, so it gets a copy.
    std::vector<std::byte> copy(image.begin(), image.end());
    const ElfHandle elf(elf_memory(reinterpret_cast<char*>(copy.data()), copy.size()));
    if (!elf) return libelf_reason();
    return why_not_a_plugin(elf.get(), copy.size());
}

}  // namespace quantplug::host
