// A few tokens through layers under bit masks: their integers are expanded in the cache, a few rows at a time.
#pragma once

#include "one_token.h"

namespace aerogel {

// Whether there are several tokens, but too few to be worth expanding the layers' masks to quads, see `Expanded`.
bool is_few(const Layers& layers, int64_t tokens);

// y[tokens][rows of all layers] = each layer's W before(x) + bias.
void project_few(const Norm& before, const Layers& layers, const float* x, int64_t tokens, float* y, int threads);

void feed_forward_few(const FeedForward& layer, const float* x, int64_t tokens, float* y, int threads);

}  // namespace aerogel
