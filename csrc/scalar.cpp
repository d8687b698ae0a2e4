// Any CPU. Also the reference for tests of the other instruction sets.
#include "kernel.h"

namespace aerogel {
namespace scalar {

struct Vector {
  using Reg = float;
  static constexpr int kSums = 4;  // of a product, in registers
  static constexpr int kLanes = 1, kSumsOfProduct = 1, kRegsOfProduct = 1;
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

  static constexpr bool kHasPairs = false, kCompresses = false;
  using Int = int32_t;
  static constexpr int kOffset = 0;
  static Int load_int(const int32_t* p) { return *p; }
  static void store_int(int32_t* p, Int a) { *p = a; }
  static Int set_int(int32_t a) { return a; }
  static Int add_int(Int a, Int b) { return a + b; }
  static int32_t total(Int a) { return a; }
  static Int subtract_int(Int a, Int b) { return a - b; }
  // wraps around, as the others do: the zero point of a token that is not finite means nothing
  static Int multiply_int(Int a, Int b) { return static_cast<Int>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b)); }
  static Int to_int(Reg a) { return static_cast<Int>(std::nearbyint(a)); }
  static Reg to_float(Int a) { return static_cast<Reg>(a); }
  static Int bits(Reg a) { return std::bit_cast<Int>(a); }
  static void store_bytes(uint8_t* p, const Int (&a)[4]) {
    for (int i = 0; i < 4; i++) p[i] = static_cast<uint8_t>(a[i]);
  }
  static void store_low_bytes(uint8_t* p, Int a) { *p = static_cast<uint8_t>(a); }
  static Int load_quads(const void* p) {
    Int quad;
    std::memcpy(&quad, p, sizeof quad);
    return quad;
  }
  static Int gather_quads(const uint8_t* x, const uint8_t* index) { return load_quads(x + 4 * *index); }
  static Int expand(uint64_t bits, uint64_t, const int8_t* p, int part) {
    p += std::popcount(bits & ((uint64_t{1} << 4 * part) - 1));
    uint32_t quad = 0;
    for (int i = 0; i < 4; i++)
      if (bits >> (4 * part + i) & 1) quad |= uint32_t{static_cast<uint8_t>(*p++)} << 8 * i;
    return std::bit_cast<Int>(quad);
  }
  using Factors = Int;
  static Factors factors(Int quads) { return quads; }
  static Int dot(Int sum, Int x, Factors w) {
    for (int shift = 0; shift < 32; shift += 8) sum += static_cast<uint8_t>(x >> shift) * static_cast<int8_t>(w >> shift);
    return sum;
  }
};

#include "body.h"

}  // namespace scalar

AEROGEL_KERNELS(scalar);

}  // namespace aerogel
