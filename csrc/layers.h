// Whole layers on ordinary activations [tokens][features], as in transformers. Each reads its input once and keeps
// all intermediate results in tiles: one thread computes one tile (or one sequence) from start to end.
#pragma once

#include "kernel.h"

namespace aerogel {

// y[tokens][rows of all layers] = each layer's W before(x) + bias.
void project(const Norm& before, const std::vector<Linear>& layers, const float* x, int64_t tokens, float* y, int threads);

// y = W x for one token and a dense W: memory decides, and all threads read.
void dense_vector(const float* weight, int64_t rows, int64_t columns, const float* x, float* y, int threads);

// after(x + branch(down(activation(gate(n)) * up(n)))), n = before(x); without a gate: down(activation(up(n))).
struct FeedForward {
  Norm before, branch, after;
  std::vector<Linear> gate;  // none or one
  Linear up, down;
  Activation activation;
  bool joined = false;  // `up` has the rows of both: the first half is the gate's

  int64_t hidden() const { return up.matrix.cells.rows / (joined ? 2 : 1); }
};

void feed_forward(const FeedForward& layer, const float* x, int64_t tokens, float* y, int threads);

// Rotary angles [batch][position][head_size]; a stride of 0 where they are the same for all sequences.
struct Rotary {
  Angles angles{};
  int64_t batch_stride = 0;
};

// Heads side by side in activations [batch][length][features], the first of each token's features.
struct Heads {
  int64_t batch = 0, length = 0, features = 0, count = 0, size = 0;
};

// Normalises, or rotates, each head of x in place.
void normalise_heads(const Norm& norm, const Heads& heads, float* x);
void apply_rotary(const Rotary& rotary, const Heads& heads, float* x);

// Added to the scores: [batch][query][key], a stride of 0 where it is the same for all.
struct Mask {
  const float* values = nullptr;
  int64_t batch_stride = 0, query_stride = 0;
};

// Added to the scores of each head: [batch][head][query][key], a stride of 0 where it is the same for all sequences.
struct PositionBias {
  const float* values = nullptr;
  int64_t batch_stride = 0;
};

// Disentangled attention: scores of a query and a key get q . keys[n - 1 + key - query] + queries[n - 1 + query - key] . k,
// of n tokens. Both are [2 n - 1][heads x head_size], or null.
struct RelativePositions {
  const float *keys = nullptr, *queries = nullptr;
};

// after(x + branch(out(softmax(scale q k^T + mask) v))), q, k, v from before(x), or k, v from the encoder's hidden states.
struct Attention {
  Norm before, branch, after;
  Norm query_norm, key_norm;         // of each head, before it is rotated
  std::vector<Linear> from_x;        // their rows, one after another: queries, then keys and values unless from_encoder
  std::vector<Linear> from_encoder;  // keys, values
  Linear out;
  int64_t heads = 0, key_heads = 0, head_size = 0;
  float scale = 1;
  bool causal = false;
};

// Activations [batch][length][features]; the encoder's, where there is one, [batch][encoder_length][encoder features].
struct Sequences {
  const float* x;
  int64_t batch, length;
  const float* encoder_hidden_states = nullptr;
  int64_t encoder_length = 0;
  Mask mask{};
  Rotary rotary{};
  PositionBias position_bias{};
  RelativePositions relative{};
};

// `next`, unless it is null, is applied to the result, mostly tile by tile while that is in the cache.
void attention(const Attention& layer, const FeedForward* next, const Sequences& sequences, float* y, int threads);

}  // namespace aerogel
