// The number types of a packed weight's values, apart from where its non-zeros lie. A new type needs a trait and a case here,
// `Vector::four` in each instruction set if it is a float or `Vector::quad` if it is an integer, and an entry in
// src/aerogel/runtime/values.py.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "compiler.h"

namespace aerogel {

enum class ValueType : int { float32 = 0, float16 = 1, bfloat16 = 2, int8 = 3 };  // the numbers of docs/format.md

// A trait: how a value is stored, its conversion from and to float, and the number of neighbouring columns that are
// stored together. The functions are always inlined: a copy that was compiled for one instruction set must not be linked
// into another.
struct Float32 {
  using Stored = float;
  static constexpr int64_t kUnit = 1;
  AEROGEL_INLINE static float decode(Stored value) { return value; }
  AEROGEL_INLINE static Stored encode(float value) { return value; }
};

struct Float16 {  // in checkpoints alone: kernels get these values as float32, which holds them exactly
  using Stored = uint16_t;
  static constexpr int64_t kUnit = 1;
};

struct BFloat16 {  // the upper half of a float32
  using Stored = uint16_t;
  static constexpr int64_t kUnit = 1;
  AEROGEL_INLINE static float decode(Stored value) { return std::bit_cast<float>(uint32_t{value} << 16); }
  AEROGEL_INLINE static Stored encode(float value) {
    return static_cast<Stored>(std::bit_cast<uint32_t>(value) >> 16);
  }
};

struct Int8 {  // an integer, times the scale of its row; the dot product of four is one instruction
  using Stored = int8_t;
  static constexpr int64_t kUnit = 4;
  AEROGEL_INLINE static float decode(Stored value) { return value; }
  AEROGEL_INLINE static Stored encode(float value) { return static_cast<Stored>(value); }
};

// Eight bits: for each that is set how many are set below, for the others 128. With these, table look-ups of bytes expand
// integers under a bit mask, and put 0 between them.
inline constexpr auto kPlaces = [] {
  std::array<uint64_t, 256> places{};
  for (uint64_t bits = 0; bits < 256; bits++)
    for (uint64_t i = 0, place = 0; i < 8; i++) places[bits] |= (bits >> i & 1 ? place++ : 128) << 8 * i;
  return places;
}();

// Calls f with the trait of a float type that kernels read.
template <class F>
AEROGEL_INLINE void with_floats(ValueType type, F&& f) {
  if (type == ValueType::float32) f(Float32{});
  if (type == ValueType::bfloat16) f(BFloat16{});
}

// Calls f with the trait of a type that kernels read.
template <class F>
AEROGEL_INLINE void with_values(ValueType type, F&& f) {
  if (type == ValueType::int8) f(Int8{});
  with_floats(type, f);
}

// Calls f with the trait of any type.
template <class F>
AEROGEL_INLINE void with_stored(ValueType type, F&& f) {
  if (type == ValueType::float16) f(Float16{});
  with_values(type, f);
}

}  // namespace aerogel
