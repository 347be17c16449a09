// Where tests find their data, and how one skips: with a line that says why.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace quantplug::test {

inline std::filesystem::path source_dir() { return QP_SOURCE_DIR; }
inline std::filesystem::path data_dir() { return source_dir() / "tests" / "data"; }

/// Models and texts that the project may not hold (others' work): QUANTPLUG_TEST_MODELS, else ../shared/models beside
/// the checkout. Tests skip where it is absent.
inline std::filesystem::path models_dir() {
    if (const char* dir = std::getenv("QUANTPLUG_TEST_MODELS")) return dir;
    return source_dir().parent_path() / "shared" / "models";
}

/// A fresh folder that goes when the object does.
class TempDir {
 public:
    TempDir() {
        std::string pattern = (std::filesystem::temp_directory_path() / "quantplug-test-XXXXXX").string();
        if (!::mkdtemp(pattern.data())) std::abort();
        path_ = pattern;
    }
    ~TempDir() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TempDir(const TempDir&) = delete;
    TempDir& operator=(const TempDir&) = delete;
    const std::filesystem::path& path() const { return path_; }

 private:
    std::filesystem::path path_;
};

}  // namespace quantplug::test
