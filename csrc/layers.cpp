#include "layers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "threads.h"

namespace aerogel {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

enum Slot { kX, kNormed, kHidden, kGate, kY, kProjected, kMemory, kHeads, kScores, kMask, kColumns, kPartial, kAngles };

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int round_to_group(int64_t tokens) { return static_cast<int>(ceil_div(tokens, kGroup) * kGroup); }

constexpr int64_t kOverhead = 12;  // what a weight costs before its first token, in tokens

// How long `tiles` take that the threads share, in tokens.
int64_t cost_of(int64_t tiles, int width, int threads) { return ceil_div(tiles, threads) * (width + kOverhead); }

// Wide tiles multiply more with each weight, narrow ones share the work among more threads.
int tile_width(int64_t tokens, int threads) {
  int best = kMaxWidth;
  int64_t least = INT64_MAX;
  for (int width = kMaxWidth; width > 0; width -= kGroup) {
    const int64_t cost = cost_of(ceil_div(tokens, width), width, threads);
    if (cost < least) least = cost, best = width;
  }
  return best;
}

// A whole linear layer on one tile.
void multiply_tile(const Linear& layer, const float* x, float* y, int width) {
  for (int64_t p = 0; p < layer.matrix.panels(); p++)
    kernels().multiply(layer.matrix, p, 0, layer.matrix.blocks(), x, y + p * kPanel * width, width, layer.bias, true);
}

// A dense product has 0 x inf and 0 x NaN in every row whose weight is 0 there, and is not a number then; the sparse one
// passed those over. Puts it right for one token and one panel: x[column * step], y[row of the panel * y_step].
void carry_non_finite(const Matrix& matrix, int64_t panel, const float* x, int64_t step, float* y, int64_t y_step) {
  std::vector<bool> bad(matrix.columns);
  int64_t bad_columns = 0;
  for (int64_t c = 0; c < matrix.columns; c++) bad_columns += bad[c] = !std::isfinite(x[c * step]);
  if (bad_columns == 0) return;
  std::vector<int64_t> met(matrix.panel_rows(panel), 0);
  for (int64_t b = 0; b < matrix.blocks(); b++) {
    const uint16_t* order = matrix.cell_order(panel, b);
    const uint8_t* index = matrix.index + matrix.offsets[panel * matrix.blocks() + b];
    for (size_t i = 0; i < met.size(); i++)
      for (int64_t j = 0; j < order[2 * i + 1]; j++) met[order[2 * i]] += bad[b * matrix.block + *index++];
  }
  for (size_t row = 0; row < met.size(); row++)
    if (met[row] < bad_columns) y[row * y_step] = std::numeric_limits<float>::quiet_NaN();
}

// One token through layers that share it, y their rows one after another. The non-zeros are shared out evenly, cut inside
// cells where need be; each thread sums into an array of its own, since a row's cells may fall to several.
void multiply_one(const std::vector<const Linear*>& layers, const float* x, float* y, int threads) {
  int64_t rows = 0, all = 0;
  for (const Linear* layer : layers) {
    rows += layer->matrix.rows;
    all += layer->matrix.non_zeros();
  }
  constexpr int64_t kWorthAThread = 8192;
  const int parts = static_cast<int>(std::clamp<int64_t>(all / kWorthAThread, 1, threads));
  float* partial = scratch(kPartial, parts * rows);
  parallel(parts, parts, [&](int64_t part) {
    float* sums = partial + part * rows;
    std::memset(sums, 0, rows * sizeof(float));
    int64_t first = all * part / parts, last = all * (part + 1) / parts;
    for (const Linear* layer : layers) {
      const int64_t own = layer->matrix.non_zeros();
      if (first < own && last > 0) kernels().multiply_vector(layer->matrix, std::max<int64_t>(first, 0), last, x, sums);
      first -= own;
      last -= own;
      sums += layer->matrix.rows;
    }
  });
  for (int part = 1; part < parts; part++) kernels().add(partial + part * rows, partial, rows);
  std::memcpy(y, partial, rows * sizeof(float));
  const bool is_finite = kernels().finite(x, layers[0]->matrix.columns);
  for (const Linear* layer : layers) {
    if (layer->bias) kernels().add(layer->bias, y, layer->matrix.rows);
    if (!is_finite)
      for (int64_t p = 0; p < layer->matrix.panels(); p++)
        carry_non_finite(layer->matrix, p, x, 1, y + p * kPanel, 1);
    y += layer->matrix.rows;
  }
}

bool is_vector(int64_t tokens) { return tokens <= 2; }

const float* normed_vector(const Norm& before, const float* x, int64_t features) {
  if (!before.weight) return x;
  float* normed = scratch(kNormed, features);
  scalar_kernels.normalise(before, x, normed, features, 1);  // the only ones whose tiles may be one token wide
  return normed;
}

const float* normed_tile(const Norm& before, const float* tile, int64_t features, int width) {
  if (!before.weight) return tile;
  float* normed = scratch(kNormed, features * width);
  kernels().normalise(before, tile, normed, features, width);
  return normed;
}

int64_t rows_of(const std::vector<Linear>& layers) {
  int64_t rows = 0;
  for (const Linear& layer : layers) rows += layer.matrix.rows;
  return rows;
}

}  // namespace

void project(const Norm& before, const std::vector<Linear>& layers, const float* x, int64_t tokens, float* y,
             int threads) {
  const int64_t features = layers[0].matrix.columns, rows = rows_of(layers);
  if (is_vector(tokens)) {
    std::vector<const Linear*> all;
    for (const Linear& layer : layers) all.push_back(&layer);
    for (int64_t t = 0; t < tokens; t++)
      multiply_one(all, normed_vector(before, x + t * features, features), y + t * rows, threads);
    return;
  }
  struct Panel {
    const Linear* layer;
    int64_t number, first_row;
  };
  std::vector<Panel> panels;
  for (int64_t start = 0; const Linear& layer : layers) {
    for (int64_t p = 0; p < layer.matrix.panels(); p++) panels.push_back({&layer, p, start + p * kPanel});
    start += layer.matrix.rows;
  }
  const int width = tile_width(tokens, threads);
  // too few tiles for the threads: each panel of a tile is then a task
  const int64_t count = panels.size(), tiles = ceil_div(tokens, width), split = tiles < threads ? count : 1;
  parallel(tiles * split, threads, [&](int64_t task) {
    const int64_t start = task / split * width, some = std::min<int64_t>(width, tokens - start);
    float* tile = scratch(kX, features * width);
    float* sums = scratch(kY, kPanel * width);
    kernels().load_tile(x + start * features, features, some, features, width, tile);
    const float* normed = normed_tile(before, tile, features, width);
    const bool is_finite = kernels().finite(normed, features * width);
    const int64_t first = split > 1 ? task % split : 0, last = split > 1 ? first + 1 : count;
    for (int64_t i = first; i < last; i++) {
      const Matrix& matrix = panels[i].layer->matrix;
      kernels().multiply(matrix, panels[i].number, 0, matrix.blocks(), normed, sums, width, panels[i].layer->bias, true);
      if (!is_finite)
        for (int64_t t = 0; t < some; t++) carry_non_finite(matrix, panels[i].number, normed + t, width, sums + t, width);
      kernels().store_tile(sums, width, some, matrix.panel_rows(panels[i].number), y + start * rows + panels[i].first_row,
                           rows);
    }
  });
}

void turn(float* x, int64_t stride, int64_t tokens, int64_t heads, int64_t size, const float* cosine, const float* sine) {
  const int64_t half = size / 2;
  for (int64_t t = 0; t < tokens; t++, cosine += size, sine += size) {
    for (int64_t h = 0; h < heads; h++) {
      float* first = x + t * stride + h * size;
      float* second = first + half;
      for (int64_t i = 0; i < half; i++) {
        const float a = first[i], b = second[i];
        first[i] = a * cosine[i] - b * sine[i];
        second[i] = b * cosine[half + i] + a * sine[half + i];
      }
    }
  }
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
  const float* normed = normed_vector(layer.before, x, features);
  float* h = scratch(kHidden, 2 * hidden);
  if (layer.gate.empty()) {
    multiply_one({&layer.up}, normed, h, threads);
    kernels().activate(layer.activation, h, hidden);
  } else {
    float* g = h + hidden;
    multiply_one({&layer.up, &layer.gate[0]}, normed, h, threads);
    kernels().activate(layer.activation, g, hidden);
    kernels().times(g, h, hidden);
  }
  float* sums = scratch(kY, out);
  multiply_one({&layer.down}, h, sums, threads);
  kernels().add(x, sums, out);
  if (layer.after.weight)
    scalar_kernels.normalise(layer.after, sums, y, out, 1);
  else
    std::memcpy(y, sums, out * sizeof(float));
}

// sums = after(tile + sums).
void finish_tile(const Norm& after, const float* tile, float* sums, int64_t features, int width) {
  kernels().add(tile, sums, features * width);
  if (after.weight) kernels().normalise(after, sums, sums, features, width);
}

void feed_forward_tile(const FeedForward& layer, const float* tile, float* sums, int width) {
  const Kernels& use = kernels();
  const Matrix &up = layer.up.matrix, &down = layer.down.matrix;
  float* h = scratch(kHidden, kPanel * width);
  float* g = layer.gate.empty() ? nullptr : scratch(kGate, kPanel * width);
  const float* normed = normed_tile(layer.before, tile, up.columns, width);
  // a panel of the hidden layer feeds the blocks of `down` that read it, and is forgotten
  for (int64_t p = 0; p < up.panels(); p++) {
    const int64_t count = up.panel_rows(p) * width;
    use.multiply(up, p, 0, up.blocks(), normed, h, width, layer.up.bias, true);
    if (g) {
      const Matrix& gate = layer.gate[0].matrix;  // its blocks may be of another width
      use.multiply(gate, p, 0, gate.blocks(), normed, g, width, layer.gate[0].bias, true);
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
  finish_tile(layer.after, tile, sums, down.rows, width);
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
    const int64_t start = task * width, some = std::min<int64_t>(width, tokens - start);
    float* tile = scratch(kX, up.columns * width);
    float* sums = scratch(kY, down.rows * width);
    kernels().load_tile(x + start * up.columns, up.columns, some, up.columns, width, tile);
    feed_forward_tile(layer, tile, sums, width);
    kernels().store_tile(sums, width, some, down.rows, y + start * down.rows, down.rows);
  });
}

namespace {

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
  const FeedForward* then;
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
        out[k * width + q] = hidden ? -kInfinity : from ? from[k] : 0.0f;
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
      std::fill(largest, largest + width, -kInfinity);
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
      for (int w = 0; w < width; w++)
        if (largest[w] == -kInfinity) total[w] = kInfinity;  // no key is visible: zeros, as torch's attention gives
      use.scale_columns(out, size, total, width, true);
    }
    const int64_t features = layer.out.matrix.rows;
    float* sums = scratch(kY, features * width);
    multiply_tile(layer.out, heads, sums, width);
    float* tile = scratch(kX, features * width);
    use.load_tile(x + start * features, features, some, features, width, tile);
    finish_tile(layer.after, tile, sums, features, width);
    if (then) {
      feed_forward_tile(*then, sums, tile, width);  // x is no longer needed
      std::swap(tile, sums);
    }
    use.store_tile(sums, width, some, features, y + start * features, features);
  }
};

// Whether the feed-forward layers may take the tiles of attention, which end with each sequence. Tiles of their own would
// be wider over short sequences, or fewer.
bool may_share_tiles(int64_t batch, int64_t length, int width, int threads) {
  const int64_t tokens = batch * length;
  if (is_vector(tokens)) return false;
  const int own = tile_width(tokens, threads);
  return cost_of(batch * ceil_div(length, width), width, threads) <= 1.05 * cost_of(ceil_div(tokens, own), own, threads);
}

}  // namespace

void attention(const Attention& layer, const FeedForward* then, const float* x, const float* memory, int64_t batch,
               int64_t length, int64_t memory_length, float* y, int threads) {
  const int64_t rows = rows_of(layer.from_x), memory_rows = rows_of(layer.from_memory);
  const int64_t features = layer.from_x[0].matrix.columns, out_features = layer.out.matrix.rows;
  const int64_t memory_features = memory ? layer.from_memory[0].matrix.columns : 0;
  // enough sequences keep every thread in its own cache; a few are cut into tiles that all threads share
  const int outer = batch >= threads ? threads : 1, inner = batch >= threads ? 1 : threads;
  const auto width_for = [&](int64_t tokens) {
    return inner > 1 ? tile_width(tokens, inner) : round_to_group(ceil_div(tokens, ceil_div(tokens, kMaxWidth)));
  };
  const int width = width_for(length), key_width = memory ? width_for(memory_length) : width;
  const FeedForward* at_once = then && may_share_tiles(batch, length, width, threads) ? then : nullptr;
  parallel(batch, outer, [&](int64_t b) {
    Sequence s{layer, at_once, b, length, memory ? memory_length : length, width, key_width, nullptr, nullptr, rows, memory_rows};
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
  if (then && !at_once) feed_forward(*then, y, batch * length, y, threads);  // each tile of y is read before it is written
}

}  // namespace aerogel
