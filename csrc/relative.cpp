#include "relative.h"

namespace aerogel {
namespace {

// out[i][j - i + count - 1] = token i of `one` times the row of `table` for each token j of `other`.
void relative_products(const RelativeTiles& tiles, const float* table, const HeadTile& one, const HeadTile& other, float* out,
                       int64_t stride) {
  const float* start = table + tiles.tokens + other.first - one.first - one.count;
  for (int64_t i = 0; i < one.count; i += kGroup) {
    const int64_t rows = std::min<int64_t>(kGroup, one.count - i), first = one.count - i - rows;
    const int width = static_cast<int>(ceil_div(other.width + rows - 1, kGroup) * kGroup);
    kernels().product({.pairs = tiles.pairs, .rows = rows, .depth = tiles.depth, .a = one.x + i, .row_stride = 1,
                       .depth_stride = one.width, .b = start + first, .b_stride = tiles.width, .out = out + first + i * stride,
                       .out_stride = stride, .width = width, .accumulate = false});
  }
}

}  // namespace

RelativeTiles relative_tiles(const Attention& layer, const Sequences& sequences, bool pairs) {
  const int64_t rows = layer.heads * layer.head_size, positions = 2 * sequences.length - 1;
  // the products read up to two tiles past the last position, for tokens past the end of their tiles
  const int width = static_cast<int>(ceil_div(positions, kGroup) * kGroup + 2 * kMaxWidth + kGroup);
  const auto tile = [&](const float* x, Slot slot) -> const float* {
    if (!x) return nullptr;
    float* out = scratch(slot, rows * width);
    kernels().load_tile({.x = x, .stride = rows, .count = positions, .features = rows}, width, out);
    if (pairs) kernels().pair_rows(out, rows, width);
    return out;
  };
  const auto [keys, queries] = sequences.relative;
  return {.keys = tile(keys, kRelativeKeys), .queries = tile(queries, kRelativeQueries), .tokens = sequences.length,
          .depth = layer.head_size / (pairs ? 2 : 1), .width = width, .pairs = pairs};
}

void relative_scores(const RelativeTiles& tiles, int64_t head, const HeadTile& queries, const HeadTile& keys, float* scores) {
  const int64_t stride = queries.width + keys.width + kGroup, row = head * tiles.depth * tiles.width;
  float* out = scratch(kRelative, std::max(queries.width, keys.width) * stride);
  if (tiles.keys) {
    relative_products(tiles, tiles.keys + row, queries, keys, out, stride);
    // each row begins one further to the left, and loading a tile transposes
    kernels().load_tile({.x = out + queries.count - 1, .stride = stride - 1, .count = queries.count, .features = keys.count},
                        queries.width, scores);
  } else {
    std::fill(scores, scores + keys.count * queries.width, 0.0f);
  }
  if (!tiles.queries) return;
  relative_products(tiles, tiles.queries + row, keys, queries, out, stride);
  for (int64_t i = 0; i < keys.count; i++)
    kernels().add(out + keys.count - 1 + i * (stride - 1), scores + i * queries.width, queries.width);
}

}  // namespace aerogel
