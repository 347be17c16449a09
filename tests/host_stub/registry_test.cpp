#include "host_stub/registry/registry.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>

#include "host_stub/registry/manifest.h"
#include "tests/support/data.h"

namespace quantplug::host {
namespace {

namespace fs = std::filesystem;

const fs::path kBuilt = QP_HOST_TEST_DIR;
const fs::path kFake = kBuilt / "plugins" / "libquantplug_fake.so";

void write(const fs::path& path, std::string_view text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
}

void add_plugin(const fs::path& folder, const std::string& name, const fs::path& library) {
    const std::string file = library.filename().string();
    write(folder / (name + ".json"), R"({"manifest":1,"name":")" + name + R"(","library":")" + file + R"(","abi":1})");
    if (!fs::exists(folder / file)) fs::copy_file(library, folder / file);
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

Registry folder_registry(const std::vector<fs::path>& folders, const Host& host) {
    std::vector<SearchPlace> places;
    for (const fs::path& folder : folders) places.push_back({folder, "test"});
    return Registry(places, host.table());
}

const Candidate& candidate_of(const Registry& registry, const std::string& file) {
    for (const Candidate& candidate : registry.candidates())
        if (candidate.path().filename() == file) return candidate;
    throw std::runtime_error("no candidate " + file);
}

class Environment {
 public:
    Environment(const char* name, const char* value) : name_(name) {
        if (const char* old = std::getenv(name)) old_ = old;
        ::setenv(name, value, 1);
    }
    ~Environment() { old_ ? ::setenv(name_, old_->c_str(), 1) : ::unsetenv(name_); }

 private:
    const char* name_;
    std::optional<std::string> old_;
};

}  // namespace

TEST_CASE("plugins of a folder are found by manifest and loaded") {
    const test::TempDir dir;
    add_plugin(dir.path(), "fake", kFake);
    const Host host;
    Registry registry = folder_registry({dir.path(), dir.path() / "absent"}, host);
    REQUIRE(registry.candidates().size() == 1);
    CHECK(!registry.candidates()[0].plugin);  // nothing is loaded before it is asked for
    const Plugin* plugin = registry.find("fake");
    REQUIRE(plugin);
    CHECK(plugin->name() == "fake");
    CHECK(plugin->formats() == "salt,pepper");
    CHECK(registry.find("absent") == nullptr);
    CHECK(registry.plugins().size() == 1);
}

TEST_CASE("each candidate that is no plugin keeps its reason") {
    const test::TempDir dir;
    const fs::path variants = kBuilt / "variants";
    for (const char* name : {"other_major", "no_entry", "function_entry", "short_entry", "short_struct_size",
                             "short_table", "other_draft", "unresolved", "other_name", "init_fails"})
        add_plugin(dir.path(), std::string(name) == "init_fails" ? "variant" : name,
                   variants / ("lib" + std::string(name) + ".so"));
    write(dir.path() / "libtext.so", "not a library\n");
    add_plugin(dir.path(), "text", dir.path() / "libtext.so");
    write(dir.path() / "libloose.so", "no manifest names it");
    write(dir.path() / "libgone.json", R"({"manifest":1,"name":"gone","library":"libgone.so.1","abi":1})");
    write(dir.path() / "README", "not a candidate");

    const Host host;
    Registry registry = folder_registry({dir.path()}, host);
    registry.load_all();
    CHECK(registry.plugins().empty());
    CHECK(registry.candidates().size() == 13);
    const auto reason = [&](const char* file) { return candidate_of(registry, file).rejected; };
    CHECK(reason("libother_major.so") == "libother_major.so speaks ABI 2, this host 1");
    CHECK(contains(reason("libno_entry.so"), "does not export quantplug_entry_v1"));
    CHECK(contains(reason("libfunction_entry.so"), "data object"));
    CHECK(contains(reason("libshort_entry.so"), "of 8 bytes"));
    CHECK(contains(reason("libshort_struct_size.so"), "12 bytes"));
    CHECK(contains(reason("libshort_table.so"), "24 bytes"));
    CHECK(contains(reason("libother_draft.so"), "draft " + std::to_string(QP_ABI_DRAFT + 1)));
    CHECK(contains(reason("libunresolved.so"), "symbol_that_nobody_has"));
    CHECK(contains(reason("libother_name.so"), "the library calls itself 'variant'"));
    CHECK(reason("libinit_fails.so") == "this machine is not good enough");
    CHECK(reason("libtext.so") == "libtext.so is a text file, not a shared library");
    CHECK(contains(reason("libloose.so"), "has no manifest beside it"));
    CHECK(contains(reason("libgone.so.1"), "cannot be opened"));
}

TEST_CASE("of two plugins with one name the first usable one wins") {
    const test::TempDir dir;
    const fs::path first = dir.path() / "a", second = dir.path() / "b", third = dir.path() / "c";
    write(first / "libbroken.so", "text\n");
    add_plugin(first, "fake", first / "libbroken.so");
    add_plugin(second, "fake", kFake);
    add_plugin(third, "fake", kFake);
    const Host host;
    Registry registry = folder_registry({first, second, third}, host);
    registry.load_all();
    REQUIRE(registry.candidates().size() == 3);
    CHECK(contains(registry.candidates()[0].rejected, "is a text file"));
    CHECK(registry.candidates()[1].plugin.has_value());
    CHECK(contains(registry.candidates()[2].rejected,
                   "another plugin named 'fake' comes first: " + (second / kFake.filename()).string()));
}

TEST_CASE("a library or a manifest that is named needs no folder") {
    const test::TempDir dir;
    add_plugin(dir.path(), "fake", kFake);
    const Host host;
    for (const fs::path& path : {dir.path() / "fake.json", dir.path() / kFake.filename()}) {
        CAPTURE(path);
        Registry registry({{path, "--backend", true}}, host.table());
        const Plugin* plugin = registry.load_place(0);
        REQUIRE(plugin);
        CHECK(plugin->name() == "fake");
    }
    Registry registry({{dir.path() / "absent.so", "--backend", true}}, host.table());
    CHECK(registry.load_place(0) == nullptr);
    CHECK(contains(registry.candidates().at(0).rejected, "absent.so cannot be opened"));
}

TEST_CASE("a symbolic link to a library loads the library where it lies") {
    const test::TempDir dir;
    add_plugin(dir.path() / "real", "fake", kFake);
    fs::create_directory_symlink(dir.path() / "real", dir.path() / "link");
    const Host host;
    Registry registry = folder_registry({dir.path() / "link"}, host);
    CHECK(registry.find("fake") != nullptr);
}

TEST_CASE("manifests that are refused say why") {
    const test::TempDir dir;
    const fs::path path = dir.path() / "m.json";
    const auto problem = [&](std::string_view text) {
        write(path, text);
        return read_manifest(path).problem;
    };
    CHECK(problem(R"({"manifest":1,"name":"a_1","library":"sub/liba.so","abi":1,"note":"kept for later"})") == "");
    CHECK(read_manifest(path).library == dir.path() / "sub/liba.so");
    CHECK(problem("") == "is not a JSON object");
    CHECK(problem("[1]") == "is not a JSON object");
    CHECK(problem(R"({"manifest":1,)") == "is not a JSON object");
    CHECK(problem(R"({"name":"a","library":"a.so","abi":1})") == "is a manifest without \"manifest\"");
    CHECK(problem(R"({"manifest":2,"name":"a","library":"a.so","abi":1})") ==
          "is a manifest of version 2, this host reads 1");
    CHECK(problem(R"({"manifest":1,"name":"a","library":"a.so","abi":2})") == "speaks ABI 2, this host 1");
    CHECK(contains(problem(R"({"manifest":1,"name":"a","library":"a.so","abi":-1})"), "not a whole number"));
    CHECK(contains(problem(R"({"manifest":1.5,"name":"a","library":"a.so","abi":1})"), "not a whole number"));
    CHECK(contains(problem(R"({"manifest":1,"name":"A B","library":"a.so","abi":1})"), "no \"name\""));
    CHECK(contains(problem(R"({"manifest":1,"name":7,"library":"a.so","abi":1})"), "no \"name\""));
    CHECK(contains(problem(R"({"manifest":1,"name":"a","abi":1})"), "without a \"library\""));
    CHECK(contains(problem(R"({"manifest":1,"name":"a","library":"","abi":1})"), "no file name"));
    CHECK(contains(problem(R"({"manifest":1,"name":"a","library":"/lib/a.so","abi":1})"), "absolute"));
    CHECK(contains(problem(R"({"manifest":1,"name":"a","library":"../a.so","abi":1})"), "\"..\""));
    CHECK(contains(problem(R"({"manifest":1,"name":"a","library":"x/../../a.so","abi":1})"), "\"..\""));
    CHECK(contains(problem("{\"manifest\":1,\"name\":\"a\",\"library\":\"a\\u0000.so\",\"abi\":1}"), "no file name"));
    CHECK(contains(problem(std::string(100000, '[')), "larger than a manifest"));
    CHECK(problem(std::string(60000, '[')) == "is not a JSON object");
    CHECK(contains(read_manifest(dir.path()).problem, "not a regular file"));
}

TEST_CASE("places are searched in order") {
    const test::TempDir dir;
    const std::string home = dir.path().string();
    const Environment home_is("HOME", home.c_str());
    const Environment list("QUANTPLUG_PLUGIN_PATH", "/first:relative::/second/");
    const std::vector<SearchPlace> places = search_places("./some.so");
    REQUIRE(places.size() == 9);
    CHECK(places[0].path == fs::current_path() / "some.so");
    CHECK(places[0].named);
    CHECK(places[1].path == "/first");
    CHECK(places[2].path == fs::current_path() / "relative");
    CHECK(places[3].path == "/second/");
    CHECK(places[4].path == (program_path().parent_path().parent_path() / "lib/quantplug"));
    CHECK(places[5].path == (program_path().parent_path() / "lib/quantplug"));
    CHECK(places[6].path == dir.path() / ".local/lib/quantplug");
    CHECK(places[7].path == "/usr/local/lib/quantplug");
    CHECK(places[8].path == "/usr/lib/quantplug");
    CHECK(!places[8].named);
}

}  // namespace quantplug::host
