// The terms of disentangled attention: what queries and keys get for how far they are apart.
#pragma once

#include "tiles.h"

namespace aerogel {

// `RelativePositions` as tiles [heads x depth][width], or null; with `pairs`, of pairs of bfloat16.
struct RelativeTiles {
  const float *keys, *queries;
  int64_t tokens, depth, width;
  bool pairs;

  bool any() const { return keys || queries; }
};

// One head of `count` tokens, from `first` on, in a tile.
struct HeadTile {
  const float* x;  // [depth][width]
  int64_t first, count;
  int width;
};

// In buffers of the thread.
RelativeTiles relative_tiles(const Attention& layer, const Sequences& sequences, bool pairs);

// scores[key][query].
void relative_scores(const RelativeTiles& tiles, int64_t head, const HeadTile& queries, const HeadTile& keys, float* scores);

}  // namespace aerogel
