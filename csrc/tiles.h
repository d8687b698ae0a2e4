// Layers on tiles: what linear layers, feed-forward layers and attention share.
#pragma once

#include "layers.h"
#include "threads.h"

namespace aerogel {

// Buffers of a thread: see `scratch`.
enum Slot { kX, kNormed, kHidden, kGate, kY, kProjected, kEncoder, kHead, kScores, kMask, kColumns, kPartial, kAngles,
            kSums, kRows, kQuads, kHiddenQuads, kBias, kRelative, kRelativeKeys, kRelativeQueries };

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline bool is_vector(int64_t tokens) { return tokens <= 2; }

// The tokens that tile number `i` covers, of activations [tokens][features].
template <class T>
Tokens<T> tokens_of_tile(T* x, int64_t tokens, int64_t features, int64_t width, int64_t i) {
  return {.x = x + i * width * features, .stride = features, .count = std::min(width, tokens - i * width),
          .features = features};
}

// The time that the threads need for this number of tiles, in tokens.
int64_t cost_of(int64_t tiles, int width, int threads);
// Wide tiles multiply more with each weight, narrow ones share the work among more threads.
int tile_width(int64_t tokens, int threads);

// The rows of all layers.
int64_t rows_of(const std::vector<Linear>& layers);

inline bool is_int8(const Linear& layer) { return layer.matrix.values.type == ValueType::int8; }
inline bool any_int8(const std::vector<Linear>& layers) { return std::any_of(layers.begin(), layers.end(), is_int8); }

// Memory for the quantized form of a tile, in floats, and the form in it; `quantize_input` fills it.
int64_t room_size(int64_t features, int width);
Input room_at(float* memory, const float* tile, int64_t features, int width);
void quantize_input(const Input& input, int64_t features, int width);

// A tile as input of layers; quantized, in a buffer of the thread, where one of them is int8.
Input input_of(const float* tile, int64_t features, int width, bool quantized, Slot slot = kQuads);

// One panel of a linear layer, and all of it, on one tile.
void multiply_panel(const Linear& layer, int64_t panel, const Input& x, float* y, int width);
void multiply_tile(const Linear& layer, const Input& x, float* y, int width);

// before(tile), in a buffer of the thread, or the tile itself where there is no norm.
const float* normed_tile(const Norm& before, const float* tile, int64_t features, int width);

// sums = after(tile + branch(sums)).
void finish_tile(const Norm& branch, const Norm& after, const float* tile, float* sums, int64_t features, int width);

void feed_forward_tile(const FeedForward& layer, const float* tile, float* sums, int width);

}  // namespace aerogel
