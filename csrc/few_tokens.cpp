#include "few_tokens.h"

namespace aerogel {
namespace {

constexpr int64_t kFew = 48;           // from there on quads are faster at 80% sparsity, at 50% from 128 on
constexpr int64_t kPartsAThread = 4;  // a thread that comes late takes fewer

// Room for a token as an input: its floats, and its bytes. Both begin with a line of the cache.
int64_t lines(int64_t floats) { return ceil_div(floats, 16) * 16; }
int64_t input_size(int64_t features) { return lines(features) + lines(room_size(features, 1)); }

Quads quantized(const float* x, int64_t features, float* memory) {
  const Input input = room_at(memory + lines(features), x, features, 1);
  quantize_input(input, features, 1);
  return input.quads;
}

// y[tokens][rows of all layers]
void multiply(const Layers& layers, const std::vector<Quads>& x, float* y, int threads) {
  const int64_t parts = kPartsAThread * threads, stride = total_rows(layers);
  parallel(parts, threads, [&](int64_t part) {
    with_ranges(layers, part, parts, [&](const Linear& layer, Range range, int64_t row) {
      multiply_masked_range(layer, range, x.data(), x.size(), y + row, stride);
    });
  });
}

}  // namespace

bool is_few(const Layers& layers, int64_t tokens) {
  return tokens > 1 && tokens <= kFew &&
         std::all_of(layers.begin(), layers.end(), [](const Linear* layer) { return is_masked(*layer); });
}

// Norms are computed in tiles of kGroup tokens, so that results are those of many tokens, bit for bit.
void project_few(const Norm& before, const Layers& layers, const float* x, int64_t tokens, float* y, int threads) {
  const int64_t features = layers[0]->matrix.cells.columns, each = input_size(features);
  float* memory = scratch(kX, tokens * each);
  std::vector<Quads> inputs(tokens);
  parallel(ceil_div(tokens, kGroup), threads, [&](int64_t i) {
    float* own = memory + i * kGroup * each;
    Tokens<const float> from = tokens_of_tile(x, tokens, features, kGroup, i);
    if (before.weight) {
      float* tile = scratch(kY, features * kGroup);
      kernels().load_tile(from, kGroup, tile);
      const float* normed = normed_tile(before, tile, features, kGroup);
      kernels().store_tile(normed, kGroup, {.x = own, .stride = each, .count = from.count, .features = features});
      from.x = own, from.stride = each;
    }
    for (int64_t t = 0; t < from.count; t++)
      inputs[i * kGroup + t] = quantized(from.x + t * from.stride, features, own + t * each);
  });
  multiply(layers, inputs, y, threads);
}

void feed_forward_few(const FeedForward& layer, const float* x, int64_t tokens, float* y, int threads) {
  const int64_t features = layer.down.matrix.cells.rows, hidden = layer.hidden();
  const Layers up = first_layers(layer);
  const int64_t rows = total_rows(up), each = input_size(hidden);
  float* sums = scratch(kHidden, tokens * rows);
  project_few(layer.before, up, x, tokens, sums, threads);
  float* memory = scratch(kX, tokens * each);
  std::vector<Quads> inputs(tokens);
  parallel(tokens, threads, [&](int64_t t) {
    activate_one(layer, sums + t * rows);
    inputs[t] = quantized(sums + t * rows, hidden, memory + t * each);
  });
  float* added = scratch(kProjected, tokens * features);
  multiply({&layer.down}, inputs, added, threads);
  parallel(ceil_div(tokens, kGroup), threads, [&](int64_t i) {
    const auto load = [&](const float* from, Slot slot) {
      float* tile = scratch(slot, features * kGroup);
      kernels().load_tile(tokens_of_tile(from, tokens, features, kGroup, i), kGroup, tile);
      return tile;
    };
    float* result = load(added, kY);
    finish_tile(layer.branch, layer.after, load(x, kNormed), result, features, kGroup);
    kernels().store_tile(result, kGroup, tokens_of_tile(y, tokens, features, kGroup, i));
  });
}

}  // namespace aerogel
