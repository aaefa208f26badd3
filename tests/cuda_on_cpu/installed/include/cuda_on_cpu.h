// CUDA C++ on the host's compiler: included before every kernel. The launcher is device/grid.cpp.
#pragma once

#include <algorithm>
#include <cassert>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <math.h>
#include <new>
#include <stdexcept>
#include <stdlib.h>
#include <tuple>
#include <type_traits>
#include <utility>

#include "kernel_abi.h"

// -- the language

#ifndef __CUDACC__
#define __CUDACC__ 1
#endif
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 2
#define CUDART_VERSION 13020
#define CUDA_VERSION 13020
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __constant__
#define __managed__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __attribute__((aligned(n)))
#define __nv_is_extended_device_lambda_closure_type(x) false

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

static uint3 threadIdx, blockIdx, blockDim, gridDim;
static constexpr int warpSize = 32;
static const emu_services* emu_service;
extern "C" __attribute__((used)) emu_binding emu_module;
emu_binding emu_module = {emu_abi, &threadIdx, &blockIdx, &blockDim, &gridDim, &emu_service};

#define EMU_VECTOR_3(T, name) \
    struct name##3 { T x, y, z; }; \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }
#define EMU_VECTOR(T, name) \
    struct name##1 { T x; }; \
    struct __align__(2 * sizeof(T)) name##2 { T x, y; }; \
    struct __align__(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; }; \
    static inline name##1 make_##name##1(T x) { return {x}; } \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTOR(signed char, char) EMU_VECTOR_3(signed char, char)
EMU_VECTOR(unsigned char, uchar) EMU_VECTOR_3(unsigned char, uchar)
EMU_VECTOR(short, short) EMU_VECTOR_3(short, short)
EMU_VECTOR(unsigned short, ushort) EMU_VECTOR_3(unsigned short, ushort)
EMU_VECTOR(int, int) EMU_VECTOR_3(int, int)
EMU_VECTOR(unsigned, uint)
EMU_VECTOR(long, long) EMU_VECTOR_3(long, long)
EMU_VECTOR(long long, longlong) EMU_VECTOR_3(long long, longlong)
EMU_VECTOR(unsigned long long, ulonglong) EMU_VECTOR_3(unsigned long long, ulonglong)
EMU_VECTOR(float, float) EMU_VECTOR_3(float, float)
EMU_VECTOR(double, double) EMU_VECTOR_3(double, double)
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }

// -- threads

static inline unsigned emu_lane() {
    return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32;
}
static inline void __syncthreads() { emu_service->barrier(EMU_PLAIN, 0); }
static inline int __syncthreads_count(int p) { return emu_service->barrier(EMU_COUNT, p); }
static inline int __syncthreads_and(int p) { return emu_service->barrier(EMU_AND, p); }
static inline int __syncthreads_or(int p) { return emu_service->barrier(EMU_OR, p); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { emu_service->warp(EMU_SYNC, mask, 0, 0); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}
static inline void __trap() { emu_service->trap("__trap()"); }
static inline long long clock64() { return 0; }
static inline unsigned __activemask() { return 1u << emu_lane(); }
static inline unsigned __ballot_sync(unsigned mask, int p) {
    return unsigned(emu_service->warp(EMU_BALLOT, mask, p != 0, 0));
}
static inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
static inline int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, !p) == 0; }

template <class T> static inline T emu_shuffle(unsigned mask, T value, int source) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "what a shuffle takes");
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    word = emu_service->warp(EMU_SHUFFLE, mask, word, source);
    memcpy(&value, &word, sizeof value);
    return value;
}
template <class T> static inline T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
    const int lane = int(emu_lane());
    return emu_shuffle(mask, v, lane / width * width + (source & (width - 1)));
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32) {
    const int lane = int(emu_lane()), source = lane ^ bits;
    return emu_shuffle(mask, v, source / width > lane / width ? lane : source);
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    const int lane = int(emu_lane()), source = lane - int(delta);
    return emu_shuffle(mask, v, source < lane / width * width ? lane : source);
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    const int lane = int(emu_lane()), source = lane + int(delta);
    return emu_shuffle(mask, v, source >= (lane / width + 1) * width ? lane : source);
}
template <class T> static inline unsigned __match_any_sync(unsigned mask, T value) {
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    return unsigned(emu_service->warp(EMU_MATCH_ANY, mask, word, 0));
}

// -- bits

template <class To, class From> static inline To emu_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "of one size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline int __float_as_int(float x) { return emu_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return emu_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return emu_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return emu_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return emu_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return emu_bits<double>(x); }
static inline int __double2hiint(double x) { return int(emu_bits<uint64_t>(x) >> 32); }
static inline int __double2loint(double x) { return int(emu_bits<uint64_t>(x)); }
static inline double __hiloint2double(int hi, int lo) {
    return emu_bits<double>(uint64_t(unsigned(hi)) << 32 | unsigned(lo));
}
static inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; ++i) y = y << 1 | (x >> i & 1);
    return y;
}
static inline int __mul24(int a, int b) { return a * b; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
static inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
template <class T> static inline T __ldg(const T* p) { return *p; }

// -- numbers

#define EMU_MIN_MAX(T) \
    static inline T min(T a, T b) { return b < a ? b : a; } \
    static inline T max(T a, T b) { return a < b ? b : a; }
EMU_MIN_MAX(int) EMU_MIN_MAX(unsigned) EMU_MIN_MAX(long) EMU_MIN_MAX(unsigned long) EMU_MIN_MAX(long long)
EMU_MIN_MAX(unsigned long long)
#define EMU_MIXED(A, B, T) \
    static inline T min(A a, B b) { return min((T)(a), (T)(b)); } \
    static inline T min(B a, A b) { return min((T)(a), (T)(b)); } \
    static inline T max(A a, B b) { return max((T)(a), (T)(b)); } \
    static inline T max(B a, A b) { return max((T)(a), (T)(b)); }
EMU_MIXED(int, unsigned, unsigned) EMU_MIXED(long, unsigned long, unsigned long)
EMU_MIXED(long long, unsigned long long, unsigned long long)
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline double min(float a, double b) { return fmin(a, b); }
static inline double max(float a, double b) { return fmax(a, b); }
static inline double min(double a, float b) { return fmin(a, b); }
static inline double max(double a, float b) { return fmax(a, b); }

static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / std::sqrt(x); }
static inline float rsqrt(float x) { return rsqrtf(x); }
static inline double rcbrt(double x) { return 1 / std::cbrt(x); }
static inline float rcbrt(float x) { return 1 / std::cbrt(x); }
static inline float exp10(float x) { return exp10f(x); }
static inline double sinpi(double x) { return std::sin(M_PI * std::remainder(x, 2.0)); }
static inline double cospi(double x) { return std::cos(M_PI * std::remainder(x, 2.0)); }
static inline float sinpif(float x) { return float(sinpi(double(x))); }
static inline float cospif(float x) { return float(cospi(double(x))); }
#define __expf emu_fast_expf
static inline float __expf(float x) { return expf(x); }
#define __logf emu_fast_logf
static inline float __logf(float x) { return logf(x); }
#define __log2f emu_fast_log2f
static inline float __log2f(float x) { return log2f(x); }
#define __sinf emu_fast_sinf
static inline float __sinf(float x) { return sinf(x); }
#define __cosf emu_fast_cosf
static inline float __cosf(float x) { return cosf(x); }
#define __powf emu_fast_powf
static inline float __powf(float x, float y) { return powf(x, y); }
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.f) : 0.f; }
static inline float __frcp_rn(float x) { return 1 / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __fma_rn(double x, double y, double z) { return ::fma(x, y, z); }
static inline int __float2int_rn(float x) { return int(nearbyintf(x)); }
static inline int __float2int_rz(float x) { return int(x); }
static inline int __double2int_rz(double x) { return int(x); }
static inline float j0(float x) { return j0f(x); }
static inline float j1(float x) { return j1f(x); }
static inline float y0(float x) { return y0f(x); }
static inline float y1(float x) { return y1f(x); }
static inline double normcdf(double x) { return 0.5 * std::erfc(-x * M_SQRT1_2); }

// -- atomics: the launcher runs one thread at a time

#define EMU_ATOMIC(name, T, expression) \
    static inline T name(T* address, T v) { const T old = *address; *address = (T)(expression); return old; }
#define EMU_ATOMIC_CAS(T) \
    static inline T atomicCAS(T* address, T compare, T v) { \
        const T old = *address; \
        if (old == compare) *address = v; \
        return old; \
    }
#define EMU_ATOMIC_INTEGER(T) \
    EMU_ATOMIC(atomicExch, T, v) \
    EMU_ATOMIC(atomicMin, T, v < old ? v : old) EMU_ATOMIC(atomicMax, T, old < v ? v : old) \
    EMU_ATOMIC(atomicAnd, T, old & v) EMU_ATOMIC(atomicOr, T, old | v) EMU_ATOMIC(atomicXor, T, old ^ v) \
    EMU_ATOMIC_CAS(T)
EMU_ATOMIC_INTEGER(int) EMU_ATOMIC_INTEGER(unsigned) EMU_ATOMIC_INTEGER(unsigned long long)
EMU_ATOMIC(atomicMin, long long, v < old ? v : old) EMU_ATOMIC(atomicMax, long long, old < v ? v : old)
EMU_ATOMIC(atomicAdd, int, old + v) EMU_ATOMIC(atomicAdd, unsigned, old + v)
EMU_ATOMIC(atomicAdd, unsigned long long, old + v)
EMU_ATOMIC(atomicSub, int, old - v) EMU_ATOMIC(atomicSub, unsigned, old - v)
EMU_ATOMIC(atomicAdd, float, old + v) EMU_ATOMIC(atomicExch, float, v)
EMU_ATOMIC(atomicAdd, double, old + v)
EMU_ATOMIC(atomicInc, unsigned, old >= v ? 0 : old + 1)
EMU_ATOMIC(atomicDec, unsigned, old == 0 || old > v ? v : old - 1)
EMU_ATOMIC_CAS(unsigned short)

// -- entries for the launcher; nvrtc/kernel_source.cpp writes EMU_KERNEL(name) after each kernel's body

template <class A, class = void> struct emu_is_array : std::is_pointer<A> {};
template <class A> struct emu_is_array<A, decltype(void(std::declval<A&>().strides()))> : std::true_type {};

template <class F, F* f> struct emu_entry;
template <class... A, void (*f)(A...)> struct emu_entry<void(A...), f> {
    template <size_t... I> static void each(void** p, std::index_sequence<I...>) { f(*(std::remove_cv_t<A>*)p[I]...); }
    static void call(void** p) { each(p, std::index_sequence_for<A...>()); }
    static constexpr unsigned sizes[] = {unsigned(sizeof(A))..., 0};
    static constexpr unsigned char is_pointer[] = {(unsigned char)emu_is_array<A>::value..., 0};
    static constexpr emu_kernel kernel() { return {call, unsigned(sizeof...(A)), sizes, is_pointer}; }
};
#define EMU_KERNEL(name) EMU_NAMED(name, name)
#define EMU_NAMED(name, ...) \
    extern "C" __attribute__((used)) const emu_kernel emu_kernel_##name; \
    const emu_kernel emu_kernel_##name = \
        emu_entry<std::remove_pointer_t<decltype(&__VA_ARGS__)>, &__VA_ARGS__>::kernel();
