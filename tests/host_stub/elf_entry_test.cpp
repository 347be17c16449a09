#include "host_stub/registry/elf_entry.h"

#include <doctest/doctest.h>
#include <elf.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "tests/support/data.h"

namespace quantplug::host {
namespace {

namespace fs = std::filesystem;

const fs::path kBuilt = QP_HOST_TEST_DIR;

std::vector<std::byte> read_bytes(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> chars{std::istreambuf_iterator<char>(file), {}};
    std::vector<std::byte> bytes(chars.size());
    std::memcpy(bytes.data(), chars.data(), chars.size());
    return bytes;
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

std::string patched(std::vector<std::byte> image, size_t at, unsigned char value) {
    image.at(at) = static_cast<std::byte>(value);
    return why_not_a_plugin(image);
}

}  // namespace

TEST_CASE("a plugin is recognised, stripped or not, as a file and in memory") {
    for (const char* name : {"plugins/libquantplug_fake.so", "stripped/libstripped.so"}) {
        CAPTURE(name);
        CHECK(why_not_a_plugin(kBuilt / name) == "");
        CHECK(why_not_a_plugin(read_bytes(kBuilt / name)) == "");
    }
    CHECK(read_bytes(kBuilt / "stripped/libstripped.so").size() <
          read_bytes(kBuilt / "plugins/libquantplug_fake.so").size());
}

TEST_CASE("what is no plugin gets its own reason, without running its code") {
    const test::TempDir dir;
    const auto file = [&](const char* name, std::string_view text) {
        std::ofstream(dir.path() / name, std::ios::binary) << text;
        return why_not_a_plugin(dir.path() / name);
    };
    CHECK(file("text.so", "GROUP ( libm.so.6 )\n") == "is a text file, not a shared library");
    CHECK(file("empty.so", "") == "is an empty file");
    CHECK(file("bytes.so", std::string_view("\x00\x01\x02", 3)) == "is not an ELF file");
    CHECK(contains(file("magic.so",
                        "\x7f"
                        "ELF"),
                   "ends inside its header"));
    CHECK(contains(why_not_a_plugin(dir.path()), "is a folder"));
    CHECK(contains(why_not_a_plugin(dir.path() / "absent.so"), "cannot be opened: No such file"));
    CHECK(why_not_a_plugin(fs::path("/dev/null")) == "is not a regular file");

    CHECK(why_not_a_plugin(kBuilt / "variants/libother_major.so") == "speaks ABI 2, this host 1");
    CHECK(contains(why_not_a_plugin(kBuilt / "variants/libno_entry.so"), "does not export quantplug_entry_v1"));
    CHECK(contains(why_not_a_plugin(kBuilt / "variants/libfunction_entry.so"),
                   "as a function, it must be a data object"));
    CHECK(contains(why_not_a_plugin(kBuilt / "variants/libshort_entry.so"), "of 8 bytes, at least 40 are expected"));
}

TEST_CASE("libraries of other machines are named as such") {
    const std::vector<std::byte> image = read_bytes(kBuilt / "plugins/libquantplug_fake.so");
    CHECK(contains(patched(image, EI_CLASS, ELFCLASS32), "is a 32-bit library"));
    CHECK(contains(patched(image, EI_CLASS, 7), "its class is unknown"));
    CHECK(contains(patched(image, EI_DATA, ELFDATA2MSB), "another byte order"));
    CHECK(contains(patched(image, offsetof(Elf64_Ehdr, e_machine), EM_S390), "for another machine (e_machine 22)"));
    CHECK(contains(patched(image, offsetof(Elf64_Ehdr, e_type), ET_REL), "not a shared library"));
}

TEST_CASE("a library cut short anywhere is refused") {
    const test::TempDir dir;
    const std::vector<std::byte> image = read_bytes(kBuilt / "stripped/libstripped.so");
    for (size_t size = 0; size < image.size(); size = size < 4096 ? size + 13 : size + 1021) {
        CAPTURE(size);
        CHECK(why_not_a_plugin(std::span(image).first(size)) != "");
    }
    const fs::path cut = dir.path() / "cut.so";
    fs::copy_file(kBuilt / "stripped/libstripped.so", cut);
    fs::resize_file(cut, image.size() / 2);
    CHECK(contains(why_not_a_plugin(cut), "damaged ELF file"));
}

TEST_CASE("damaged headers end in a verdict") {
    const std::vector<std::byte> image = read_bytes(kBuilt / "variants/libother_draft.so");
    const unsigned seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    Elf64_Ehdr header;
    std::memcpy(&header, image.data(), sizeof header);
    const size_t sections = header.e_shoff;
    REQUIRE(sections < image.size());
    int refused = 0;
    for (int i = 0; i < 3000; ++i) {
        std::vector<std::byte> bad = image;
        for (int n = 0; n < 4; ++n) {
            // Half of the hits on the ELF header, half on the section headers.
            const size_t at = random() % 2 ? random() % sizeof header : sections + random() % (image.size() - sections);
            bad[at] = static_cast<std::byte>(random());
        }
        const std::string reason = why_not_a_plugin(bad);
        CHECK(!contains(reason, "\n"));
        refused += !reason.empty();
    }
    CHECK(refused > 1000);
}

}  // namespace quantplug::host
