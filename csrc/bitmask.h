// Layers under a bit mask: their part of one token's work, and their quads for many tokens.
#pragma once

#include <memory>

#include "tiles.h"

namespace aerogel {

inline bool is_masked(const Linear& layer) { return layer.matrix.mask.bits; }

// What is read of a weight for one token, in non-zeros of cells.
int64_t reads(const Matrix& matrix);
// One token times the rows whose first read is in this range; rows under a bit mask are finished, see `multiply_vector`.
void multiply_range(const Linear& layer, Range range, const Input& x, float* y);

// y[token][row] = the same rows, all under a bit mask, of several tokens.
void multiply_masked_range(const Linear& layer, Range range, const Quads* x, int64_t tokens, float* y, int64_t stride);

// Layers with quads in place of bit masks, as long as this exists: others stay what they are.
class Expanded {
 public:
  explicit Expanded(int threads) : threads_(threads) {}
  Linear operator()(const Linear& layer);
  std::vector<Linear> operator()(const std::vector<Linear>& layers);
  FeedForward operator()(FeedForward layer);
  Attention operator()(Attention layer);

 private:
  template <class T>
  T* memory(int64_t count);

  int threads_;
  std::vector<std::unique_ptr<std::byte[]>> memory_;
};

}  // namespace aerogel
