// 64-bit ARM, which always has NEON.
#include <arm_neon.h>

#include "kernel.h"

namespace aerogel {
namespace neon {

struct Vector {
  using Reg = float32x4_t;
  static constexpr int kLanes = 4, kRowsAtOnce = 5, kRegsAtOnce = 4;
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
  static void transpose(Reg (&r)[4]) {
    const float32x4x2_t low = vtrnq_f32(r[0], r[1]), high = vtrnq_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(low.val[0]), vget_low_f32(high.val[0]));
    r[1] = vcombine_f32(vget_low_f32(low.val[1]), vget_low_f32(high.val[1]));
    r[2] = vcombine_f32(vget_high_f32(low.val[0]), vget_high_f32(high.val[0]));
    r[3] = vcombine_f32(vget_high_f32(low.val[1]), vget_high_f32(high.val[1]));
  }
};

#include "body.h"

}  // namespace neon

constinit const Kernels neon_kernels = neon::table("neon");

}  // namespace aerogel
