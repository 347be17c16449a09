// half.h: all values, round trips, ties, and the processor's own conversion.
#include "kernels/half.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "support.h"

using namespace quantplug::test;

TEST_CASE("every binary16 and bfloat16 survives a round trip") {
    size_t wrong = 0;
    for (uint32_t h = 0; h < 65536; ++h) {
        const float value = f16_to_f32(uint16_t(h)), wide = bf16_to_f32(uint16_t(h));
        const uint32_t exponent = (h >> 10) & 31, mantissa = h & 1023;
        if (exponent == 31 && mantissa) {
            wrong += !std::isnan(value) || !std::isnan(f16_to_f32(f32_to_f16(value)));
        } else {
            const double expected = exponent == 31 ? INFINITY
                                                   : std::ldexp(double(mantissa + (exponent ? 1024 : 0)),
                                                                int(exponent ? exponent : 1) - 25);
            wrong +=
                double(std::fabs(value)) != expected || std::signbit(value) != (h >= 32768) || f32_to_f16(value) != h;
        }
        if (std::isnan(wide)) {
            wrong += !std::isnan(bf16_to_f32(f32_to_bf16(wide)));
        } else {
            wrong += f32_to_bf16(wide) != h;
        }
    }
    CHECK(wrong == 0);
}

TEST_CASE("rounding to binary16 is to nearest, ties to even") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    size_t wrong = 0;
    for (uint32_t h = 0; h < 0x7c00; ++h) {
        // Between h and its successor: below, at and above the middle.
        const double low = double(f16_to_f32(uint16_t(h))),
                     high = h == 0x7bff ? 65536.0 : double(f16_to_f32(uint16_t(h + 1)));
        const float middle = float((low + high) / 2);
        wrong += f32_to_f16(std::nextafter(middle, 0.0f)) != h;
        wrong += f32_to_f16(std::nextafter(middle, INFINITY)) != h + 1;
        wrong += f32_to_f16(middle) != (h & 1 ? h + 1 : h);
        wrong += f32_to_f16(-middle) != ((h & 1 ? h + 1 : h) | 0x8000);
    }
    CHECK(wrong == 0);
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx2")) {  // every processor with it has F16C
        MESSAGE("skipped: the processor has no F16C");
        return;
    }
    wrong = 0;
    for (int i = 0; i < 2000000; ++i) {
        const uint32_t bits = uint32_t(random());
        float value;
        std::memcpy(&value, &bits, 4);
        uint16_t hardware[8];
        float back;
        __asm__("vmovd %2, %%xmm0\n\tvcvtps2ph $0, %%xmm0, %0\n\tvcvtph2ps %0, %%xmm0\n\tvmovd %%xmm0, %1"
                : "=m"(*reinterpret_cast<uint64_t*>(hardware)), "=m"(back)
                : "m"(bits)
                : "xmm0");
        const uint16_t mine = f32_to_f16(value);
        if (std::isnan(value)) {
            wrong += !std::isnan(f16_to_f32(mine));
        } else {
            wrong += mine != hardware[0] || f16_to_f32(mine) != back;
        }
    }
    CHECK(wrong == 0);
#endif
}
