// Any CPU. Also the reference for tests of the other instruction sets.
#include "kernel.h"

namespace aerogel {
namespace scalar {

struct Vector {
  using Reg = float;
  static constexpr int kLanes = 1, kRowsAtOnce = 1, kRegsAtOnce = 1;
  static Reg load(const float* p) { return *p; }
  static void store(float* p, Reg a) { *p = a; }
  static Reg set(float a) { return a; }
  struct Four {
    float at[4];
  };
  static Four four(Float32, const float* p) { return {p[0], p[1], p[2], p[3]}; }
  static Four four(BFloat16, const uint16_t* p) {
    Four result;
    for (int i = 0; i < 4; i++) result.at[i] = BFloat16::decode(p[i]);
    return result;
  }
  template <int kLane>
  static Reg pick(Four a) {
    return a.at[kLane];
  }
  static Reg fma(Reg a, Reg b, Reg c) { return a * b + c; }
  static Reg add(Reg a, Reg b) { return a + b; }
  static Reg subtract(Reg a, Reg b) { return a - b; }
  static Reg multiply(Reg a, Reg b) { return a * b; }
  static Reg divide(Reg a, Reg b) { return a / b; }
  static Reg square_root(Reg a) { return std::sqrt(a); }
  // as on x86: the second operand where either is NaN
  static Reg max(Reg a, Reg b) { return a > b ? a : b; }
  static Reg min(Reg a, Reg b) { return a < b ? a : b; }
  static Reg round(Reg a) { return std::nearbyint(a); }
  static Reg times_power_of_two(Reg a, Reg n) { return std::ldexp(a, static_cast<int>(n)); }
  static Reg zero_where_below(Reg a, Reg x, float limit) { return x < limit ? 0.0f : a; }
  static void transpose(Reg (&)[1]) {}
};

#include "body.h"

}  // namespace scalar

constinit const Kernels scalar_kernels = scalar::table("scalar");

}  // namespace aerogel
