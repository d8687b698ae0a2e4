#include "one_token.h"

#include <limits>

namespace aerogel {
namespace {

// What `multiply_vector` leaves to do for one token; of int8: y = scales (y - steps zeros sums) + bias.
void finish_rows(const Linear& layer, const Input& x, bool is_finite, float* y) {
  const Cells& cells = layer.matrix.cells;
  if (is_int8(layer)) {
    const Values& values = layer.matrix.values;
    for (int64_t g = 0; g < cells.groups(); g++) {
      const float zero = x.quads.steps[g] * static_cast<float>(x.quads.zeros[g]);
      for (int64_t r = 0; r < cells.rows; r++) y[r] -= zero * static_cast<float>(values.sums[g * cells.rows + r]);
    }
    for (int64_t r = 0; r < cells.rows; r++) y[r] *= values.scales[r];
  }
  if (layer.bias) kernels().add(layer.bias, y, cells.rows);
  const bool carries = !is_finite && !is_int8(layer);  // int8: every output of that token is NaN
  for (int64_t p = 0; carries && p < cells.panels(); p++) carry_non_finite(cells, p, {x.floats, 1}, {y + p * kPanel, 1});
}

}  // namespace

Layers first_layers(const FeedForward& layer) {
  Layers layers = {&layer.up};
  for (const Linear& gate : layer.gate) layers.push_back(&gate);
  return layers;
}

int64_t total_reads(const Layers& layers) {
  int64_t all = 0;
  for (const Linear* layer : layers) all += reads(layer->matrix);
  return all;
}

void carry_non_finite(const Cells& cells, int64_t panel, Column<const float> x, Column<float> y) {
  std::vector<bool> bad(cells.columns);
  int64_t bad_columns = 0;
  for (int64_t c = 0; c < cells.columns; c++) bad_columns += bad[c] = !std::isfinite(x[c]);
  if (bad_columns == 0) return;
  std::vector<int64_t> used(cells.panel_rows(panel), 0);  // bad columns that a row multiplies
  for (int64_t b = 0; b < cells.blocks(); b++) {
    const RowCount* order = cells.cell_order(panel, b);
    const uint8_t* index = cells.index + cells.offsets[panel * cells.blocks() + b];
    for (size_t i = 0; i < used.size(); i++)
      for (int64_t j = 0; j < order[i].count; j++) used[order[i].row] += bad[b * cells.block + *index++];
  }
  for (size_t row = 0; row < used.size(); row++)
    if (used[row] < bad_columns) y[row] = std::numeric_limits<float>::quiet_NaN();
}

int64_t total_rows(const Layers& layers) {
  int64_t rows = 0;
  for (const Linear* layer : layers) rows += layer->matrix.cells.rows;
  return rows;
}

void multiply_part(const Layers& layers, const Input& input, int64_t part, int64_t parts, float* sums) {
  std::memset(sums, 0, total_rows(layers) * sizeof(float));
  with_ranges(layers, part, parts, [&](const Linear& layer, Range range, int64_t row) {
    multiply_range(layer, range, input, sums + row);
  });
}

void add_parts(const Layers& layers, const Input& input, const float* partial, int64_t parts, int64_t stride, float* y) {
  std::memcpy(y, partial, total_rows(layers) * sizeof(float));
  for (int64_t part = 1; part < parts; part++) kernels().add(partial + part * stride, y, total_rows(layers));
  const bool is_finite = kernels().finite(input.floats, layers[0]->matrix.cells.columns);
  for (const Linear* layer : layers) {
    if (!is_masked(*layer)) finish_rows(*layer, input, is_finite, y);
    y += layer->matrix.cells.rows;
  }
}

void multiply_one(const Layers& layers, const float* x, float* y, int threads) {
  const int64_t rows = total_rows(layers), columns = layers[0]->matrix.cells.columns;
  const Input input = input_of(x, columns, 1, any_int8(layers));
  constexpr int64_t kWorthAThread = 8192;
  const int parts = static_cast<int>(std::clamp<int64_t>(total_reads(layers) / kWorthAThread, 1, threads));
  float* partial = scratch(kPartial, parts * rows);
  parallel(parts, parts, [&](int64_t part) { multiply_part(layers, input, part, parts, partial + part * rows); });
  add_parts(layers, input, partial, parts, rows, y);
}

bool any_int8(const Layers& layers) {
  return std::any_of(layers.begin(), layers.end(), [](const Linear* layer) { return is_int8(*layer); });
}

const float* normed_vector(const Norm& before, const float* x, int64_t features, float* memory) {
  if (!before.weight) return x;
  float* normed = memory ? memory : scratch(kNormed, features);
  scalar_kernels.normalise(before, x, nullptr, normed, features, 1);  // only its tiles may be one token wide
  return normed;
}

void activate_one(const FeedForward& layer, float* sums) {
  const int64_t hidden = layer.hidden();
  const bool has_gate = !layer.gate.empty();
  // the rows of a gate of its own come after those of `up`
  kernels().activate(layer.activation, has_gate ? sums + hidden : sums, hidden, is_int8(layer.down));
  if (has_gate || layer.joined) kernels().times(sums + hidden, sums, hidden);
}

void finish_one(const Norm& branch, const Norm& after, const float* x, float* sums, float* y, int64_t features) {
  if (branch.weight) scalar_kernels.normalise(branch, sums, nullptr, sums, features, 1);
  if (after.weight) return scalar_kernels.normalise(after, x, sums, y, features, 1);
  kernels().add(x, sums, features);
  std::memcpy(y, sums, features * sizeof(float));
}

void feed_forward_one(const FeedForward& layer, const float* x, float* y, int threads) {
  const int64_t out = layer.down.matrix.cells.rows;
  const float* normed = normed_vector(layer.before, x, layer.up.matrix.cells.columns);
  const Layers up = first_layers(layer);
  float* hidden = scratch(kHidden, 2 * layer.hidden());
  multiply_one(up, normed, hidden, threads);
  activate_one(layer, hidden);
  float* sums = scratch(kY, out);
  multiply_one({&layer.down}, hidden, sums, threads);
  finish_one(layer.branch, layer.after, x, sums, y, out);
}

}  // namespace aerogel
