#include "gptq_backend/zeros.h"

#include <algorithm>
#include <array>

#include "engine/base/error.h"
#include "engine/tools/code_bits.h"

namespace quantplug::gptq {

namespace {

// What GPTQModel before 7.0.0 subtracted from the three words of 32 3-bit fields.
constexpr std::array<uint32_t, 3> old_3bit{0x24924924u, 0x92492492u, 0x49249249u};
// ... and what is left of a symmetric matrix then.
constexpr std::array<uint32_t, 3> old_3bit_symmetric{0x00000000u, 0xB6DB6DB7u, 0x49249249u};

uint32_t whole_word_constant(int32_t bits) { return bits == 2 ? 0x55555555u : bits == 4 ? 0x11111111u : 0x01010101u; }

}  // namespace

std::vector<uint8_t> read_zeros(const engine::ModelFolder& folder, const Config& config, const Layout& layout) {
    std::vector<uint32_t> words = folder.read_values<uint32_t>(layout.qzeros->name);
    const size_t row_words = size_t(layout.qzeros->shape[1]), n = size_t(layout.n), n_groups = size_t(layout.n_groups);
    const int32_t bits = layout.bits;
    const bool v1 = config.encoding == Encoding::v1 && !layout.planar;

    uint32_t add = 0;  // to every field, modulo 2^bits
    bool old_words = false;
    if (v1 && bits == 3) {
        const bool known_version = config.by_gptqmodel && (config.major > 0 || config.minor > 0);
        old_words = known_version && config.major < 7;
        if (!known_version) {
            old_words = true;
            for (size_t i = 0; i < words.size() && old_words; ++i)
                old_words = words[i] == old_3bit_symmetric[i % row_words % 3];
        }
        add = old_words ? 0 : 1;
        if (old_words)
            for (size_t i = 0; i < words.size(); ++i) words[i] += old_3bit[i % row_words % 3];
    } else if (v1 && config.by_gptqmodel) {
        for (uint32_t& word : words) word += whole_word_constant(bits);
    } else if (v1) {
        add = 1;
    }

    std::vector<uint8_t> zeros(n_groups * n);
    const uint32_t mask = (1u << bits) - 1u;
    for (size_t column = 0; column < n; ++column) {
        const engine::CodeBits at =
            layout.planar ? engine::planar_bits(bits, int64_t(column)) : engine::stream_bits(bits, int64_t(column));
        for (size_t g = 0; g < n_groups; ++g)
            zeros[g * n + column] = uint8_t((engine::get_code(at, words.data() + g * row_words) + add) & mask);
    }

    // GPTQModel 1.8 and 1.9 wrote the zero points of the first 32 columns only.
    if (old_words && config.by_gptqmodel && config.major == 1 && n > 32) {
        bool missing = true;
        for (size_t g = 0; g < n_groups && missing; ++g)
            missing = std::all_of(zeros.begin() + std::ptrdiff_t(g * n + 32),
                                  zeros.begin() + std::ptrdiff_t((g + 1) * n), [](uint8_t zero) { return zero == 0; });
        if (missing && !config.sym)
            engine::fail(engine::Code::data_loss, where(folder, *layout.qzeros),
                         " holds the zero points of its first 32 columns only, as GPTQModel ", config.major, ".",
                         config.minor, " wrote them; quantise the model again with a newer version");
        if (missing)
            for (size_t g = 0; g < n_groups; ++g)
                std::fill(zeros.begin() + std::ptrdiff_t(g * n + 32), zeros.begin() + std::ptrdiff_t((g + 1) * n),
                          uint8_t{4});
    }
    return zeros;
}

}  // namespace quantplug::gptq
