// Layers under a bit mask: their part of one token's work, and their quads for many tokens.
#pragma once

#include <memory>

#include "layers.h"

namespace aerogel {

// The time to read a weight, in that of reading a non-zero of cells.
int64_t reads(const Matrix& matrix);
// The chunks of a bit mask whose first read is in this range of `reads`.
Range chunks_in(const Matrix& matrix, Range reads);

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
