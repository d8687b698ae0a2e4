// The kernels, written once for any vector type. A translation unit defines `Vector` for its instruction set in a
// namespace of its own, includes this file there, and fills a table of `Kernels`.

// No include guards: each instruction set compiles its own copy. kernel.h includes the standard headers, outside of it.

using Reg = Vector::Reg;
constexpr int kLanes = Vector::kLanes;
constexpr int kPerGroup = kGroup / kLanes;  // registers to hold 16 tokens

// Calls f<registers>() for the registers that a row of a tile fills.
template <class F>
AEROGEL_INLINE void with_width(int width, F&& f) {
  switch (width / kGroup) {
    case 1: return f.template operator()<1 * kPerGroup>();
    case 2: return f.template operator()<2 * kPerGroup>();
    case 3: return f.template operator()<3 * kPerGroup>();
    default: return f.template operator()<4 * kPerGroup>();
  }
}

// Calls f(weight, place) for four weights and their places in a cell. Loads are the bottleneck of the products: this needs
// one for the weights, and one for the places.
template <class F>
AEROGEL_INLINE void with_four(const Vector::Four& weights, const uint8_t* index, F&& f) {
  uint32_t places;
  std::memcpy(&places, index, sizeof places);
  f(Vector::template pick<0>(weights), places & 255);
  f(Vector::template pick<1>(weights), places >> 8 & 255);
  f(Vector::template pick<2>(weights), places >> 16 & 255);
  f(Vector::template pick<3>(weights), places >> 24);
}

#include "body_elementwise.h"
#include "body_int8.h"
#include "body_bitmask.h"
#include "body_linear.h"
#include "body_attention.h"

constexpr Kernels table(const char* name) {
  return {.name = name, .load_tile = load_tile, .store_tile = store_tile,
          .quantize = quantize, .quantize_activated = quantize_activated, .quantize_token = quantize_token,
          .multiply_group = multiply_group, .multiply_vector = multiply_vector,
          .multiply_masked = multiply_masked, .count_mask = count_mask, .expand_quads = expand_quads, .dense_vector = dense_vector,
          .finite = finite, .activate = activate, .add = add, .times = times, .normalise = normalise,
          .apply_rotary = apply_rotary, .has_pairs = Vector::kHasPairs, .product = product, .pair_rows = pair_rows<>,
          .pair_columns = pair_columns<>, .softmax_step = softmax_step, .attend_token = attend_token,
          .scale_columns = scale_columns};
}
