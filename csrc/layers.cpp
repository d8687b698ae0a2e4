#include "layers.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "threads.h"

namespace aerogel {
namespace {

enum Slot { kX, kNormed, kHidden, kGate, kY, kProjected, kMemory, kHeads, kScores, kMask, kColumns, kPartial, kAngles };

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int round_to_group(int64_t tokens) { return static_cast<int>(ceil_div(tokens, kGroup) * kGroup); }

// Wide tiles multiply more with each weight, narrow ones share the work among more threads.
int tile_width(int64_t tokens, int threads) {
  constexpr int64_t kOverhead = 12;  // what a weight costs before its first token, in tokens
  int best = kMaxWidth;
  int64_t least = INT64_MAX;
  for (int width = kMaxWidth; width > 0; width -= kGroup) {
    const int64_t cost = ceil_div(ceil_div(tokens, width), threads) * (width + kOverhead);
    if (cost < least) least = cost, best = width;
  }
  return best;
}

// A whole linear layer on one tile.
void multiply_tile(const Linear& layer, const float* x, float* y, int width) {
  for (int64_t p = 0; p < layer.matrix.panels(); p++)
    kernels().multiply(layer.matrix, p, 0, layer.matrix.blocks(), x, y + p * kPanel * width, width, layer.bias, true);
}

bool too_small(const Matrix& matrix) { return matrix.offsets[matrix.cells()] < 16384; }

void multiply_one(const Linear& layer, const float* x, float* y, int threads) {
  const Matrix& matrix = layer.matrix;
  const int64_t cells = matrix.cells(), rows = matrix.rows, all = matrix.offsets[cells];
  const int parts = too_small(matrix) ? 1 : static_cast<int>(std::min<int64_t>(threads, cells));
  float* partial = scratch(kPartial, parts * rows);
  parallel(parts, parts, [&](int64_t part) {
    // cells are shared out by non-zeros, not by number
    const int64_t* end = matrix.offsets + cells;
    const auto cut = [&](int64_t i) { return std::lower_bound(matrix.offsets, end, all * i / parts) - matrix.offsets; };
    const int64_t first = part == 0 ? 0 : cut(part), last = part + 1 == parts ? cells : cut(part + 1);
    std::memset(partial + part * rows, 0, rows * sizeof(float));
    kernels().multiply_vector(matrix, first, last, x, partial + part * rows);
  });
  for (int part = 1; part < parts; part++) kernels().add(partial + part * rows, partial, rows);
  if (layer.bias) kernels().add(layer.bias, partial, rows);
  std::memcpy(y, partial, rows * sizeof(float));
}

bool is_vector(int64_t tokens) { return tokens <= 2; }

}  // namespace

void linear(const Linear& layer, const float* x, int64_t tokens, float* y, int threads) {
  const Matrix& matrix = layer.matrix;
  if (is_vector(tokens)) {
    for (int64_t t = 0; t < tokens; t++)
      multiply_one(layer, x + t * matrix.columns, y + t * matrix.rows, threads);
    return;
  }
  const int width = tile_width(tokens, threads);
  const int64_t tiles = ceil_div(tokens, width), split = tiles < threads ? matrix.panels() : 1;
  parallel(tiles * split, threads, [&](int64_t task) {
    const int64_t start = task / split * width, some = std::min<int64_t>(width, tokens - start);
    float* tile = scratch(kX, matrix.columns * width);
    float* sums = scratch(kY, kPanel * width);
    kernels().load_tile(x + start * matrix.columns, matrix.columns, some, matrix.columns, width, tile);
    const int64_t first = split > 1 ? task % split : 0, last = split > 1 ? first + 1 : matrix.panels();
    for (int64_t p = first; p < last; p++) {
      kernels().multiply(matrix, p, 0, matrix.blocks(), tile, sums, width, layer.bias, true);
      kernels().store_tile(sums, width, some, matrix.panel_rows(p), y + start * matrix.rows + p * kPanel, matrix.rows);
    }
  });
}

void dense_vector(const float* weight, int64_t rows, int64_t columns, const float* x, float* y, int threads) {
  const int64_t some = ceil_div(rows, threads);
  parallel(threads, threads, [&](int64_t part) {
    const int64_t first = std::min(part * some, rows), last = std::min(first + some, rows);
    kernels().dense_vector(weight + first * columns, last - first, columns, x, y + first);
  });
}

namespace {

void feed_forward_one(const FeedForward& layer, const float* x, float* y, int threads) {
  const int64_t hidden = layer.up.matrix.rows, out = layer.down.matrix.rows, features = layer.up.matrix.columns;
  const Kernels& one = scalar_kernels;  // the only one whose tiles may be one token wide
  const float* normed = x;
  if (layer.before.weight) {
    float* place = scratch(kNormed, features);
    one.normalise(layer.before, x, place, features, 1);
    normed = place;
  }
  float* h = scratch(kHidden, hidden);
  multiply_one(layer.up, normed, h, threads);
  if (layer.gate.empty()) {
    kernels().activate(layer.activation, h, hidden);
  } else {
    float* g = scratch(kGate, hidden);
    multiply_one(layer.gate[0], normed, g, threads);
    kernels().activate(layer.activation, g, hidden);
    kernels().times(g, h, hidden);
  }
  float* sums = scratch(kY, out);
  multiply_one(layer.down, h, sums, threads);
  if (layer.residual) kernels().add(x, sums, out);
  if (layer.after.weight)
    one.normalise(layer.after, sums, y, out, 1);
  else
    std::memcpy(y, sums, out * sizeof(float));
}

// [x +] sums, normalised, to y.
void finish_tile(bool residual, const Norm& after, const float* tile, float* sums, int64_t features, int width,
                 int64_t some, float* y) {
  if (residual) kernels().add(tile, sums, features * width);
  if (after.weight) kernels().normalise(after, sums, sums, features, width);
  kernels().store_tile(sums, width, some, features, y, features);
}

const float* normed_tile(const Norm& before, const float* tile, int64_t features, int width) {
  if (!before.weight) return tile;
  float* normed = scratch(kNormed, features * width);
  kernels().normalise(before, tile, normed, features, width);
  return normed;
}

}  // namespace

void feed_forward(const FeedForward& layer, const float* x, int64_t tokens, float* y, int threads) {
  const Matrix &up = layer.up.matrix, &down = layer.down.matrix;
  if (is_vector(tokens)) {
    for (int64_t t = 0; t < tokens; t++)
      feed_forward_one(layer, x + t * up.columns, y + t * down.rows, threads);
    return;
  }
  const int width = tile_width(tokens, threads);
  parallel(ceil_div(tokens, width), threads, [&](int64_t task) {
    const Kernels& use = kernels();
    const int64_t start = task * width, some = std::min<int64_t>(width, tokens - start);
    float* tile = scratch(kX, up.columns * width);
    float* sums = scratch(kY, down.rows * width);
    float* h = scratch(kHidden, kPanel * width);
    float* g = layer.gate.empty() ? nullptr : scratch(kGate, kPanel * width);
    use.load_tile(x + start * up.columns, up.columns, some, up.columns, width, tile);
    const float* normed = normed_tile(layer.before, tile, up.columns, width);
    // a panel of the hidden layer feeds the blocks of `down` that read it, and is forgotten
    for (int64_t p = 0; p < up.panels(); p++) {
      const int64_t count = up.panel_rows(p) * width;
      use.multiply(up, p, 0, up.blocks(), normed, h, width, layer.up.bias, true);
      if (g) {
        use.multiply(layer.gate[0].matrix, p, 0, up.blocks(), normed, g, width, layer.gate[0].bias, true);
        use.activate(layer.activation, g, count);
        use.times(g, h, count);
      } else {
        use.activate(layer.activation, h, count);
      }
      const int64_t first = p * kPanel / down.block;
      const int64_t last = std::min(ceil_div((p + 1) * kPanel, down.block), down.blocks());
      for (int64_t q = 0; q < down.panels(); q++)
        use.multiply(down, q, first, last, h, sums + q * kPanel * width, width, layer.down.bias, p == 0);
    }
    finish_tile(layer.residual, layer.after, tile, sums, down.rows, width, some, y + start * down.rows);
  });
}

namespace {

int64_t rows_of(const std::vector<Linear>& layers) {
  int64_t rows = 0;
  for (const Linear& layer : layers) rows += layer.matrix.rows;
  return rows;
}

// Rotary angles of the tokens from `start`, each head alike.
void rotate_heads(const Attention& layer, int64_t batch, int64_t start, int64_t some, float* x, int64_t heads, int width) {
  const int64_t size = layer.head_size, at = batch * layer.angle_batch_stride + start * size;
  float* cosine = scratch(kAngles, 2 * size * width);
  float* sine = cosine + size * width;
  kernels().load_tile(layer.cosine + at, size, some, size, width, cosine);
  kernels().load_tile(layer.sine + at, size, some, size, width, sine);
  for (int64_t h = 0; h < heads; h++) kernels().rotate(x + h * size * width, cosine, sine, size / 2, width);
}

struct Sequence {
  const Attention& layer;
  int64_t batch, length, keys;
  int width, key_width;
  float *projected, *memory;  // [tile][rows][width]
  int64_t rows, memory_rows;

  int64_t tiles() const { return ceil_div(length, width); }
  int64_t key_tiles() const { return ceil_div(keys, key_width); }

  void project(const std::vector<Linear>& layers, const Norm& before, const float* x, int64_t tokens, int64_t i, int wide,
               float* out, int64_t out_rows) const {
    const int64_t features = layers[0].matrix.columns, start = i * wide, some = std::min<int64_t>(wide, tokens - start);
    float* tile = scratch(kX, features * wide);
    kernels().load_tile(x + start * features, features, some, features, wide, tile);
    const float* normed = normed_tile(before, tile, features, wide);
    out += i * out_rows * wide;
    float* row = out;
    for (const Linear& projection : layers) {
      multiply_tile(projection, normed, row, wide);
      row += projection.matrix.rows * wide;
    }
    if (layer.cosine) rotate_heads(layer, batch, start, some, out, layer.heads + layer.key_heads, wide);
  }

  // The mask of one tile of queries, [key][query].
  const float* mask_tile(int64_t start, int64_t some) const {
    if (!layer.mask && !layer.causal) return nullptr;
    float* out = scratch(kMask, keys * width);
    for (int64_t q = 0; q < width; q++) {
      const int64_t query = start + std::min(q, some - 1);
      const float* from = layer.mask ? layer.mask + batch * layer.mask_batch_stride + query * layer.mask_query_stride : nullptr;
      for (int64_t k = 0; k < keys; k++) {
        const bool hidden = layer.causal && k > query;
        out[k * width + q] = hidden ? -1e30f : from ? std::max(from[k], -1e30f) : 0.0f;
      }
    }
    return out;
  }

  void attend(int64_t i, const float* x, float* y) const {
    const Kernels& use = kernels();
    const int64_t start = i * width, some = std::min<int64_t>(width, length - start), size = layer.head_size;
    const float* queries = projected + i * rows * width;
    const float* key_source = memory ? memory : projected;
    const int64_t key_rows = memory ? memory_rows : rows, key_row = memory ? 0 : layer.heads * size;
    const float* mask = mask_tile(start, some);
    float* heads = scratch(kHeads, layer.heads * size * width);
    float* scores = scratch(kScores, key_width * width);
    float* largest = scratch(kColumns, 3 * width);
    float *total = largest + width, *correction = total + width;
    const int64_t seen = layer.causal ? std::min(keys, start + some) : keys;
    for (int64_t h = 0; h < layer.heads; h++) {
      const int64_t key_head = h / (layer.heads / layer.key_heads);
      float* out = heads + h * size * width;
      std::fill(largest, largest + width, -3e38f);
      std::fill(total, total + width, 0.0f);
      for (int64_t j = 0; j * key_width < seen; j++) {
        const int64_t some_keys = std::min<int64_t>(key_width, seen - j * key_width);
        const float* k = key_source + (j * key_rows + key_row + key_head * size) * key_width;
        const float* v = k + layer.key_heads * size * key_width;
        use.product(some_keys, size, k, 1, key_width, queries + h * size * width, scores, width, false);
        use.softmax_step(scores, some_keys, layer.scale, mask ? mask + j * key_width * width : nullptr, largest, total,
                         correction, width);
        if (j > 0) use.scale_columns(out, size, correction, width, false);
        use.product(size, some_keys, v, key_width, 1, scores, out, width, j > 0);
      }
      use.scale_columns(out, size, total, width, true);
    }
    const int64_t features = layer.out.matrix.rows;
    float* sums = scratch(kY, features * width);
    multiply_tile(layer.out, heads, sums, width);
    const float* tile = nullptr;
    if (layer.residual) {
      float* again = scratch(kX, features * width);
      use.load_tile(x + start * features, features, some, features, width, again);
      tile = again;
    }
    finish_tile(layer.residual, layer.after, tile, sums, features, width, some, y + start * features);
  }
};

}  // namespace

void attention(const Attention& layer, const float* x, const float* memory, int64_t batch, int64_t length,
               int64_t memory_length, float* y, int threads) {
  const int64_t rows = rows_of(layer.from_x), memory_rows = rows_of(layer.from_memory);
  const int64_t features = layer.from_x[0].matrix.columns, out_features = layer.out.matrix.rows;
  const int64_t memory_features = memory ? layer.from_memory[0].matrix.columns : 0;
  // enough sequences keep every thread in its own cache; a few are cut into tiles that all threads share
  const int outer = batch >= threads ? threads : 1, inner = batch >= threads ? 1 : threads;
  const auto width_for = [&](int64_t tokens) {
    return inner > 1 ? tile_width(tokens, inner) : round_to_group(ceil_div(tokens, ceil_div(tokens, kMaxWidth)));
  };
  const int width = width_for(length), key_width = memory ? width_for(memory_length) : width;
  parallel(batch, outer, [&](int64_t b) {
    Sequence s{layer, b, length, memory ? memory_length : length, width, key_width, nullptr, nullptr, rows, memory_rows};
    s.projected = scratch(kProjected, s.tiles() * rows * width);
    const float* own = x + b * length * features;
    parallel(s.tiles(), inner, [&](int64_t i) {
      s.project(layer.from_x, layer.before, own, length, i, width, s.projected, rows);
    });
    if (memory) {
      s.memory = scratch(kMemory, s.key_tiles() * memory_rows * key_width);
      parallel(s.key_tiles(), inner, [&](int64_t i) {
        s.project(layer.from_memory, Norm{}, memory + b * memory_length * memory_features, memory_length, i, key_width,
                  s.memory, memory_rows);
      });
    }
    parallel(s.tiles(), inner, [&](int64_t i) { s.attend(i, own, y + b * length * out_features); });
  });
}

}  // namespace aerogel
