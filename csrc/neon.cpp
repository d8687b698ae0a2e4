// 64-bit ARM, which always has NEON. neon_dotprod.cpp and neon_i8mm.cpp compile it once more with these extensions.
#include <arm_neon.h>

#include "kernel.h"

#ifndef AEROGEL_SET
#define AEROGEL_SET neon
#endif

namespace aerogel {
namespace AEROGEL_SET {

struct Vector {
  using Reg = float32x4_t;
  static constexpr int kSums = 16;  // of a product, in registers
  static constexpr int kLanes = 4, kSumsOfProduct = 20, kRegsOfProduct = 4;
  static Reg load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, Reg a) { vst1q_f32(p, a); }
  static Reg set(float a) { return vdupq_n_f32(a); }
  using Four = float32x4_t;
  static Four four(Float32, const float* p) { return vld1q_f32(p); }
  static Four four(BFloat16, const uint16_t* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
  }
  template <int kLane>
  static Reg pick(Four a) {
    return vdupq_laneq_f32(a, kLane);
  }
  static Reg fma(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }
  static Reg add(Reg a, Reg b) { return vaddq_f32(a, b); }
  static Reg subtract(Reg a, Reg b) { return vsubq_f32(a, b); }
  static Reg multiply(Reg a, Reg b) { return vmulq_f32(a, b); }
  static Reg divide(Reg a, Reg b) { return vdivq_f32(a, b); }
  static Reg square_root(Reg a) { return vsqrtq_f32(a); }
  static Reg max(Reg a, Reg b) { return vmaxq_f32(a, b); }
  static Reg min(Reg a, Reg b) { return vminq_f32(a, b); }
  static Reg round(Reg a) { return vrndnq_f32(a); }
  static Reg times_power_of_two(Reg a, Reg n) {
    const int32x4_t exponent = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23);
    return vmulq_f32(a, vreinterpretq_f32_s32(exponent));
  }
  static Reg zero_where_below(Reg a, Reg x, float limit) {
    return vbslq_f32(vcltq_f32(x, vdupq_n_f32(limit)), vdupq_n_f32(0.0f), a);
  }
  static constexpr bool kHasPairs = false, kCompresses = false;
  using Int = int32x4_t;
  static Int load_int(const int32_t* p) { return vld1q_s32(p); }
  static void store_int(int32_t* p, Int a) { vst1q_s32(p, a); }
  static Int set_int(int32_t a) { return vdupq_n_s32(a); }
  static Int add_int(Int a, Int b) { return vaddq_s32(a, b); }
  static int32_t total(Int a) { return vaddvq_s32(a); }
  static Int subtract_int(Int a, Int b) { return vsubq_s32(a, b); }
  static Int multiply_int(Int a, Int b) { return vmulq_s32(a, b); }
  static Int to_int(Reg a) { return vcvtnq_s32_f32(a); }
  static Reg to_float(Int a) { return vcvtq_f32_s32(a); }
  static Int bits(Reg a) { return vreinterpretq_s32_f32(a); }
  // the lowest bytes of four registers side by side
  static void store_bytes(uint8_t* p, const Int (&a)[4]) {
    Int all = vsliq_n_s32(a[0], a[1], 8);
    all = vsliq_n_s32(all, a[2], 16);
    vst1q_u8(p, vreinterpretq_u8_s32(vsliq_n_s32(all, a[3], 24)));
  }
  static void store_low_bytes(uint8_t* p, Int a) {
    const uint16x4_t half = vmovn_u32(vreinterpretq_u32_s32(a));
    const uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(half, half))), 0);
    std::memcpy(p, &bytes, sizeof bytes);
  }
  static Int load_quads(const void* p) { return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p))); }
  static Int gather_quads(const uint8_t* x, const uint8_t* index) {
    int32_t quads[4];
    for (int i = 0; i < 4; i++) std::memcpy(quads + i, x + 4 * index[i], 4);
    return vld1q_s32(quads);
  }
  static Int expand(uint64_t bits, uint64_t before, const int8_t* p, int part) {
    const auto eight = [&](int byte) {
      const uint8x8_t places = vcreate_u8(kPlaces[bits >> 8 * byte & 255]);
      return vtbl1_u8(vld1_u8(reinterpret_cast<const uint8_t*>(p) + (before >> 8 * byte & 255)), places);
    };
    return vreinterpretq_s32_u8(vcombine_u8(eight(2 * part), eight(2 * part + 1)));
  }
  using Factors = int8x16_t;
  static Factors factors(Int quads) { return vreinterpretq_s8_s32(quads); }
#ifdef __ARM_FEATURE_MATMUL_INT8
  static constexpr int kOffset = 0;
  static Int dot(Int sum, Int x, Factors w) { return vusdotq_s32(sum, vreinterpretq_u8_s32(x), w); }
#else  // both factors are signed
  static constexpr int kOffset = 128;
  static Int dot(Int sum, Int x, Factors w) {
    const int8x16_t bytes = vreinterpretq_s8_s32(x);
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(sum, bytes, w);
#else
    const int16x8_t low = vmull_s8(vget_low_s8(bytes), vget_low_s8(w)), high = vmull_high_s8(bytes, w);
    return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
  }
#endif
  static void transpose(Reg (&r)[4]) {
    const float32x4x2_t low = vtrnq_f32(r[0], r[1]), high = vtrnq_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(low.val[0]), vget_low_f32(high.val[0]));
    r[1] = vcombine_f32(vget_low_f32(low.val[1]), vget_low_f32(high.val[1]));
    r[2] = vcombine_f32(vget_high_f32(low.val[0]), vget_high_f32(high.val[0]));
    r[3] = vcombine_f32(vget_high_f32(low.val[1]), vget_high_f32(high.val[1]));
  }
};

#include "body.h"

}  // namespace AEROGEL_SET

AEROGEL_KERNELS(AEROGEL_SET);

}  // namespace aerogel
