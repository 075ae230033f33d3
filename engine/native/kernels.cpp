#include "kernels.hpp"

#include <cstring>


#if (defined(__x86_64__) || defined(__amd64__)) && defined(__GNUC__)
#define HAS_VARIANTS 1
#include <immintrin.h>
#else
#define HAS_VARIANTS 0  // arm64: all its processors have the registers that these loops are compiled for
#endif

namespace kernels {
namespace {

namespace plain {
#include "kernels_loops.inc"
constexpr Kernels ALL = {integers, weighted, squared, inner, euclid};
}  // namespace plain

#if HAS_VARIANTS

#define TEXT(tokens) #tokens
#ifdef __clang__
#define COMPILE_FOR(features) \
    _Pragma(TEXT(clang attribute push(__attribute__((target(features))), apply_to = function)))
#define COMPILE_FOR_ALL _Pragma("clang attribute pop")
#else
#define COMPILE_FOR(features) _Pragma("GCC push_options") _Pragma(TEXT(GCC target(features)))
#define COMPILE_FOR_ALL _Pragma("GCC pop_options")
#endif

COMPILE_FOR("avx2,fma")
namespace avx2 {
#include "kernels_loops.inc"

// Compilers do not find the instruction that multiplies pairs and adds them, where one of the two is unsigned.
int32_t in_pairs(const int8_t* query, const uint8_t* code, size_t dimension) {
    __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    size_t i = 0;
    for (; i + 32 <= dimension; i += 32)
        for (size_t half = 0; half < 2; ++half) {
            const size_t at = i + 16 * half;
            const __m256i q = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(query + at)));
            const __m256i c = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(code + at)));
            sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(q, c));
        }
    int32_t lanes[8];
    const __m256i both = _mm256_add_epi32(sums[0], sums[1]);
    std::memcpy(lanes, &both, sizeof lanes);
    int32_t total = integers(query + i, code + i, dimension - i);
    for (const int32_t lane : lanes) total += lane;
    return total;
}

constexpr Kernels ALL = {in_pairs, weighted, squared, inner, euclid};
}  // namespace avx2
COMPILE_FOR_ALL

COMPILE_FOR("avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni,prefer-vector-width=512")
namespace avx512 {
#include "kernels_loops.inc"
constexpr Kernels ALL = {integers, weighted, squared, inner, euclid};
}  // namespace avx512
COMPILE_FOR_ALL

#endif

std::vector<Kernels> find_usable() {
    std::vector<Kernels> found;
#if HAS_VARIANTS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni"))
        found.push_back(avx512::ALL);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(avx2::ALL);
#endif
    found.push_back(plain::ALL);
    return found;
}

}  // namespace

const std::vector<Kernels>& usable() {
    static const std::vector<Kernels> found = find_usable();
    return found;
}

}  // namespace kernels
