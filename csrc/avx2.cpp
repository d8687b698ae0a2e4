// x86 with AVX2 and FMA: compiled with these flags, run only where the CPU has them. avx_vnni.cpp compiles it once more
// with AVX-VNNI.
#include <immintrin.h>

#include "kernel.h"

#ifndef AEROGEL_SET
#define AEROGEL_SET avx2
#endif

namespace aerogel {
namespace AEROGEL_SET {

#include "expand_x86.h"

struct Vector {
  using Reg = __m256;
  static constexpr int kSums = 8;  // of a product, in registers
  static constexpr int kLanes = 8, kSumsOfProduct = 10, kRegsOfProduct = 2;
  static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Reg a) { _mm256_storeu_ps(p, a); }
  static Reg set(float a) { return _mm256_set1_ps(a); }
  // four floats, in each half of a register
  using Four = __m256;
  static Four four(Float32, const float* p) { return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p)); }
  static Four four(BFloat16, const uint16_t* p) {
    const __m128i wide = _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m128 floats = _mm_castsi128_ps(_mm_slli_epi32(wide, 16));
    return _mm256_set_m128(floats, floats);
  }
  template <int kLane>
  static Reg pick(Four a) {
    return _mm256_permute_ps(a, kLane * 0x55);
  }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg subtract(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg multiply(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg divide(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg square_root(Reg a) { return _mm256_sqrt_ps(a); }
  static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
  static Reg round(Reg a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg times_power_of_two(Reg a, Reg n) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(a, _mm256_castsi256_ps(exponent));
  }
  static Reg zero_where_below(Reg a, Reg x, float limit) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_LT_OQ), a);
  }
  static constexpr bool kHasPairs = false, kCompresses = false;
  using Int = __m256i;
  static constexpr int kOffset = 0;
  static Int load_int(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void store_int(void* p, Int a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }
  static Int set_int(int32_t a) { return _mm256_set1_epi32(a); }
  static Int add_int(Int a, Int b) { return _mm256_add_epi32(a, b); }
  static int32_t total(Int a) {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1);
  }
  static Int subtract_int(Int a, Int b) { return _mm256_sub_epi32(a, b); }
  static Int multiply_int(Int a, Int b) { return _mm256_mullo_epi32(a, b); }
  static Int to_int(Reg a) { return _mm256_cvtps_epi32(a); }
  static Reg to_float(Int a) { return _mm256_cvtepi32_ps(a); }
  static Int bits(Reg a) { return _mm256_castps_si256(a); }
  // the lowest bytes of four registers side by side
  static void store_bytes(uint8_t* p, const Int (&a)[4]) {
    const Int low = _mm256_blend_epi16(a[0], _mm256_slli_epi32(a[2], 16), 0xAA);
    const Int high = _mm256_blend_epi16(a[1], _mm256_slli_epi32(a[3], 16), 0xAA);
    store_int(p, _mm256_blendv_epi8(low, _mm256_slli_epi16(high, 8), _mm256_set1_epi16(-256)));
  }
  static void store_low_bytes(uint8_t* p, Int a) {
    const Int low = _mm256_shuffle_epi8(a, _mm256_set1_epi32(0x0C080400));
    const Int both = _mm256_unpacklo_epi32(low, _mm256_castsi128_si256(_mm256_extracti128_si256(low, 1)));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(both));
  }
  static Int load_quads(const void* p) { return load_int(p); }
  static Int gather_quads(const uint8_t* x, const uint8_t* index) {
    const Int lanes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(index)));
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(x), lanes, 4);
  }
  static Int expand(uint64_t bits, uint64_t before, const int8_t* p, int part) {
    return _mm256_set_m128i(expand_sixteen(bits, before, p, 2 * part + 1), expand_sixteen(bits, before, p, 2 * part));
  }
#ifdef AEROGEL_VNNI
  using Factors = Int;
  static Factors factors(Int quads) { return quads; }
  static Int dot(Int sum, Int x, Factors w) { return _mm256_dpbusd_avx_epi32(sum, x, w); }
#else
  // 16-bit products of even and odd bytes: adding pairs of 8-bit products in 16 bits would saturate
  struct Factors {
    Int even, odd;
  };
  static Factors factors(Int quads) {
    return {.even = _mm256_srai_epi16(_mm256_slli_epi16(quads, 8), 8), .odd = _mm256_srai_epi16(quads, 8)};
  }
  static Int dot(Int sum, Int x, const Factors& w) {
    const Int even = _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(255)), w.even);
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, _mm256_madd_epi16(_mm256_srli_epi16(x, 8), w.odd)));
  }
#endif
  static void transpose(Reg (&r)[8]) {
    Reg a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
      a[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      a[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
      b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xEE);
      b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
      b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
      r[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
      r[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
  }
};

#include "body.h"

}  // namespace AEROGEL_SET

AEROGEL_KERNELS(AEROGEL_SET);

}  // namespace aerogel
