// The number types of a packed weight's values, apart from where its non-zeros lie. A new type needs a trait and a case here,
// `Vector::four` in each instruction set, and an entry in src/aerogel/runtime/values.py.
#pragma once

#include <bit>
#include <cstdint>

namespace aerogel {

enum class ValueType : int { float32 = 0, float16 = 1, bfloat16 = 2 };  // the numbers of docs/format.md

// A trait: how a value is stored, and its conversion from and to the float that the kernels compute with. The functions
// are always inlined: a copy that was compiled for one instruction set must not be linked into another.
struct Float32 {
  using Stored = float;
  [[gnu::always_inline]] static float decode(Stored value) { return value; }
  [[gnu::always_inline]] static Stored encode(float value) { return value; }
};

struct Float16 {  // in checkpoints alone: kernels get these values as float32, which holds them exactly
  using Stored = uint16_t;
};

struct BFloat16 {  // the upper half of a float32
  using Stored = uint16_t;
  [[gnu::always_inline]] static float decode(Stored value) { return std::bit_cast<float>(uint32_t{value} << 16); }
  [[gnu::always_inline]] static Stored encode(float value) {
    return static_cast<Stored>(std::bit_cast<uint32_t>(value) >> 16);
  }
};

// Calls f with the trait of a type that kernels read.
template <class F>
[[gnu::always_inline]] inline void with_values(ValueType type, F&& f) {
  if (type == ValueType::float32) f(Float32{});
  if (type == ValueType::bfloat16) f(BFloat16{});
}

// Calls f with the trait of any type.
template <class F>
[[gnu::always_inline]] inline void with_stored(ValueType type, F&& f) {
  if (type == ValueType::float16) f(Float16{});
  with_values(type, f);
}

}  // namespace aerogel
