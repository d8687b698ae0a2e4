// x86 with AVX-512F: compiled with that flag, run only where the CPU has it.
#include <immintrin.h>

#include "kernel.h"

namespace aerogel {
namespace avx512 {

struct Vector {
  using Reg = __m512;
  static constexpr int kLanes = 16, kRowsAtOnce = 6, kRegsAtOnce = 4;
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

}  // namespace avx512

constinit const Kernels avx512_kernels = avx512::table("avx512");

}  // namespace aerogel
