// The kernels, written once for any vector type. A translation unit defines `Vector` for its instruction set in a
// namespace of its own, includes this file there, and fills a table of `Kernels`.

// No include guards: each instruction set compiles its own copy. kernel.h includes the standard headers, outside of it.

using Reg = Vector::Reg;
constexpr int kLanes = Vector::kLanes;
constexpr int kPerGroup = kGroup / kLanes;  // registers to hold 16 tokens

#include "body_elementwise.h"
#include "body_int8.h"
#include "body_linear.h"
#include "body_attention.h"

constexpr Kernels table(const char* name) {
  return {.name = name, .load_tile = load_tile, .store_tile = store_tile, .quantise = quantise,
          .quantise_token = quantise_token, .multiply_group = multiply_group, .multiply_vector = multiply_vector,
          .dense_vector = dense_vector, .finite = finite, .activate = activate, .add = add, .times = times,
          .normalise = normalise, .apply_rotary = apply_rotary, .product = product, .softmax_step = softmax_step,
          .scale_columns = scale_columns};
}
