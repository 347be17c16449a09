// host.hpp: entries that must be refused, tables with holes, texts and callbacks.
#include <dlfcn.h>
#include <doctest/doctest.h>

#include <cstdlib>
#include <quantplug/host.hpp>
#include <random>

#include "tests/support/data.h"

namespace {

using namespace quantplug;

int32_t QP_CALL init_ok(const qp_host*, qp_error*) { return QP_OK; }
int32_t QP_CALL deinit_ok(qp_error*) { return QP_OK; }

qp_plugin full_size_table() {
    qp_plugin table = make<qp_plugin>();
    table.init = &init_ok;
    table.deinit = &deinit_ok;
    return table;
}

qp_entry entry_of(const qp_plugin& table) { return {sizeof(qp_entry), QP_ABI_DRAFT, "fake", "1", "none", &table}; }

bool mentions(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

template <class Call>
Error error_of(Call&& call) {
    try {
        call();
    } catch (const Error& e) {
        return e;
    }
    return Error(QP_OK, "nothing was thrown");
}

}  // namespace

TEST_CASE("entry_problem says in one sentence what is wrong") {
    qp_plugin table = full_size_table();
    qp_entry entry = entry_of(table);
    CHECK(entry_problem(&entry) == "");
    CHECK(mentions(entry_problem(nullptr), QP_ENTRY_SYMBOL));
    SUBCASE("short entry") {
        for (uint32_t size = 0; size < sizeof(qp_entry); ++size) {
            // Exactly as long as it says: a read beyond is seen by a sanitizer.
            auto* small = static_cast<qp_entry*>(std::malloc(size < 4 ? 4 : size));
            small->struct_size = size;
            if (size >= 8) small->draft = QP_ABI_DRAFT;
            CHECK(mentions(entry_problem(small), "has " + std::to_string(size) + " bytes"));
            std::free(small);
        }
    }
    SUBCASE("absurd size") {
        entry.struct_size = 0x7f454c46;
        CHECK(mentions(entry_problem(&entry), "damaged"));
    }
    SUBCASE("other draft") {
        entry.draft = QP_ABI_DRAFT + 7;
        CHECK(mentions(entry_problem(&entry), "draft " + std::to_string(QP_ABI_DRAFT + 7)));
    }
    SUBCASE("names") {
        for (const char* name : {"", "Exl2", "a b", "a/../b", "\xc3\xa4", "a-b"}) {
            entry.name = name;
            CHECK(mentions(entry_problem(&entry), "name"));
        }
        const std::string longest(64, 'a'), too_long(65, 'a'), unterminated(5000, 'b');
        entry.name = longest.c_str();
        CHECK(entry_problem(&entry) == "");
        entry.name = too_long.c_str();
        CHECK(entry_problem(&entry) != "");
        entry.name = unterminated.c_str();
        CHECK(entry_problem(&entry).size() < 200);
        entry.name = nullptr;
        CHECK(entry_problem(&entry) == "the entry has no name");
    }
    SUBCASE("other nulls") {
        entry.version = nullptr;
        CHECK(mentions(entry_problem(&entry), "version"));
        entry.version = "1";
        entry.plugin = nullptr;
        CHECK(mentions(entry_problem(&entry), "no table"));
    }
    SUBCASE("short table") {
        for (uint32_t size :
             {0u, 4u, 8u, uint32_t(offsetof(qp_plugin, load)), uint32_t(offsetof(qp_plugin, generate)), 1u << 20}) {
            table.struct_size = size;
            CHECK(mentions(entry_problem(&entry), std::to_string(size) + " bytes"));
        }
        table.struct_size = offsetof(qp_plugin, get_extension);  // get_extension may be missing
        CHECK(entry_problem(&entry) == "");
    }
    if (!entry_problem(&entry).empty()) CHECK_THROWS_AS(Plugin(&entry, nullptr), Error);
}

TEST_CASE("missing slots answer UNIMPLEMENTED and name the hook") {
    Host host;
    auto* table =
        static_cast<qp_plugin*>(std::malloc(offsetof(qp_plugin, get_extension) + 4));  // the last slot is there in part
    const qp_plugin full = full_size_table();
    std::memcpy(static_cast<void*>(table), &full, offsetof(qp_plugin, get_extension));
    std::memset(reinterpret_cast<char*>(table) + offsetof(qp_plugin, get_extension), 0xff, 4);
    table->struct_size = offsetof(qp_plugin, get_extension) + 4;
    const qp_entry entry = entry_of(*table);
    Plugin plugin(&entry, host.table());
    std::free(table);  // the host has its own copy

    const Error probe = error_of([&] { plugin.probe("/nowhere"); });
    CHECK(probe.code() == QP_UNIMPLEMENTED);
    CHECK(mentions(probe.what(), "'probe'"));
    CHECK(mentions(error_of([&] { plugin.load("/nowhere"); }).what(), "'load'"));
    CHECK(mentions(error_of([&] { plugin.load_options(); }).what(), "'list_load_options'"));
    CHECK(mentions(error_of([&] { plugin.plan_memory("/nowhere"); }).what(), "'plan_memory'"));
    CHECK(plugin.hooks().generate(nullptr, nullptr, nullptr, nullptr, nullptr) == QP_UNIMPLEMENTED);
    plugin.hooks().detokenizer_destroy(nullptr);
    CHECK_FALSE(plugin.has_extension(QP_EXT_SCORE));
    const Error extension = error_of([&] { plugin.extension<qp_score>(QP_EXT_SCORE); });
    CHECK(extension.code() == QP_UNIMPLEMENTED);
    CHECK(mentions(extension.what(), QP_EXT_SCORE));
}

TEST_CASE("a size that no text has is the plugin's error") {
    static uint64_t named = 0;
    static int calls = 0;
    Host host;
    qp_plugin table = full_size_table();
    table.load = [](const qp_load_params*, qp_model** out, qp_error*) -> int32_t {
        *out = reinterpret_cast<qp_model*>(&named);
        return QP_OK;
    };
    table.unload = [](qp_model*, qp_error*) -> int32_t { return QP_OK; };
    table.tokenize = [](qp_model*, const char*, uint64_t, uint32_t, int32_t*, uint64_t, uint64_t* n,
                        qp_error*) -> int32_t { return ++calls, *n = named, QP_OUT_OF_RANGE; };
    table.detokenize = [](qp_model*, const int32_t*, uint64_t, uint32_t, char*, uint64_t, uint64_t* n,
                          qp_error*) -> int32_t { return ++calls, *n = named, QP_OUT_OF_RANGE; };
    const qp_entry entry = entry_of(table);
    Plugin plugin(&entry, host.table());
    const Model model = plugin.load("m");
    for (const uint64_t n : {(uint64_t{1} << 32) + 1, uint64_t{1} << 62, UINT64_MAX}) {
        CAPTURE(n);
        named = n;
        calls = 0;
        const Error tokenize = error_of([&] { model.tokenize("a"); });
        CHECK(tokenize.code() == QP_INTERNAL);
        CHECK(mentions(tokenize.what(), "tokenize"));
        const Error detokenize = error_of([&] { model.detokenize({1}); });
        CHECK(detokenize.code() == QP_INTERNAL);
        CHECK(mentions(detokenize.what(), "detokenize"));
        CHECK(calls == 2);
    }
}

namespace {
const void* QP_CALL odd_extension(const char* id) {
    static const qp_logits without_next = {offsetof(qp_logits, next), 0, nullptr, nullptr, nullptr};
    static const qp_score absurd = {3, 0, nullptr};
    if (std::string(id) == QP_EXT_LOGITS) return &without_next;
    return std::string(id) == QP_EXT_SCORE ? &absurd : nullptr;
}
}  // namespace

TEST_CASE("extensions: short tables are completed, absurd ones refused") {
    Host host;
    qp_plugin table = full_size_table();
    table.get_extension = &odd_extension;
    const qp_entry entry = entry_of(table);
    Plugin plugin(&entry, host.table());
    const auto logits = plugin.extension<qp_logits>(QP_EXT_LOGITS);
    qp_error error = make<qp_error>();
    CHECK(logits.next(nullptr, nullptr, nullptr, &error) == QP_UNIMPLEMENTED);
    CHECK(mentions(error.message, "'next'"));
    logits.close(nullptr);
    CHECK(error_of([&] { plugin.extension<qp_score>(QP_EXT_SCORE); }).code() == QP_DATA_LOSS);
}

TEST_CASE("a failing init is the constructor's exception, and deinit is not called") {
    static int deinits;
    deinits = 0;
    qp_plugin table = full_size_table();
    table.deinit = [](qp_error*) -> int32_t { return ++deinits, QP_OK; };
    table.init = [](const qp_host*, qp_error* error) -> int32_t {
        set_error(error, QP_UNAVAILABLE, "no card", 7);
        return QP_UNAVAILABLE;
    };
    const qp_entry entry = entry_of(table);
    const Error error = error_of([&] { Plugin(&entry, nullptr); });
    CHECK(error.code() == QP_UNAVAILABLE);
    CHECK(std::string(error.what()) == "no card");
    CHECK(deinits == 0);
    table.init = [](const qp_host*, qp_error*) -> int32_t { return 99; };
    CHECK(mentions(error_of([&] { Plugin(&entry, nullptr); }).what(), "code out of range"));
    table.init = &init_ok;
    { Plugin a(&entry, nullptr), b = a; }
    CHECK(deinits == 1);
}

TEST_CASE("text is cut at a character's edge and never holds invalid UTF-8") {
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    const std::string characters[] = {"a",    "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
                                      "\xff", "\xe2\x82", "\xed\xa0\x80"};
    for (int round = 0; round < 2000; ++round) {
        std::string text;
        for (uint32_t i = random() % 40; i > 0; --i) text += characters[random() % 7];
        const uint32_t size = random() % 80;
        auto* raw = static_cast<char*>(std::malloc(size < 4 ? 4 : size));
        std::memset(raw, 0x5a, size < 4 ? 4 : size);
        auto* error = reinterpret_cast<qp_error*>(raw);
        error->struct_size = size;
        set_error(error, QP_DATA_LOSS, text.data(), text.size());
        CHECK(error->struct_size == size);
        if (size >= 8) CHECK(error->code == QP_DATA_LOSS);
        if (size > 8) {
            const std::string message = raw + 8;  // ends inside: a sanitizer sees it otherwise
            REQUIRE(message.size() < size - 8);
            for (size_t at = 0; at < message.size();) {
                const size_t n = utf8_length(message.data() + at, message.size() - at);
                REQUIRE(n > 0);
                at += n;
            }
            if (message.size() + 4 < size - 8)
                CHECK(message.size() >= text.size() / 2);  // nothing is cut that would fit
        }
        std::free(raw);
    }
}

TEST_CASE("utf8_length agrees with the definition over all two-byte starts and known edges") {
    CHECK(utf8_length("\xc0\x80", 2) == 0);
    CHECK(utf8_length("\xe0\x9f\xbf", 3) == 0);
    CHECK(utf8_length("\xed\x9f\xbf", 3) == 3);
    CHECK(utf8_length("\xed\xa0\x80", 3) == 0);
    CHECK(utf8_length("\xf4\x8f\xbf\xbf", 4) == 4);
    CHECK(utf8_length("\xf4\x90\x80\x80", 4) == 0);
    CHECK(utf8_length("\xf0\x8f\xbf\xbf", 4) == 0);
    CHECK(utf8_length("\xe2\x82\xac", 2) == 0);
    CHECK(utf8_length("", 0) == 0);
}

TEST_CASE("broken plugins are refused before any of their code runs") {
    const std::string folder = std::string(QP_BINARY_DIR) + "/tests/broken/libquantplug_";
    const auto problem = [&](const char* name) {
        void* library = ::dlopen((folder + name + ".so").c_str(), RTLD_NOW | RTLD_LOCAL);
        REQUIRE(library);
        const std::string text = entry_problem(static_cast<const qp_entry*>(::dlsym(library, QP_ENTRY_SYMBOL)));
        ::dlclose(library);
        return text;
    };
    CHECK(mentions(problem("other_major"), "no plugin of this major version"));
    CHECK(mentions(problem("other_draft"), "draft 2"));
    CHECK(mentions(problem("short_table"), "too few"));
    CHECK(mentions(problem("no_table"), "no table"));
}
