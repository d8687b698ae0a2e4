#include "pack.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "threads.h"

namespace aerogel {
namespace {

struct Cell {
  int64_t panel, block, rows, first_row, first_column, columns;
};

Cell cell_at(const Matrix& matrix, int64_t cell) {
  const int64_t panel = cell / matrix.blocks(), block = cell % matrix.blocks();
  const int64_t first = block * matrix.block;
  return {panel, block, matrix.panel_rows(panel), panel * kPanel, first, std::min(matrix.block, matrix.columns - first)};
}

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// By its bits: a comparison takes denormal numbers for zero in the threads that are set to flush them, and in these alone.
bool is_zero(float value) { return (bits_of(value) & 0x7fffffffu) == 0; }

uint16_t upper_half(float value) { return static_cast<uint16_t>(bits_of(value) >> 16); }

float from_upper_half(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

void order_rows(const uint16_t* counts, int64_t stride, int64_t rows, int64_t most, uint16_t* order) {
  std::vector<int64_t> place(most + 2, 0);
  for (int64_t r = 0; r < rows; r++) place[most - counts[r * stride] + 1]++;
  for (size_t i = 1; i < place.size(); i++) place[i] += place[i - 1];
  for (int64_t r = 0; r < rows; r++) {
    const uint16_t count = counts[r * stride];
    const int64_t i = place[most - count]++;
    order[2 * i] = static_cast<uint16_t>(r);
    order[2 * i + 1] = count;
  }
}

int64_t plan_cells(const Dense& dense, int64_t block, uint16_t* order, int64_t* offsets, int threads) {
  const Matrix shape{dense.rows, dense.columns, block, ValueType::float32, nullptr, nullptr, order, offsets};
  parallel(shape.cells(), threads, [&](int64_t c) {
    const Cell cell = cell_at(shape, c);
    std::vector<uint16_t> counts(cell.rows);
    int64_t total = 0;
    for (int64_t r = 0; r < cell.rows; r++) {
      const float* from = dense.values + (cell.first_row + r) * dense.row_stride + cell.first_column * dense.column_stride;
      int count = 0;
      for (int64_t k = 0; k < cell.columns; k++) count += !is_zero(from[k * dense.column_stride]);
      counts[r] = static_cast<uint16_t>(count);
      total += count;
    }
    offsets[c + 1] = total;
    order_rows(counts.data(), 1, cell.rows, cell.columns, order + (shape.cell_order(cell.panel, cell.block) - order));
  });
  offsets[0] = 0;
  for (int64_t c = 0; c < shape.cells(); c++) offsets[c + 1] += offsets[c];
  return offsets[shape.cells()];
}

bool fill_cells(const Dense& dense, const Matrix& matrix, void* values, uint8_t* index, int threads) {
  std::atomic<bool> fits{true};
  parallel(matrix.cells(), threads, [&](int64_t c) {
    const Cell cell = cell_at(matrix, c);
    const uint16_t* order = matrix.cell_order(cell.panel, cell.block);
    int64_t at = matrix.offsets[c];
    for (int64_t i = 0; i < cell.rows; i++) {
      const float* from =
          dense.values + (cell.first_row + order[2 * i]) * dense.row_stride + cell.first_column * dense.column_stride;
      const int64_t end = at + order[2 * i + 1];
      for (int64_t k = 0; k < cell.columns; k++) {
        const float value = from[k * dense.column_stride];
        if (is_zero(value)) continue;
        if (at == end) {
          fits = false;
          break;
        }
        if (matrix.type == ValueType::float32)
          static_cast<float*>(values)[at] = value;
        else
          static_cast<uint16_t*>(values)[at] = upper_half(value);
        index[at++] = static_cast<uint8_t>(k);
      }
      if (at != end) fits = false;
      at = end;
    }
  });
  return fits;
}

void unpack(const Matrix& matrix, const Dense& dense, int threads) {
  parallel(matrix.cells(), threads, [&](int64_t c) {
    const Cell cell = cell_at(matrix, c);
    const uint16_t* order = matrix.cell_order(cell.panel, cell.block);
    int64_t at = matrix.offsets[c];
    for (int64_t i = 0; i < cell.rows; i++) {
      float* to =
          dense.values + (cell.first_row + order[2 * i]) * dense.row_stride + cell.first_column * dense.column_stride;
      for (int64_t k = 0; k < cell.columns; k++) to[k * dense.column_stride] = 0;
      for (int64_t j = 0; j < order[2 * i + 1]; j++, at++)
        to[matrix.index[at] * dense.column_stride] = matrix.type == ValueType::float32
                                                         ? static_cast<const float*>(matrix.values)[at]
                                                         : from_upper_half(static_cast<const uint16_t*>(matrix.values)[at]);
    }
  });
}

std::string check(const Matrix& matrix, int64_t non_zeros) {
  if (matrix.offsets[0] != 0) return "offsets start at " + std::to_string(matrix.offsets[0]) + ", not 0";
  int64_t at = 0;
  for (int64_t c = 0; c < matrix.cells(); c++) {
    const Cell cell = cell_at(matrix, c);
    const std::string where = " in cell " + std::to_string(c);
    const uint16_t* order = matrix.cell_order(cell.panel, cell.block);
    std::vector<bool> seen(cell.rows, false);
    int64_t total = 0, before = cell.columns;
    for (int64_t i = 0; i < cell.rows; i++) {
      const int64_t row = order[2 * i], count = order[2 * i + 1];
      if (row >= cell.rows || seen[row]) return "row " + std::to_string(row) + " is out of range or stands twice" + where;
      if (count > before) return "rows are not sorted by their non-zeros, or have too many," + where;
      seen[row] = true;
      before = count;
      total += count;
    }
    if (matrix.offsets[c + 1] != at + total || at + total > non_zeros)
      return "the offsets disagree with the rows' counts" + where;
    for (int64_t i = 0; i < cell.rows; i++) {
      int64_t previous = -1;
      for (int64_t j = 0; j < order[2 * i + 1]; j++, at++) {
        if (matrix.index[at] <= previous || matrix.index[at] >= cell.columns)
          return "a column is out of range or out of order" + where;
        previous = matrix.index[at];
      }
    }
  }
  if (at != non_zeros) return std::to_string(non_zeros) + " values, but " + std::to_string(at) + " in the cells";
  return "";
}

}  // namespace aerogel
