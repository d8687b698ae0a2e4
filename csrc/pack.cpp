#include "pack.h"

#include <atomic>

#include "threads.h"

namespace aerogel {
namespace {

struct Cell {
  int64_t panel, block, rows, first_row, first_column, units, columns;
};

Cell cell_at(const Cells& cells, int64_t cell) {
  const int64_t panel = cell / cells.blocks(), block = cell % cells.blocks(), first_unit = block * cells.block;
  const int64_t first_column = first_unit * cells.unit;
  return {.panel = panel, .block = block, .rows = cells.panel_rows(panel), .first_row = panel * kPanel,
          .first_column = first_column, .units = std::min(cells.block, cells.units() - first_unit),
          .columns = std::min(cells.block * cells.unit, cells.columns - first_column)};
}

// The start of a row of a cell in the dense matrix.
float* dense_row(const Dense& dense, const Cell& cell, int64_t row) {
  return dense.values + (cell.first_row + row) * dense.row_stride + cell.first_column * dense.column_stride;
}

// For each row of each cell, calls f(its start in the dense matrix, the cell, its non-zeros).
template <class F>
void for_each_row(const Cells& cells, const Dense& dense, int threads, F&& f) {
  parallel(cells.count(), threads, [&](int64_t c) {
    const Cell cell = cell_at(cells, c);
    const RowCount* order = cells.cell_order(cell.panel, cell.block);
    int64_t at = cells.offsets[c];
    for (int64_t i = 0; i < cell.rows; at += order[i++].count)
      f(dense_row(dense, cell, order[i].row), cell, Range{.first = at, .last = at + order[i].count});
  });
}

// By its bits: threads that flush denormal numbers take them for zero in a comparison, and other threads do not.
bool is_zero(float value) { return (std::bit_cast<uint32_t>(value) & 0x7fffffffu) == 0; }

// Whether the columns [first, last) of a row are all zeros.
bool is_zero(const float* row, int64_t stride, int64_t first, int64_t last) {
  for (int64_t k = first; k < last; k++)
    if (!is_zero(row[k * stride])) return false;
  return true;
}

}  // namespace

void order_rows(const uint16_t* counts, int64_t stride, int64_t rows, int64_t most, RowCount* order) {
  std::vector<int64_t> next(most + 2, 0);  // the next entry of rows with `most` - i non-zeros
  for (int64_t r = 0; r < rows; r++) next[most - counts[r * stride] + 1]++;
  for (size_t i = 1; i < next.size(); i++) next[i] += next[i - 1];
  for (int64_t r = 0; r < rows; r++) {
    const uint16_t count = counts[r * stride];
    order[next[most - count]++] = {.row = static_cast<uint16_t>(r), .count = count};
  }
}

int64_t plan_cells(const Dense& dense, const Cells& shape, RowCount* order, int64_t* offsets, int threads) {
  parallel(shape.count(), threads, [&](int64_t c) {
    const Cell cell = cell_at(shape, c);
    std::vector<uint16_t> counts(cell.rows);
    offsets[c + 1] = 0;
    for (int64_t r = 0; r < cell.rows; r++) {
      const float* from = dense_row(dense, cell, r);
      int count = 0;
      for (int64_t k = 0; k < cell.columns; k += shape.unit)
        count += !is_zero(from, dense.column_stride, k, std::min(k + shape.unit, cell.columns));
      counts[r] = static_cast<uint16_t>(count);
      offsets[c + 1] += count;
    }
    order_rows(counts.data(), 1, cell.rows, cell.units, order + shape.order_start(cell.panel, cell.block));
  });
  offsets[0] = 0;
  for (int64_t c = 0; c < shape.count(); c++) offsets[c + 1] += offsets[c];
  return offsets[shape.count()];
}

bool fill_cells(const Dense& dense, const Cells& cells, const NonZeros& to, int threads) {
  std::atomic<bool> fits{true};
  with_values(to.type, [&]<class Type>(Type) {
    constexpr int64_t unit = Type::kUnit;
    auto* values = static_cast<typename Type::Stored*>(to.values);
    for_each_row(cells, dense, threads, [&](const float* row, const Cell& cell, Range left) {
      for (int64_t k = 0; k < cell.columns; k += unit) {
        const int64_t last = std::min(k + unit, cell.columns);
        if (is_zero(row, dense.column_stride, k, last)) continue;
        if (left.first == left.last) {
          fits = false;
          return;
        }
        for (int64_t i = 0; i < unit; i++)
          values[left.first * unit + i] = Type::encode(k + i < last ? row[(k + i) * dense.column_stride] : 0);
        to.index[left.first++] = static_cast<uint8_t>(k / unit);
      }
      if (left.first != left.last) fits = false;
    });
  });
  return fits;
}

void unpack(const Matrix& matrix, const Dense& dense, int threads) {
  const Cells& cells = matrix.cells;
  with_values(matrix.values.type, [&]<class Type>(Type) {
    constexpr int64_t unit = Type::kUnit;
    const auto* values = static_cast<const typename Type::Stored*>(matrix.values.data);
    for_each_row(cells, dense, threads, [&](float* row, const Cell& cell, Range non_zeros) {
      for (int64_t k = 0; k < cell.columns; k++) row[k * dense.column_stride] = 0;
      for (int64_t i = non_zeros.first; i < non_zeros.last; i++) {
        const int64_t first = cells.index[i] * unit, last = std::min(first + unit, cell.columns);
        for (int64_t k = first; k < last; k++) row[k * dense.column_stride] = Type::decode(values[i * unit + k - first]);
      }
    });
  });
}

void sum_rows(const Matrix& matrix, int32_t* sums, int threads) {
  const Cells& cells = matrix.cells;
  const auto* values = static_cast<const Int8::Stored*>(matrix.values.data);
  std::fill(sums, sums + cells.groups() * cells.rows, 0);
  parallel(cells.panels() * cells.groups(), threads, [&](int64_t i) {
    const int64_t panel = i / cells.groups(), group = i % cells.groups();
    int32_t* own = sums + group * cells.rows + panel * kPanel;
    const Range blocks = cells.blocks_of_group(group);
    for (int64_t b = blocks.first; b < blocks.last; b++) {
      const RowCount* order = cells.cell_order(panel, b);
      const Int8::Stored* next = values + cells.offsets[panel * cells.blocks() + b] * Int8::kUnit;
      for (int64_t r = 0; r < cells.panel_rows(panel); r++)
        for (int64_t j = 0; j < order[r].count * Int8::kUnit; j++) own[order[r].row] += *next++;
    }
  });
}

std::string check(const Cells& cells, int64_t non_zeros) {
  if (cells.offsets[0] != 0) return "offsets start at " + std::to_string(cells.offsets[0]) + ", not 0";
  int64_t at = 0;
  for (int64_t c = 0; c < cells.count(); c++) {
    const Cell cell = cell_at(cells, c);
    const std::string where = " in cell " + std::to_string(c);
    const RowCount* order = cells.cell_order(cell.panel, cell.block);
    std::vector<bool> seen(cell.rows, false);
    int64_t total = 0, before = cell.units;
    for (int64_t i = 0; i < cell.rows; i++) {
      const auto [row, count] = order[i];
      if (row >= cell.rows || seen[row]) return "row " + std::to_string(row) + " is out of range or repeated" + where;
      if (count > before) return "rows are not sorted by their non-zeros, or have too many," + where;
      seen[row] = true;
      before = count;
      total += count;
    }
    if (cells.offsets[c + 1] != at + total || at + total > non_zeros)
      return "the offsets disagree with the rows' counts" + where;
    for (int64_t i = 0; i < cell.rows; i++) {
      int64_t previous = -1;
      for (int64_t j = 0; j < order[i].count; j++, at++) {
        if (cells.index[at] <= previous || cells.index[at] >= cell.units)
          return "a column is out of range or out of order" + where;
        previous = cells.index[at];
      }
    }
  }
  if (at != non_zeros) return std::to_string(non_zeros) + " values, but " + std::to_string(at) + " in the cells";
  return "";
}

}  // namespace aerogel
