// The next token of each sequence through a whole stack of decoder blocks. A token is little work: where each layer is a call
// of its own, the calls decide the time.
#pragma once

#include "layers.h"

namespace aerogel {

struct DecoderBlock {
  Attention attention;  // to earlier tokens of the sequence
  FeedForward feed_forward;
};

// Keys and values of one block, [sequence][key head][capacity][head size]; those of the next token are written.
struct Cache {
  float *keys, *values;
  int64_t capacity;
};

// The next token of each sequence. `position` is the number of tokens that each cache already has.
struct NextTokens {
  const float* x;  // [batch][features]
  int64_t batch, position;
  Mask mask{};  // of position + 1 keys
  Rotary rotary{};
};

void decode(const std::vector<DecoderBlock>& blocks, const std::vector<Cache>& caches, const NextTokens& tokens, float* y,
            int threads);

}  // namespace aerogel
