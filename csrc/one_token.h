// One token through layers: memory decides, and the threads share what is read.
#pragma once

#include "bitmask.h"

namespace aerogel {

// Layers with the same input, their rows one after another.
using Layers = std::vector<const Linear*>;
int64_t total_rows(const Layers& layers);
int64_t total_reads(const Layers& layers);

// `up`, and then `gate` if there is one.
Layers first_layers(const FeedForward& layer);

// Calls f(layer, reads, first row) for what each layer has of a part of their reads; see `multiply_range`.
template <class F>
void with_ranges(const Layers& layers, int64_t part, int64_t parts, F&& f) {
  const int64_t all = total_reads(layers);
  int64_t row = 0, first = all * part / parts, last = all * (part + 1) / parts;
  for (const Linear* layer : layers) {
    const int64_t own = reads(layer->matrix);
    if (first < own && last > 0) f(*layer, Range{.first = std::max<int64_t>(first, 0), .last = last}, row);
    first -= own;
    last -= own;
    row += layer->matrix.cells.rows;
  }
}

// One token through layers, cut into parts that read equally much, inside cells too. Each part sums into an array of its own,
// since a row's cells may belong to several; `add_parts` makes y of them all.
void multiply_part(const Layers& layers, const Input& input, int64_t part, int64_t parts, float* sums);
void add_parts(const Layers& layers, const Input& input, const float* partial, int64_t parts, int64_t stride, float* y);

// y = the layers' results for x.
void multiply_one(const Layers& layers, const float* x, float* y, int threads);

bool any_int8(const Layers& layers);

// before(x), in a buffer of the thread or in `memory`, or x itself where there is no norm.
const float* normed_vector(const Norm& before, const float* x, int64_t features, float* memory = nullptr);

// The activated hidden layer from the sums of `up`, or of `up` and `gate`; they begin with it afterwards.
void activate_one(const FeedForward& layer, float* sums);

// y = after(x + branch(sums)); y may be x.
void finish_one(const Norm& branch, const Norm& after, const float* x, float* sums, float* y, int64_t features);

void feed_forward_one(const FeedForward& layer, const float* x, float* y, int threads);

// The features of one token in a tile.
template <class T>
struct Column {
  T* start;
  int64_t step;

  T& operator[](int64_t i) const { return start[i * step]; }
};

// A dense product has 0 x inf and 0 x NaN in every row whose weight is 0 there, and is NaN then; the sparse one skips
// them. Corrects one token of one panel.
void carry_non_finite(const Cells& cells, int64_t panel, Column<const float> x, Column<float> y);

}  // namespace aerogel
