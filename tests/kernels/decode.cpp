// The reference decoder and what it refuses.
#include <doctest/doctest.h>

#include "support.h"

using namespace quantplug::test;

TEST_CASE("decode_f16 is RN16(scale * (code - zero)) of every row, in any pieces") {
    const uint64_t seed = fresh_seed();
    Random random(seed);
    for (const Shape& shape : shapes()) {
        INFO("seed " << seed << ", " << std::string(shape.name) << ", bits " << shape.groups[0].bits);
        auto quant = random_quant(shape, random);
        for (uint16_t& scale : quant->source.scales) {  // any finite FP16, denormals and negative ones too
            scale = uint16_t(random());
            if ((scale & 0x7c00u) == 0x7c00u) scale &= 0xbfffu;
        }
        const size_t n = size_t(shape.n);
        std::vector<uint16_t> got(size_t(shape.k) * n, 0xdead);
        for (int32_t row = 0; row < shape.k;) {
            const int32_t rows = std::min(shape.k - row, 1 + below(random, 70));
            REQUIRE(decode_f16(quant->source, row, rows, got.data() + size_t(row) * n).ok());
            row += rows;
        }
        size_t row = 0, wrong = 0;
        for (size_t g = 0; g < shape.groups.size(); ++g) {
            for (int32_t i = 0; i < shape.groups[g].rows; ++i, ++row) {
                for (size_t c = 0; c < n; ++c) {
                    const int32_t zero = shape.zeros ? quant->source.zeros[g * n + c] : 1 << (shape.groups[g].bits - 1);
                    const float exact =
                        f16_to_f32(quant->source.scales[g * n + c]) * float(quant->codes[row * n + c] - zero);
                    // Nearest of the two neighbours, found from the value: no use of the rounding under test.
                    const float value = f16_to_f32(got[row * n + c]);
                    if (std::isinf(value)) {
                        wrong += std::fabs(exact) < 65520;
                        continue;
                    }
                    const float up = f16_to_f32(uint16_t(got[row * n + c] + 1)), error = std::fabs(exact - value);
                    wrong += !(error <= std::fabs(up - value) / 2) && !std::isinf(up);
                    wrong += exact == 0 && value != 0;
                }
            }
        }
        CHECK(wrong == 0);
    }
}

TEST_CASE("validate names what is wrong") {
    const uint64_t seed = fresh_seed();
    Random random(seed);
    const Shape shape{"", 64, 8, groups_of(4, 64, 32), true, true, true};
    const auto refuse = [&](const char* part, auto&& change) {
        const auto quant = random_quant(shape, random);
        REQUIRE(validate(quant->source).ok());
        change(quant->source);
        const Status status = validate(quant->source);
        INFO(status.message);
        CHECK(status.code == invalid_argument);
        CHECK(status.message.find(part) != std::string::npos);
        // Devices refuse it too, and stay usable.
        for (auto& device : {cpu_device("portable", 1), cpu_device(nullptr, 2)}) {
            Matrix matrix;
            CHECK(device->pack(quant->source, &matrix).code == invalid_argument);
            CHECK(device->memory().weights == 0);
            CHECK(device->pack(random_quant(shape, random)->source, &matrix).ok());
        }
    };
    refuse("0 x 8", [](QuantSource& s) { s.in_features = 0; });
    refuse("64 x -1", [](QuantSource& s) { s.out_features = -1; });
    refuse("no groups", [](QuantSource& s) { s.groups.clear(); });
    refuse("9 bits", [](QuantSource& s) { s.groups[1].bits = 9; });
    refuse("1 bits", [](QuantSource& s) { s.groups[1].bits = 1; });
    refuse("0 rows", [](QuantSource& s) { s.groups[0].rows = 0; });
    refuse("2147483679 rows", [](QuantSource& s) { s.groups[0].rows = 2147483647; });
    refuse("63 rows of 64", [](QuantSource& s) { s.groups[0].rows = 31; });
    refuse("15 scales", [](QuantSource& s) { s.scales.pop_back(); });
    refuse("17 zero points", [](QuantSource& s) { s.zeros.push_back(1); });
    refuse("7 bias", [](QuantSource& s) { s.bias.pop_back(); });
    refuse("group 1, column 2 is NaN", [](QuantSource& s) { s.scales[10] = 0x7e00; });
    refuse("infinite", [](QuantSource& s) { s.scales[3] = 0xfc00; });
    refuse("63 entries", [](QuantSource& s) { s.perm.pop_back(); });
    refuse("outside 0..63", [](QuantSource& s) { s.perm[5] = 64; });
    refuse("outside 0..63", [](QuantSource& s) { s.perm[5] = -1; });
    refuse("twice", [](QuantSource& s) { s.perm[5] = s.perm[6]; });
    refuse("no reader", [](QuantSource& s) { s.read_codes = nullptr; });
}

TEST_CASE("a code beyond its width and a reader's error are refused by pack") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    const auto device = cpu_device(nullptr, 2);
    Matrix matrix;
    for (int32_t bits = 2; bits < 8; ++bits) {
        auto quant = random_quant({"", 64, 200, groups_of(bits, 64, 32)}, random);
        quant->codes[size_t(below(random, 64 * 200))] = uint8_t(1 << bits);
        const Status status = device->pack(quant->source, &matrix);
        CHECK(status.code == invalid_argument);
        CHECK(status.message.find("does not fit") != std::string::npos);
    }
    auto quant = random_quant({"", 64, 200, groups_of(4, 64, 32)}, random);
    quant->source.read_codes = [](int32_t row0, int32_t, uint8_t* codes) {
        codes[0] = 0;
        return row0 == 32 ? Status::error(data_loss, "the file ends") : Status{};
    };
    CHECK(device->pack(quant->source, &matrix).code == data_loss);
    auto dense = random_dense(8, 8, DType::f16, false, random);
    dense->source.read_rows = [](int32_t, int32_t, void*) { return Status::error(data_loss, "the file ends"); };
    CHECK(device->pack(dense->source, &matrix).code == data_loss);
    CHECK(device->memory().weights == 0);
    CHECK(decode_f16(quant->source, 60, 5, nullptr).code == invalid_argument);
    CHECK(decode_f16(quant->source, -1, 1, nullptr).code == invalid_argument);
}
