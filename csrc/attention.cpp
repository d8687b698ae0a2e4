#include <limits>
#include <optional>

#include "bitmask.h"
#include "relative.h"

namespace aerogel {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Linear layers on the tokens of one sequence, their results in tiles.
struct Projection {
  const std::vector<Linear>& layers;
  const float* x;  // [tokens][features]
  int64_t tokens, rows;
  int width;
  float* tiles;  // [tile][features + rows][width]: the tokens' own features, then the results

  int64_t count() const { return ceil_div(tokens, width); }
  int64_t features() const { return layers[0].matrix.cells.columns; }
  float* source(int64_t i) const { return tiles + i * (features() + rows) * width; }
  float* tile(int64_t i) const { return source(i) + features() * width; }
  Tokens<const float> tile_tokens(int64_t i) const { return tokens_of_tile(x, tokens, features(), width, i); }

  void compute(const Norm& before, int64_t i) const {
    kernels().load_tile(tile_tokens(i), width, source(i));
    const float* normed = normed_tile(before, source(i), features(), width);
    const Input input = input_of(normed, features(), width, any_int8(layers));
    float* row = tile(i);
    for (const Linear& layer : layers) {
      multiply_tile(layer, input, row, width);
      row += layer.matrix.cells.rows * width;
    }
  }
};

struct Sequence {
  const Attention& layer;
  const FeedForward* next;
  const Sequences& sequences;
  const RelativeTiles& relative;
  int64_t batch;
  const Projection &own, &keys;  // keys and values are from `own` where there is no encoder
  int64_t key_row;               // the first of keys in a tile; values follow
  bool pairs;                    // queries, keys, values and the softmax are pairs of bfloat16

  // Normalises the queries of one tile, or its keys.
  void normalise_queries(int64_t i) const { normalise_tile(layer.query_norm, layer.heads, own.tile(i), own.width); }
  void normalise_keys(int64_t i) const {
    normalise_tile(layer.key_norm, layer.key_heads, keys.tile(i) + key_row * keys.width, keys.width);
  }
  void normalise_tile(const Norm& norm, int64_t heads, float* head, int width) const {
    for (int64_t h = 0; norm.weight && h < heads; h++, head += layer.head_size * width)
      kernels().normalise(norm, head, nullptr, head, layer.head_size, width);
  }

  // Rotates the queries and keys of one tile.
  void rotate_tile(int64_t i) const {
    const int64_t size = layer.head_size, offset = batch * sequences.rotary.batch_stride;
    float* cosine = scratch(kAngles, 2 * size * own.width);
    float* sine = cosine + size * own.width;
    const auto [cosines, sines] = sequences.rotary.angles;
    kernels().load_tile(tokens_of_tile(cosines + offset, own.tokens, size, own.width, i), own.width, cosine);
    kernels().load_tile(tokens_of_tile(sines + offset, own.tokens, size, own.width, i), own.width, sine);
    for (int64_t h = 0; h < layer.heads + layer.key_heads; h++)
      kernels().apply_rotary({.cosine = cosine, .sine = sine}, own.tile(i) + h * size * own.width, size / 2, own.width);
  }

  // Rounds the queries of one tile, or its keys and values.
  void pair_queries(int64_t i) const {
    for (int64_t h = 0; h < layer.heads; h++)
      kernels().pair_rows(own.tile(i) + h * layer.head_size * own.width, layer.head_size, own.width);
  }
  void pair_keys(int64_t i) const {
    const int64_t size = layer.head_size * keys.width;
    float* key = keys.tile(i) + key_row * keys.width;
    for (int64_t h = 0; h < layer.key_heads; h++, key += size) kernels().pair_rows(key, layer.head_size, keys.width);
    for (int64_t h = 0; h < layer.key_heads; h++, key += size) kernels().pair_columns(key, layer.head_size, keys.width);
  }

  // The mask of one tile of queries, [key][query].
  const float* mask_tile(int64_t start, int64_t some) const {
    const Mask& mask = sequences.mask;
    if (!mask.values && !layer.causal) return nullptr;
    const int64_t width = own.width;
    float* out = scratch(kMask, keys.tokens * width);
    for (int64_t q = 0; q < width; q++) {
      const int64_t query = start + std::min(q, some - 1);
      const float* from = mask.values ? mask.values + batch * mask.batch_stride + query * mask.query_stride : nullptr;
      for (int64_t k = 0; k < keys.tokens; k++) {
        const bool hidden = layer.causal && k > query;
        out[k * width + q] = hidden ? -kInfinity : from ? from[k] : 0.0f;
      }
    }
    return out;
  }

  // What is added to the scores of one head, [key][query]: the bias of positions, and the mask of these keys.
  const float* bias_tile(int64_t head, const HeadTile& q, const HeadTile& k, const float* mask) const {
    const PositionBias& bias = sequences.position_bias;
    if (!bias.values) return mask;
    const int64_t row = head * own.tokens + q.first;
    const float* from = bias.values + batch * bias.batch_stride + row * keys.tokens + k.first;
    float* out = scratch(kBias, keys.width * own.width);
    kernels().load_tile({.x = from, .stride = keys.tokens, .count = q.count, .features = k.count}, own.width, out);
    if (mask) kernels().add(mask, out, k.count * own.width);
    // that of the next head comes from memory while this one is computed
    for (int64_t i = 0; head + 1 < layer.heads && i < q.count; i++) {
      const float* next = from + (own.tokens + i) * keys.tokens;
      for (int64_t j = 0; j < k.count; j += 16) prefetch(next + j);
    }
    return out;
  }

  // One head of one tile of queries over the first `visible` keys. The result [head_size][width] replaces the queries.
  void attend_head(int64_t head, int64_t tile, const float* mask, int64_t visible) const {
    const Kernels& use = kernels();
    const int64_t size = layer.head_size, key_head = head / (layer.heads / layer.key_heads);
    const int width = own.width, key_width = keys.width;
    const int64_t first = tile * width, count = std::min<int64_t>(width, own.tokens - first);
    float* queries = own.tile(tile) + head * size * width;
    const HeadTile head_queries{.x = queries, .first = first, .count = count, .width = width};
    float* scores = scratch(kScores, key_width * width);
    float* out = scratch(kHead, size * width);
    float* largest = scratch(kColumns, 3 * width);
    float *total = largest + width, *correction = total + width;
    std::fill(largest, largest + width, -kInfinity);
    std::fill(total, total + width, 0.0f);
    for (int64_t j = 0; j * key_width < visible; j++) {
      const int64_t some = std::min<int64_t>(key_width, visible - j * key_width);
      const float* k = keys.tile(j) + (key_row + key_head * size) * key_width;
      const float* v = k + layer.key_heads * size * key_width;
      const int64_t each = pairs ? 2 : 1, even = ceil_div(some, 2) * 2;
      const HeadTile head_keys{.x = k, .first = j * key_width, .count = some, .width = key_width};
      if (relative.any()) relative_scores(relative, head, head_queries, head_keys, scores);
      use.product({.pairs = pairs, .rows = some, .depth = size / each, .a = k, .row_stride = 1, .depth_stride = key_width,
                   .b = queries, .b_stride = width, .out = scores, .out_stride = width, .width = width,
                   .accumulate = relative.any()});
      const float* key_mask = mask ? mask + j * key_width * width : nullptr;
      use.softmax_step({.scores = scores, .keys = some, .scale = layer.scale,
                        .mask = bias_tile(head, head_queries, head_keys, key_mask),
                        .largest = largest, .total = total, .correction = correction, .width = width});
      if (j > 0) use.scale_columns(out, out, size, correction, width, false);
      if (pairs) {
        std::fill(scores + some * width, scores + even * width, 0.0f);
        use.pair_rows(scores, even, width);
      }
      use.product({.pairs = pairs, .rows = size, .depth = pairs ? even / 2 : some, .a = v, .row_stride = key_width / each,
                   .depth_stride = 1, .b = scores, .b_stride = width, .out = out, .out_stride = width, .width = width,
                   .accumulate = j > 0});
    }
    for (int w = 0; w < width; w++)
      if (largest[w] == -kInfinity) total[w] = kInfinity;  // no key is visible: zeros, as torch's attention gives
    use.scale_columns(out, queries, size, total, width, true);
  }

  void attend(int64_t i, float* y) const {
    const Kernels& use = kernels();
    const int width = own.width;
    const Tokens<const float> x = own.tile_tokens(i);
    const int64_t start = i * width, size = layer.head_size, features = layer.out.matrix.cells.rows;
    const int64_t visible = layer.causal ? std::min(keys.tokens, start + x.count) : keys.tokens;
    const float* mask = mask_tile(start, x.count);
    float* heads = own.tile(i);
    for (int64_t h = 0; h < layer.heads; h++) attend_head(h, i, mask, visible);
    float* sums = scratch(kY, features * width);
    multiply_tile(layer.out, input_of(heads, layer.heads * size, width, is_int8(layer.out)), sums, width);
    float* tile = own.source(i);
    finish_tile(layer.branch, layer.after, tile, sums, features, width);
    if (next) {
      feed_forward_tile(*next, sums, tile, width);  // x is no longer needed
      std::swap(tile, sums);
    }
    use.store_tile(sums, width, tokens_of_tile(y, own.tokens, features, width, i));
  }
};

// Whether the feed-forward layers can use the tiles of attention, which end with each sequence. Tiles of their own would
// be wider over short sequences, or fewer.
bool may_share_tiles(int64_t batch, int64_t length, int width, int threads) {
  const int64_t tokens = batch * length;
  if (is_vector(tokens)) return false;
  const int own = tile_width(tokens, threads);
  return cost_of(batch * ceil_div(length, width), width, threads) <= 1.05 * cost_of(ceil_div(tokens, own), own, threads);
}

}  // namespace

void normalise_heads(const Norm& norm, const Heads& heads, float* x) {
  for (int64_t t = 0; t < heads.batch * heads.length; t++, x += heads.features) {
    for (int64_t h = 0; h < heads.count; h++) {
      float* head = x + h * heads.size;
      scalar_kernels.normalise(norm, head, nullptr, head, heads.size, 1);
    }
  }
}

void apply_rotary(const Rotary& rotary, const Heads& heads, float* x) {
  const int64_t half = heads.size / 2;
  for (int64_t b = 0; b < heads.batch; b++) {
    for (int64_t t = 0; t < heads.length; t++, x += heads.features) {
      const int64_t offset = b * rotary.batch_stride + t * heads.size;
      const float *cosine = rotary.angles.cosine + offset, *sine = rotary.angles.sine + offset;
      for (int64_t h = 0; h < heads.count; h++) {
        float* first = x + h * heads.size;
        float* second = first + half;
        for (int64_t i = 0; i < half; i++) {
          const float one = first[i], other = second[i];
          first[i] = one * cosine[i] - other * sine[i];
          second[i] = other * cosine[half + i] + one * sine[half + i];
        }
      }
    }
  }
}

void attention(const Attention& packed, const FeedForward* next, const Sequences& sequences, float* y, int threads) {
  Expanded expanded(threads);
  const Attention layer = expanded(packed);
  const int64_t batch = sequences.batch, length = sequences.length;
  // enough sequences keep every thread in its own cache; a few are cut into tiles that all threads share
  const int outer = batch >= threads ? threads : 1, inner = batch >= threads ? 1 : threads;
  const auto width_for = [&](int64_t tokens) {
    const int64_t even = ceil_div(tokens, ceil_div(tokens, kMaxWidth));
    return inner > 1 ? tile_width(tokens, inner) : static_cast<int>(ceil_div(even, kGroup) * kGroup);
  };
  // of one of [batch][tokens][features]
  const auto projection = [&](const std::vector<Linear>& layers, const float* x, int64_t sequence, int64_t tokens, Slot slot) {
    const int64_t rows = rows_of(layers), features = layers[0].matrix.cells.columns;
    const int width = width_for(tokens);
    float* tiles = scratch(slot, ceil_div(tokens, width) * (features + rows) * width);
    return Projection{.layers = layers, .x = x + sequence * tokens * features, .tokens = tokens, .rows = rows,
                      .width = width, .tiles = tiles};
  };
  std::optional<FeedForward> next_expanded;
  if (next && may_share_tiles(batch, length, width_for(length), threads)) next_expanded = expanded(*next);
  const FeedForward* at_once = next_expanded ? &*next_expanded : nullptr;
  // values of int8 ask for less than float32
  const bool pairs = is_int8(layer.out) && kernels().has_pairs && layer.head_size % 2 == 0;
  const RelativeTiles relative = relative_tiles(layer, sequences, pairs);
  parallel(batch, outer, [&](int64_t b) {
    const float* encoder = sequences.encoder_hidden_states;
    const Projection own = projection(layer.from_x, sequences.x, b, length, kProjected);
    const Projection keys =
        encoder ? projection(layer.from_encoder, encoder, b, sequences.encoder_length, kEncoder) : own;
    const Sequence sequence{.layer = layer, .next = at_once, .sequences = sequences, .relative = relative, .batch = b, .own = own,
                            .keys = keys, .key_row = encoder ? 0 : layer.heads * layer.head_size, .pairs = pairs};
    parallel(own.count(), inner, [&](int64_t i) {
      own.compute(layer.before, i);
      sequence.normalise_queries(i);
      if (!encoder) sequence.normalise_keys(i);
      if (sequences.rotary.angles.cosine) sequence.rotate_tile(i);
      if (pairs) sequence.pair_queries(i);
      if (pairs && !encoder) sequence.pair_keys(i);
    });
    if (encoder) {
      parallel(keys.count(), inner, [&](int64_t i) {
        keys.compute(Norm{}, i);
        sequence.normalise_keys(i);
        if (pairs) sequence.pair_keys(i);
      });
    }
    float* result = y + b * length * layer.out.matrix.cells.rows;
    parallel(own.count(), inner, [&](int64_t i) { sequence.attend(i, result); });
  });
  if (next && !at_once) feed_forward(*next, y, batch * length, y, threads);  // each tile of y is read before it is written
}

}  // namespace aerogel
