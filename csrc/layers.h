// Whole layers on ordinary activations [tokens][features], as transformers has them. Each reads its input once and keeps
// everything in between in tiles: one thread takes one tile (or one sequence) all the way.
#pragma once

#include <vector>

#include "kernel.h"

namespace aerogel {

struct Linear {
  Matrix matrix;
  const float* bias = nullptr;
};

// y[tokens][rows of all layers] = each layer's W before(x) + bias.
void project(const Norm& before, const std::vector<Linear>& layers, const float* x, int64_t tokens, float* y, int threads);

// Turns each head of x[tokens][stride] by its rotary angles [tokens][size], in place.
void turn(float* x, int64_t stride, int64_t tokens, int64_t heads, int64_t size, const float* cosine, const float* sine);

// y = W x for one token and a dense W: memory decides, and all threads read.
void dense_vector(const float* weight, int64_t rows, int64_t columns, const float* x, float* y, int threads);

// after(x + down(activation(gate(n)) * up(n))), n = before(x); without a gate: down(activation(up(n))).
struct FeedForward {
  Norm before, after;
  std::vector<Linear> gate;  // none or one
  Linear up, down;
  Activation activation;
};

void feed_forward(const FeedForward& layer, const float* x, int64_t tokens, float* y, int threads);

// after(x + out(softmax(scale q k^T + mask) v)), q, k, v from before(x), or k, v from `memory`.
struct Attention {
  Norm before, after;
  std::vector<Linear> from_x;       // their rows, one after another: queries, then keys and values if without memory
  std::vector<Linear> from_memory;  // keys, values
  Linear out;
  int64_t heads = 0, key_heads = 0, head_size = 0;
  float scale = 1;
  bool causal = false;
  const float* mask = nullptr;  // added to the scores: [batch][query][key], a stride of 0 where it is the same for all
  int64_t mask_batch_stride = 0, mask_query_stride = 0;
  const float *cosine = nullptr, *sine = nullptr;  // rotary angles [batch][position][head_size]
  int64_t angle_batch_stride = 0;
};

// `then`, where it is not null, is applied to the result, mostly tile by tile while that is in the cache.
void attention(const Attention& layer, const FeedForward* then, const float* x, const float* memory, int64_t batch,
               int64_t length, int64_t memory_length, float* y, int threads);

}  // namespace aerogel
