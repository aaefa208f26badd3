// Half precision's 16 bits, for kernels and for cuBLAS.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

static inline float emu_half_to_float(unsigned short h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    uint32_t bits = sign | (exponent + 112) << 23 | fraction << 13;
    if (exponent == 31) bits = sign | 0x7f800000 | fraction << 13;
    if (exponent == 0) {
        const float value = float(fraction) * 0x1p-24f;
        return sign ? -value : value;
    }
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// To the nearest, ties to even; from double, so that no number is rounded twice.
static inline unsigned short emu_half_from(double d) {
    const unsigned short sign = std::signbit(d) ? 0x8000 : 0;
    if (d != d) return 0x7fff;
    const double a = std::fabs(d);
    if (a >= 65520) return sign | 0x7c00;
    if (a < 0x1p-14) return sign | (unsigned short)std::nearbyint(a * 0x1p24);
    int e;
    std::frexp(a, &e);
    const unsigned units = unsigned(std::nearbyint(std::ldexp(a, 11 - e)));  // 1024 to 2048
    return sign | (unsigned short)(((e + 13) << 10) + units);
}
