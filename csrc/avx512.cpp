// x86 with AVX-512F and AVX-512BW: compiled with these flags, run only where the CPU has them. avx512_vnni.cpp and others
// compile it once more with further extensions.
#include <immintrin.h>

#include "kernel.h"

#ifndef AEROGEL_SET
#define AEROGEL_SET avx512
#endif

namespace aerogel {
namespace AEROGEL_SET {

#include "expand_x86.h"

struct Vector {
  using Reg = __m512;
  static constexpr int kSums = 16;  // of a product, in registers
  static constexpr int kLanes = 16, kSumsOfProduct = 24, kRegsOfProduct = 4;
  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Reg a) { _mm512_storeu_ps(p, a); }
  static Reg set(float a) { return _mm512_set1_ps(a); }
  // four floats, in each quarter of a register
  using Four = __m512;
  static Four four(Float32, const float* p) { return _mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
  static Four four(BFloat16, const uint16_t* p) {
    const __m128i wide = _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return _mm512_broadcast_f32x4(_mm_castsi128_ps(_mm_slli_epi32(wide, 16)));
  }
  template <int kLane>
  static Reg pick(Four a) {
    return _mm512_permute_ps(a, kLane * 0x55);
  }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg subtract(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg multiply(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg divide(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg square_root(Reg a) { return _mm512_sqrt_ps(a); }
  static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
  static Reg round(Reg a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT); }
  static Reg times_power_of_two(Reg a, Reg n) { return _mm512_scalef_ps(a, n); }
  static Reg zero_where_below(Reg a, Reg x, float limit) {
    return _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_LT_OQ), _mm512_setzero_ps());
  }
  using Int = __m512i;
  static constexpr int kOffset = 0;
  static Int load_int(const int32_t* p) { return _mm512_loadu_si512(p); }
  static void store_int(int32_t* p, Int a) { _mm512_storeu_si512(p, a); }
  static Int set_int(int32_t a) { return _mm512_set1_epi32(a); }
  static Int add_int(Int a, Int b) { return _mm512_add_epi32(a, b); }
  static int32_t total(Int a) { return _mm512_reduce_add_epi32(a); }
  static Int subtract_int(Int a, Int b) { return _mm512_sub_epi32(a, b); }
  static Int multiply_int(Int a, Int b) { return _mm512_mullo_epi32(a, b); }
  static Int to_int(Reg a) { return _mm512_cvtps_epi32(a); }
  static Reg to_float(Int a) { return _mm512_cvtepi32_ps(a); }
  static Int bits(Reg a) { return _mm512_castps_si512(a); }
  // the lowest bytes of four registers side by side
  static void store_bytes(uint8_t* p, const Int (&a)[4]) {
    const Int low = _mm512_mask_blend_epi16(0xAAAAAAAA, a[0], _mm512_slli_epi32(a[2], 16));
    const Int high = _mm512_mask_blend_epi16(0xAAAAAAAA, a[1], _mm512_slli_epi32(a[3], 16));
    _mm512_storeu_si512(p, _mm512_mask_blend_epi8(0xAAAAAAAAAAAAAAAA, low, _mm512_slli_epi16(high, 8)));
  }
  static void store_low_bytes(uint8_t* p, Int a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
  }
  static Int load_quads(const void* p) { return _mm512_loadu_si512(p); }
  static Int gather_quads(const uint8_t* x, const uint8_t* index) {
    return _mm512_i32gather_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(index))), x, 4);
  }
  static Int expand(uint64_t bits, [[maybe_unused]] uint64_t before, const int8_t* p, int) {
#ifdef AEROGEL_VBMI2
    Int all = _mm512_loadu_si512(p);
    load_now(all);  // Zen 4 takes half as long again to expand from memory
    return _mm512_maskz_expand_epi8(bits, all);
#else
    Int all = _mm512_castsi128_si512(expand_sixteen(bits, before, p, 0));
    all = _mm512_inserti32x4(all, expand_sixteen(bits, before, p, 1), 1);
    all = _mm512_inserti32x4(all, expand_sixteen(bits, before, p, 2), 2);
    return _mm512_inserti32x4(all, expand_sixteen(bits, before, p, 3), 3);
#endif
  }
  static constexpr bool kCompresses = true;
  static int store_used(uint64_t bits, Int quads, int first, int8_t* to, uint8_t* units) {
    const Int columns = _mm512_movm_epi8(bits);
    const __mmask16 used = _mm512_test_epi32_mask(columns, columns);
    const Int lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(used, quads));
    store_low_bytes(units, _mm512_maskz_compress_epi32(used, _mm512_add_epi32(lanes, _mm512_set1_epi32(first))));
    return std::popcount(used);
  }
#ifdef AEROGEL_VNNI
  using Factors = Int;
  static Factors factors(Int quads) { return quads; }
  static Int dot(Int sum, Int x, Factors w) { return _mm512_dpbusd_epi32(sum, x, w); }
#else
  // 16-bit products of even and odd bytes: adding pairs of 8-bit products in 16 bits would saturate
  struct Factors {
    Int even, odd;
  };
  static Factors factors(Int quads) {
    return {.even = _mm512_srai_epi16(_mm512_slli_epi16(quads, 8), 8), .odd = _mm512_srai_epi16(quads, 8)};
  }
  static Int dot(Int sum, Int x, const Factors& w) {
    const Int even = _mm512_madd_epi16(_mm512_and_si512(x, _mm512_set1_epi16(255)), w.even);
    return _mm512_add_epi32(sum, _mm512_add_epi32(even, _mm512_madd_epi16(_mm512_srli_epi16(x, 8), w.odd)));
  }
#endif
#ifdef AEROGEL_BF16
  static constexpr bool kHasPairs = true;
  // a and b rounded to bfloat16, lane by lane next to each other
  static Reg pair(Reg a, Reg b) {
    alignas(64) static constexpr uint16_t kTurns[] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const Int both = std::bit_cast<Int>(_mm512_cvtne2ps_pbh(b, a));
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_load_si512(kTurns), both));
  }
  static void store_bfloat16(void* p, Reg a) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), std::bit_cast<__m256i>(_mm512_cvtneps_pbh(a)));
  }
  static Reg fma_pairs(Reg a, Reg b, Reg c) {
    return _mm512_dpbf16_ps(c, std::bit_cast<__m512bh>(a), std::bit_cast<__m512bh>(b));
  }
#else
  static constexpr bool kHasPairs = false;
#endif
  static void transpose(Reg (&r)[16]) {
    // squares of 4 x 4 first, inside each quarter of a register; then the quarters are exchanged
    Reg a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
      a[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
      a[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
      b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xEE);
      b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
      b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
      const Reg even_low = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88);
      const Reg odd_low = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xDD);
      const Reg even_high = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
      const Reg odd_high = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xDD);
      r[i] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
      r[i + 4] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
      r[i + 8] = _mm512_shuffle_f32x4(even_low, even_high, 0xDD);
      r[i + 12] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xDD);
    }
  }
};

#include "body.h"

}  // namespace AEROGEL_SET

AEROGEL_KERNELS(AEROGEL_SET);

}  // namespace aerogel
