#include "bitmask.h"

#include "pack.h"

namespace aerogel {
namespace {

constexpr int64_t kQuadBytes = 5;  // its integers and its unit

// What is read of a bit mask before this chunk; every chunk counts.
int64_t reads_before(const Matrix& matrix, int64_t chunk) {
  return chunk + (chunk * kGroup * matrix.mask.step * 8 + matrix.mask.starts[chunk]) / kQuadBytes;
}

// The words of a row that a block of quads covers.
Range words_of(const Matrix& matrix, const Cells& cells, int64_t block) {
  const int64_t each = cells.block * cells.unit / 64;
  return {.first = block * each, .last = std::min((block + 1) * each, matrix.words())};
}

}  // namespace

int64_t reads(const Matrix& matrix) {
  return matrix.mask.bits ? reads_before(matrix, matrix.chunks()) : matrix.cells.non_zeros();
}

void multiply_range(const Linear& layer, Range range, const Input& x, float* y) {
  if (is_masked(layer)) return multiply_masked_range(layer, range, &x.quads, 1, y, 0);
  kernels().multiply_vector(layer.matrix, range, x, y);
}

void multiply_masked_range(const Linear& layer, Range range, const Quads* x, int64_t tokens, float* y, int64_t stride) {
  const Matrix& matrix = layer.matrix;
  const auto chunk_from = [&](int64_t read) {
    int64_t first = 0, last = matrix.chunks();
    while (first < last) {
      const int64_t middle = (first + last) / 2;
      reads_before(matrix, middle) < read ? first = middle + 1 : last = middle;
    }
    return first;
  };
  auto* sums = reinterpret_cast<int32_t*>(scratch(kSums, tokens * matrix.cells.groups() * kGroup));
  const int64_t bytes = tokens > 1 ? kMaskedRows * 64 * matrix.words() : 0;
  auto* rows = reinterpret_cast<int8_t*>(scratch(kRows, bytes / sizeof(float)));
  kernels().multiply_masked({.layer = layer, .chunks = {.first = chunk_from(range.first), .last = chunk_from(range.last)},
                             .x = x, .tokens = tokens, .sums = sums, .rows = rows, .y = y, .stride = stride});
}

template <class T>
T* Expanded::memory(int64_t count) {
  memory_.push_back(std::make_unique_for_overwrite<std::byte[]>(std::max<int64_t>(count, 1) * sizeof(T)));
  return reinterpret_cast<T*>(memory_.back().get());
}

Linear Expanded::operator()(const Linear& layer) {
  const Matrix& matrix = layer.matrix;
  if (!is_masked(layer)) return layer;
  Cells cells = matrix.cells;
  const int64_t blocks = cells.blocks();
  // of each row's blocks: the number of quads, and where their integers start
  std::vector<uint16_t> counts(cells.rows * blocks);
  std::vector<int64_t> starts(counts.size());
  parallel(matrix.chunks(), threads_, [&](int64_t chunk) {
    int64_t at = matrix.mask.starts[chunk];
    for (int64_t row = chunk * kGroup; row < std::min((chunk + 1) * kGroup, cells.rows); row++) {
      const uint64_t* bits = matrix.mask.bits + row * matrix.mask.step;
      for (int64_t b = 0; b < blocks; b++) {
        starts[row * blocks + b] = at;
        const auto [first, last] = words_of(matrix, cells, b);
        const MaskCount count = kernels().count_mask(bits + first, last - first);
        counts[row * blocks + b] = static_cast<uint16_t>(count.quads);
        at += count.integers;
      }
    }
  });
  auto* order = memory<RowCount>(cells.rows * blocks);
  auto* offsets = memory<int64_t>(cells.count() + 1);
  parallel(cells.count(), threads_, [&](int64_t c) {
    const int64_t panel = c / blocks, block = c % blocks, rows = cells.panel_rows(panel);
    const uint16_t* first = counts.data() + panel * kPanel * blocks + block;
    order_rows(first, blocks, rows, cells.block, order + cells.order_start(panel, block));
    offsets[c + 1] = kGroup;  // that the kernel may write beyond
    for (int64_t r = 0; r < rows; r++) offsets[c + 1] += first[r * blocks];
  });
  offsets[0] = 0;
  for (int64_t c = 0; c < cells.count(); c++) offsets[c + 1] += offsets[c];
  auto* quads = memory<int8_t>(offsets[cells.count()] * Int8::kUnit);
  auto* index = memory<uint8_t>(offsets[cells.count()]);
  cells.order = order, cells.offsets = offsets, cells.index = index;
  parallel(cells.count(), threads_, [&](int64_t c) {
    const int64_t panel = c / blocks, block = c % blocks;
    const auto [first, last] = words_of(matrix, cells, block);
    int64_t at = offsets[c];
    for (int64_t i = 0; i < cells.panel_rows(panel); i++) {
      const auto [number, count] = cells.cell_order(panel, block)[i];
      const int64_t row = panel * kPanel + number;
      const auto integers = MaskedIntegers::from(matrix, starts[row * blocks + block]);
      const uint64_t* bits = matrix.mask.bits + row * matrix.mask.step + first;
      kernels().expand_quads(bits, last - first, integers, quads + at * Int8::kUnit, index + at);
      at += count;
    }
  });
  Values values = matrix.values;
  values.data = quads;
  return {.matrix = {.cells = cells, .values = values}, .bias = layer.bias};
}

std::vector<Linear> Expanded::operator()(const std::vector<Linear>& layers) {
  std::vector<Linear> expanded;
  for (const Linear& layer : layers) expanded.push_back((*this)(layer));
  return expanded;
}

FeedForward Expanded::operator()(FeedForward layer) {
  layer.gate = (*this)(layer.gate);
  layer.up = (*this)(layer.up);
  layer.down = (*this)(layer.down);
  return layer;
}

Attention Expanded::operator()(Attention layer) {
  layer.from_x = (*this)(layer.from_x);
  layer.from_encoder = (*this)(layer.from_encoder);
  layer.out = (*this)(layer.out);
  return layer;
}

}  // namespace aerogel
