// Stands in for libcublas.so.13: what CuPy's arrays need of it, in plain loops, queued on the handle's stream.
// build.py defines the other functions that CuPy links to; they answer CUBLAS_STATUS_NOT_SUPPORTED.
#include "device.h"
#include "half_bits.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdio>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

namespace {

enum { success = 0, invalid_value = 7, execution_failed = 13, not_supported = 15 };

struct Handle {
    void* stream = nullptr;
    int pointer_mode = 0, math_mode = 0;
};

using C32 = std::complex<float>;
using C64 = std::complex<double>;

template <class T> struct real_of { typedef T type; };
template <class T> struct real_of<std::complex<T>> { typedef T type; };

float conj_of(float x) { return x; }
double conj_of(double x) { return x; }
C32 conj_of(C32 x) { return std::conj(x); }
C64 conj_of(C64 x) { return std::conj(x); }

bool is_operand(const void* p) {
    int kind, device;
    if (!p || emu_pointer(p, &kind, &device)) return true;  // the call that follows returns the error
    if (kind == emu_host || (kind == emu_device && device == emu_get_device())) return true;
    fprintf(stderr, "cuda-on-cpu: cuBLAS: an operand is not in this device's memory or pinned memory\n");
    return false;
}

// Queues work on the operands that are named.
template <class... P> int queue(Handle* h, std::function<void()> work, const P*... operands) {
    if (!(is_operand(operands) && ...)) return execution_failed;
    auto run = [](void* p) { (*(std::function<void()>*)p)(); return 0; };
    auto drop = [](void* p) { delete (std::function<void()>*)p; };
    auto* kept = new std::function<void()>(std::move(work));
    return emu_enqueue(h->stream, emu_library_work, "cuBLAS", run, kept, drop) ? execution_failed : success;
}

// A scalar argument: read now where it is the host's, when its turn comes where it is the device's.
template <class T> std::function<T()> scalar(Handle* h, const T* p) {
    if (h->pointer_mode) return [p] { return *p; };
    const T value = *p;
    return [value] { return value; };
}

// A result: where it is the host's, the call waits.
int finish(Handle* h, int status) {
    if (!status && !h->pointer_mode && emu_stream_synchronize(h->stream)) return execution_failed;
    return status;
}

struct Half { unsigned short bits; };

float number(Half h) { return emu_half_to_float(h.bits); }
template <class T> T number(T x) { return x; }

void store(Half* to, float x) { to->bits = emu_half_from(x); }
template <class T> void store(T* to, T x) { *to = x; }

// To TF32: 10 bits behind the point, ties to even.
float rounded(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    if (x == x) u = (u + 0xfff + (u >> 13 & 1)) & ~0x1fffu;
    memcpy(&x, &u, 4);
    return x;
}
template <class T> T rounded(T x) { return x; }

// C = alpha op(A) op(B) + beta C, columns first; S is what is stored, T what is computed.
template <class S, class T>
void multiply(int ta, int tb, int m, int n, int k, T alpha, const S* A, long lda, const S* B, long ldb, T beta, S* C,
              long ldc, bool tf32 = false) {
    std::vector<T> a(size_t(m) * size_t(k)), c(static_cast<size_t>(m));
    for (long p = 0; p < k; ++p)
        for (long i = 0; i < m; ++i) {
            const T x = number(ta ? A[p + i * lda] : A[i + p * lda]);
            a[size_t(i + p * m)] = tf32 ? rounded(x) : ta == 2 ? conj_of(x) : x;
        }
    for (long j = 0; j < n; ++j) {
        std::fill(c.begin(), c.end(), T(0));
        for (long p = 0; p < k; ++p) {
            T b = number(tb ? B[j + p * ldb] : B[p + j * ldb]);
            if (tb == 2) b = conj_of(b);
            if (tf32) b = rounded(b);
            const T* column = a.data() + p * m;
            for (long i = 0; i < m; ++i) c[size_t(i)] += column[i] * b;
        }
        for (long i = 0; i < m; ++i) {
            S* to = C + i + j * ldc;
            store(to, T(alpha * c[size_t(i)] + (beta == T(0) ? T(0) : beta * T(number(*to)))));
        }
    }
}

template <class S, class T>
int gemm(Handle* h, int ta, int tb, int m, int n, int k, const T* alpha, const S* A, int lda, const S* B, int ldb,
         const T* beta, S* C, int ldc, long sa = 0, long sb = 0, long sc = 0, int batch = 1, int compute = 0) {
    if (m < 0 || n < 0 || k < 0 || batch < 0 || lda < std::max(1, ta ? k : m) || ldb < std::max(1, tb ? n : k) ||
        ldc < std::max(1, m))
        return invalid_value;
    auto a = scalar(h, alpha), b = scalar(h, beta);
    // CUBLAS_COMPUTE_32F_FAST_TF32; CUBLAS_TF32_TENSOR_OP_MATH where the call leaves it open
    const bool tf32 = compute == 77 || ((compute == 0 || compute == 68) && (h->math_mode & 15) == 3);
    return queue(h, [=] {
        for (long i = 0; i < batch; ++i)
            multiply<S, T>(ta, tb, m, n, k, a(), A + i * sa, lda, B + i * sb, ldb, b(), C + i * sc, ldc, tf32);
    }, A, B, C);
}

template <class T>
int gemm_batched(Handle* h, int ta, int tb, int m, int n, int k, const T* alpha, const T* const* A, int lda,
                 const T* const* B, int ldb, const T* beta, T* const* C, int ldc, int batch) {
    auto a = scalar(h, alpha), b = scalar(h, beta);
    return queue(h, [=] {
        for (int i = 0; i < batch; ++i) multiply<T, T>(ta, tb, m, n, k, a(), A[i], lda, B[i], ldb, b(), C[i], ldc);
    }, A, B, C);
}

int gemm_ex(Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* A, int type_a, int lda,
            long sa, const void* B, int type_b, int ldb, long sb, const void* beta, void* C, int type_c, int ldc,
            long sc, int batch, int compute) {
    const bool in_half = compute == 64 || compute == 65;  // CUBLAS_COMPUTE_16F: alpha would be a half
    if (type_a != type_b || type_a != type_c || in_half) return not_supported;
    const auto call = [&](auto stored, auto computed) {
        using S = decltype(stored);
        using T = decltype(computed);
        return gemm<S, T>(h, ta, tb, m, n, k, (const T*)alpha, (const S*)A, lda, (const S*)B, ldb, (const T*)beta,
                          (S*)C, ldc, sa, sb, sc, batch, compute);
    };
    switch (type_a) {  // cudaDataType
    case 0: return call(float(), float());
    case 1: return call(double(), double());
    case 2: return call(Half(), float());
    case 4: return call(C32(), C32());
    case 5: return call(C64(), C64());
    default: return not_supported;
    }
}

template <class T>
int gemv(Handle* h, int trans, int m, int n, const T* alpha, const T* A, int lda, const T* x, int incx, const T* beta,
         T* y, int incy) {
    auto a = scalar(h, alpha), b = scalar(h, beta);
    return queue(h, [=] {
        const T scale = a(), keep = b();
        const long rows = trans ? n : m, inner = trans ? m : n;
        for (long i = 0; i < rows; ++i) {
            T sum = 0;
            for (long p = 0; p < inner; ++p) {
                const T e = trans ? A[p + i * lda] : A[i + p * lda];
                sum += (trans == 2 ? conj_of(e) : e) * x[p * incx];
            }
            y[i * incy] = scale * sum + (keep == T(0) ? T(0) : keep * y[i * incy]);
        }
    }, A, x, y);
}

template <class T, bool conjugate = false>
int dot(Handle* h, int n, const T* x, int incx, const T* y, int incy, T* result) {
    return finish(h, queue(h, [=] {
        T sum = 0;
        for (long i = 0; i < n; ++i) sum += (conjugate ? conj_of(x[i * incx]) : x[i * incx]) * y[i * incy];
        *result = sum;
    }, x, y));
}

template <class T> int nrm2(Handle* h, int n, const T* x, int incx, typename real_of<T>::type* result) {
    return finish(h, queue(h, [=] {
        double sum = 0;
        for (long i = 0; i < n; ++i) sum += std::norm(std::complex<double>(x[i * incx]));
        *result = typename real_of<T>::type(std::sqrt(sum));
    }, x));
}
template <class T> int asum(Handle* h, int n, const T* x, int incx, typename real_of<T>::type* result) {
    return finish(h, queue(h, [=] {
        double sum = 0;
        for (long i = 0; i < n; ++i) sum += std::fabs(std::real(x[i * incx])) + std::fabs(std::imag(x[i * incx]));
        *result = typename real_of<T>::type(sum);
    }, x));
}
template <class T> int axpy(Handle* h, int n, const T* alpha, const T* x, int incx, T* y, int incy) {
    auto a = scalar(h, alpha);
    return queue(h, [=] {
        const T scale = a();
        for (long i = 0; i < n; ++i) y[i * incy] += scale * x[i * incx];
    }, x, y);
}
template <class T> int scal(Handle* h, int n, const T* alpha, T* x, int incx) {
    auto a = scalar(h, alpha);
    return queue(h, [=] {
        const T scale = a();
        for (long i = 0; i < n; ++i) x[i * incx] *= scale;
    }, x);
}
template <class T>
int ger(Handle* h, int m, int n, const T* alpha, const T* x, int incx, const T* y, int incy, T* A, int lda) {
    auto a = scalar(h, alpha);
    return queue(h, [=] {
        const T scale = a();
        for (long j = 0; j < n; ++j)
            for (long i = 0; i < m; ++i) A[i + j * lda] += scale * x[i * incx] * y[j * incy];
    }, x, y, A);
}
template <class T>
int geam(Handle* h, int ta, int tb, int m, int n, const T* alpha, const T* A, int lda, const T* beta, const T* B,
         int ldb, T* C, int ldc) {
    auto a = scalar(h, alpha), b = scalar(h, beta);
    return queue(h, [=] {
        const T x = a(), y = b();
        for (long j = 0; j < n; ++j)
            for (long i = 0; i < m; ++i)
                C[i + j * ldc] = (x == T(0) ? T(0) : x * (ta ? A[j + i * lda] : A[i + j * lda])) +
                                 (y == T(0) ? T(0) : y * (tb ? B[j + i * ldb] : B[i + j * ldb]));
    }, A, B, C);
}

}  // namespace

extern "C" {

int cublasCreate_v2(Handle** h) { *h = new Handle; return success; }
int cublasDestroy_v2(Handle* h) { emu_synchronize(); delete h; return success; }
int cublasGetVersion_v2(Handle*, int* version) { *version = 130200; return success; }
int cublasSetStream_v2(Handle* h, void* stream) {
    unsigned flags;
    if (emu_stream_flags(stream, &flags)) return invalid_value;
    h->stream = stream;
    return success;
}
int cublasGetStream_v2(Handle* h, void** stream) { *stream = h->stream; return success; }
int cublasSetPointerMode_v2(Handle* h, int mode) { h->pointer_mode = mode; return success; }
int cublasGetPointerMode_v2(Handle* h, int* mode) { *mode = h->pointer_mode; return success; }
int cublasSetMathMode(Handle* h, int mode) { h->math_mode = mode; return success; }
int cublasGetMathMode(Handle* h, int* mode) { *mode = h->math_mode; return success; }

#define EACH(L, T) \
    int cublas##L##gemm_v2(Handle* h, int ta, int tb, int m, int n, int k, const T* alpha, const T* A, int lda, \
                           const T* B, int ldb, const T* beta, T* C, int ldc) { \
        return gemm<T, T>(h, ta, tb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc); \
    } \
    int cublas##L##gemmStridedBatched(Handle* h, int ta, int tb, int m, int n, int k, const T* alpha, const T* A, \
                                      int lda, long long sa, const T* B, int ldb, long long sb, const T* beta, T* C, \
                                      int ldc, long long sc, int batch) { \
        return gemm<T, T>(h, ta, tb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc, sa, sb, sc, batch); \
    } \
    int cublas##L##gemmBatched(Handle* h, int ta, int tb, int m, int n, int k, const T* alpha, const T* const* A, \
                               int lda, const T* const* B, int ldb, const T* beta, T* const* C, int ldc, int batch) { \
        return gemm_batched<T>(h, ta, tb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc, batch); \
    } \
    int cublas##L##gemv_v2(Handle* h, int trans, int m, int n, const T* alpha, const T* A, int lda, const T* x, \
                           int incx, const T* beta, T* y, int incy) { \
        return gemv<T>(h, trans, m, n, alpha, A, lda, x, incx, beta, y, incy); \
    } \
    int cublas##L##axpy_v2(Handle* h, int n, const T* alpha, const T* x, int incx, T* y, int incy) { \
        return axpy<T>(h, n, alpha, x, incx, y, incy); \
    } \
    int cublas##L##scal_v2(Handle* h, int n, const T* alpha, T* x, int incx) { return scal<T>(h, n, alpha, x, incx); } \
    int cublas##L##geam(Handle* h, int ta, int tb, int m, int n, const T* alpha, const T* A, int lda, const T* beta, \
                        const T* B, int ldb, T* C, int ldc) { \
        return geam<T>(h, ta, tb, m, n, alpha, A, lda, beta, B, ldb, C, ldc); \
    }
EACH(S, float) EACH(D, double) EACH(C, C32) EACH(Z, C64)

#define REAL(L, T) \
    int cublas##L##dot_v2(Handle* h, int n, const T* x, int incx, const T* y, int incy, T* result) { \
        return dot<T>(h, n, x, incx, y, incy, result); \
    } \
    int cublas##L##nrm2_v2(Handle* h, int n, const T* x, int incx, T* result) { \
        return nrm2<T>(h, n, x, incx, result); \
    } \
    int cublas##L##asum_v2(Handle* h, int n, const T* x, int incx, T* result) { \
        return asum<T>(h, n, x, incx, result); \
    } \
    int cublas##L##ger_v2(Handle* h, int m, int n, const T* alpha, const T* x, int incx, const T* y, int incy, T* A, \
                          int lda) { \
        return ger<T>(h, m, n, alpha, x, incx, y, incy, A, lda); \
    }
REAL(S, float) REAL(D, double)

#define COMPLEX(L, T) \
    int cublas##L##dotu_v2(Handle* h, int n, const T* x, int incx, const T* y, int incy, T* result) { \
        return dot<T>(h, n, x, incx, y, incy, result); \
    } \
    int cublas##L##dotc_v2(Handle* h, int n, const T* x, int incx, const T* y, int incy, T* result) { \
        return dot<T, true>(h, n, x, incx, y, incy, result); \
    }
COMPLEX(C, C32) COMPLEX(Z, C64)

int cublasGemmEx(Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* A, int type_a, int lda,
                 const void* B, int type_b, int ldb, const void* beta, void* C, int type_c, int ldc, int compute,
                 int) {
    return gemm_ex(h, ta, tb, m, n, k, alpha, A, type_a, lda, 0, B, type_b, ldb, 0, beta, C, type_c, ldc, 0, 1,
                   compute);
}
int cublasSgemmEx(Handle* h, int ta, int tb, int m, int n, int k, const float* alpha, const void* A, int type_a,
                  int lda, const void* B, int type_b, int ldb, const float* beta, void* C, int type_c, int ldc) {
    return gemm_ex(h, ta, tb, m, n, k, alpha, A, type_a, lda, 0, B, type_b, ldb, 0, beta, C, type_c, ldc, 0, 1, 0);
}
int cublasGemmStridedBatchedEx(Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* A,
                               int type_a, int lda, long long sa, const void* B, int type_b, int ldb, long long sb,
                               const void* beta, void* C, int type_c, int ldc, long long sc, int batch, int compute,
                               int) {
    return gemm_ex(h, ta, tb, m, n, k, alpha, A, type_a, lda, sa, B, type_b, ldb, sb, beta, C, type_c, ldc, sc, batch,
                   compute);
}



}  // extern "C"
