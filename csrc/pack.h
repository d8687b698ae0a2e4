// Between a dense matrix and the cells of a `Matrix`.
#pragma once

#include <string>

#include "kernel.h"

namespace aerogel {

// A dense float32 matrix, of the integers for int8. Strides in elements, so that a transposed weight needs no copy.
struct Dense {
  float* values;
  int64_t row_stride, column_stride;
};

// Memory for the non-zeros of a matrix, to be filled.
struct NonZeros {
  ValueType type;
  void* values;
  uint8_t* index;
};

// Fills the order of one cell from its rows' numbers of non-zeros, each up to `most`: a counting sort, the largest first;
// rows of equal count stay in their order.
void order_rows(const uint16_t* counts, int64_t stride, int64_t rows, int64_t most, RowCount* order);

// Fills order and offsets for cells of this shape; zeros of either sign are left out, or for a `unit` of several columns
// those units that have nothing else. Returns the number of non-zeros.
int64_t plan_cells(const Dense& dense, const Cells& shape, RowCount* order, int64_t* offsets, int threads);

// Fills values and index of cells whose order and offsets are filled, and writes no more than these have room for.
// Returns whether `dense` still has the non-zeros that were counted.
bool fill_cells(const Dense& dense, const Cells& cells, const NonZeros& to, int threads);

// Writes every element of `dense`.
void unpack(const Matrix& matrix, const Dense& dense, int threads);

// Fills the sums of an int8 matrix, see `Values`.
void sum_rows(const Matrix& matrix, int32_t* sums, int threads);

// What is wrong with cells of this number of non-zeros, or nothing: then no kernel reads or writes outside of their arrays.
std::string check(const Cells& cells, int64_t non_zeros);

}  // namespace aerogel
