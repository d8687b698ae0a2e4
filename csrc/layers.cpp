#include "layers.h"

#include "few_tokens.h"

namespace aerogel {
namespace {

constexpr int64_t kOverhead = 12;  // the time of a weight before its first token, in tokens

}  // namespace

int64_t cost_of(int64_t tiles, int width, int threads) { return ceil_div(tiles, threads) * (width + kOverhead); }

int tile_width(int64_t tokens, int threads) {
  int best = kMaxWidth;
  int64_t least = INT64_MAX;
  for (int width = kMaxWidth; width > 0; width -= kGroup) {
    const int64_t cost = cost_of(ceil_div(tokens, width), width, threads);
    if (cost < least) least = cost, best = width;
  }
  return best;
}

int64_t rows_of(const std::vector<Linear>& layers) {
  int64_t rows = 0;
  for (const Linear& layer : layers) rows += layer.matrix.cells.rows;
  return rows;
}

namespace {

// Floats that hold a byte a feature: those of one token are written a register at a time.
int64_t room_of_bytes(int64_t features, int width) { return ceil_div(features, 64) * 16 * width; }

}  // namespace

int64_t room_size(int64_t features, int width) {
  return room_of_bytes(features, width) + 2 * ceil_div(features, kPanel) * width;
}

Input room_at(float* memory, const float* tile, int64_t features, int width) {
  float* steps = memory + room_of_bytes(features, width);
  float* zeros = steps + ceil_div(features, kPanel) * width;
  return {.floats = tile,
          .quads = {.data = reinterpret_cast<uint8_t*>(memory), .steps = steps, .zeros = reinterpret_cast<int32_t*>(zeros)}};
}

void quantize_input(const Input& input, int64_t features, int width) {
  for (int64_t f = 0; f < features; f += kPanel) {
    const Input group = input.at(f, width);
    const int64_t some = std::min(kPanel, features - f);
    if (width == 1)
      kernels().quantize_token(group.floats, some, group.quads);
    else
      kernels().quantize(group.floats, some, width, group.quads);
  }
}

namespace {

Input room_for(const float* tile, int64_t features, int width, Slot slot) {
  return room_at(scratch(slot, room_size(features, width)), tile, features, width);
}

}  // namespace

Input input_of(const float* tile, int64_t features, int width, bool quantized, Slot slot) {
  if (!quantized) return {.floats = tile, .quads = {}};
  const Input input = room_for(tile, features, width, slot);
  quantize_input(input, features, width);
  return input;
}

void multiply_group(const Linear& layer, int64_t panel, int64_t group, const Input& x, float* y, int width) {
  int32_t* sums = is_int8(layer) ? reinterpret_cast<int32_t*>(scratch(kSums, kPanel * width)) : nullptr;
  kernels().multiply_group({.layer = layer, .panel = panel, .group = group, .x = x, .sums = sums, .y = y, .width = width});
}

void multiply_panel(const Linear& layer, int64_t panel, const Input& x, float* y, int width) {
  for (int64_t g = 0; g < layer.matrix.cells.groups(); g++)
    multiply_group(layer, panel, g, x.at(g * kPanel, width), y, width);
}

void multiply_tile(const Linear& layer, const Input& x, float* y, int width) {
  for (int64_t p = 0; p < layer.matrix.cells.panels(); p++) multiply_panel(layer, p, x, y + p * kPanel * width, width);
}

const float* normed_tile(const Norm& before, const float* tile, int64_t features, int width) {
  if (!before.weight) return tile;
  float* normed = scratch(kNormed, features * width);
  kernels().normalise(before, tile, nullptr, normed, features, width);
  return normed;
}

void finish_tile(const Norm& branch, const Norm& after, const float* tile, float* sums, int64_t features, int width) {
  if (branch.weight) kernels().normalise(branch, sums, nullptr, sums, features, width);
  if (after.weight) return kernels().normalise(after, tile, sums, sums, features, width);
  kernels().add(tile, sums, features * width);
}

namespace {

// The panels of the two halves do not match, so the hidden layer is computed as a whole.
void joined_tile(const FeedForward& layer, const Input& x, float* sums, int width) {
  const int64_t hidden = layer.hidden(), count = hidden * width;
  float* h = scratch(kHidden, 2 * count);
  multiply_tile(layer.up, x, h, width);
  kernels().activate(layer.activation, h, count, is_int8(layer.down));
  kernels().times(h + count, h, count);
  multiply_tile(layer.down, input_of(h, hidden, width, is_int8(layer.down), kHiddenQuads), sums, width);
}

}  // namespace

void feed_forward_tile(const FeedForward& layer, const float* tile, float* sums, int width) {
  const Kernels& use = kernels();
  const Cells &up = layer.up.matrix.cells, &down = layer.down.matrix.cells;
  const bool quantized = is_int8(layer.up) || any_int8(layer.gate), for_bytes = is_int8(layer.down);
  const Input x = input_of(normed_tile(layer.before, tile, up.columns, width), up.columns, width, quantized);
  if (layer.joined) {
    joined_tile(layer, x, sums, width);
    return finish_tile(layer.branch, layer.after, tile, sums, down.rows, width);
  }
  float* h = scratch(kHidden, kPanel * width);
  float* g = layer.gate.empty() ? nullptr : scratch(kGate, kPanel * width);
  // a panel of the hidden layer is input of one group of columns of `down`, and then no longer needed
  for (int64_t p = 0; p < up.panels(); p++) {
    const int64_t rows = up.panel_rows(p), count = rows * width;
    multiply_panel(layer.up, p, x, h, width);
    Input hidden{.floats = h, .quads = {}};
    if (g) {
      multiply_panel(layer.gate[0], p, x, g, width);  // its blocks may be of another width
      use.activate(layer.activation, g, count, for_bytes);
      use.times(g, h, count);
      hidden = input_of(h, rows, width, for_bytes, kHiddenQuads);
    } else if (for_bytes) {
      hidden = room_for(h, rows, width, kHiddenQuads);
      use.quantize_activated(layer.activation, h, rows, width, hidden.quads);
    } else {
      use.activate(layer.activation, h, count, false);
    }
    for (int64_t q = 0; q < down.panels(); q++)
      multiply_group(layer.down, q, p, hidden, sums + q * kPanel * width, width);
  }
  finish_tile(layer.branch, layer.after, tile, sums, down.rows, width);
}

void project(const Norm& before, const std::vector<Linear>& packed, const float* x, int64_t tokens, float* y, int threads) {
  const int64_t features = packed[0].matrix.cells.columns, rows = rows_of(packed);
  std::vector<const Linear*> all;
  for (const Linear& layer : packed) all.push_back(&layer);
  if (is_few(all, tokens)) return project_few(before, all, x, tokens, y, threads);
  if (is_vector(tokens)) {
    for (int64_t t = 0; t < tokens; t++)
      multiply_one(all, normed_vector(before, x + t * features, features), y + t * rows, threads);
    return;
  }
  Expanded expanded(threads);
  const std::vector<Linear> layers = expanded(packed);
  struct Panel {
    const Linear* layer;
    int64_t number, first_row;
  };
  std::vector<Panel> panels;
  for (int64_t start = 0; const Linear& layer : layers) {
    for (int64_t p = 0; p < layer.matrix.cells.panels(); p++) panels.push_back({&layer, p, start + p * kPanel});
    start += layer.matrix.cells.rows;
  }
  const int width = tile_width(tokens, threads);
  // fewer tiles than threads: each panel of a tile is then a task
  const int64_t count = panels.size(), tiles = ceil_div(tokens, width), split = tiles < threads ? count : 1;
  parallel(tiles * split, threads, [&](int64_t task) {
    const auto own = tokens_of_tile(x, tokens, features, width, task / split);
    float* tile = scratch(kX, features * width);
    float* sums = scratch(kY, kPanel * width);
    kernels().load_tile(own, width, tile);
    const float* normed = normed_tile(before, tile, features, width);
    const Input input = input_of(normed, features, width, any_int8(layers));
    const bool is_finite = kernels().finite(normed, features * width);
    const int64_t first = split > 1 ? task % split : 0, last = split > 1 ? first + 1 : count;
    for (int64_t i = first; i < last; i++) {
      const auto [layer, panel, first_row] = panels[i];
      const Cells& cells = layer->matrix.cells;
      multiply_panel(*layer, panel, input, sums, width);
      for (int64_t t = 0; !is_finite && !is_int8(*layer) && t < own.count; t++)
        carry_non_finite(cells, panel, {normed + t, width}, {sums + t, width});
      Tokens<float> to = tokens_of_tile(y + first_row, tokens, rows, width, task / split);
      to.features = cells.panel_rows(panel);
      kernels().store_tile(sums, width, to);
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

void feed_forward(const FeedForward& packed, const float* x, int64_t tokens, float* y, int threads) {
  const int64_t features = packed.up.matrix.cells.columns, rows = packed.down.matrix.cells.rows;
  Layers all = first_layers(packed);
  all.push_back(&packed.down);
  if (is_few(all, tokens)) return feed_forward_few(packed, x, tokens, y, threads);
  if (is_vector(tokens)) {
    for (int64_t t = 0; t < tokens; t++) feed_forward_one(packed, x + t * features, y + t * rows, threads);
    return;
  }
  Expanded expanded(threads);
  const FeedForward layer = expanded(packed);
  const int width = tile_width(tokens, threads);
  parallel(ceil_div(tokens, width), threads, [&](int64_t i) {
    float* tile = scratch(kX, features * width);
    float* sums = scratch(kY, rows * width);
    kernels().load_tile(tokens_of_tile(x, tokens, features, width, i), width, tile);
    feed_forward_tile(layer, tile, sums, width);
    kernels().store_tile(sums, width, tokens_of_tile(y, tokens, rows, width, i));
  });
}

}  // namespace aerogel
