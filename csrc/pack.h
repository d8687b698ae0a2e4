// Between a dense matrix and the cells of a `Matrix`.
#pragma once

#include <string>

#include "kernel.h"

namespace aerogel {

// A dense float32 matrix, by strides in elements, so that a transposed weight needs no copy.
struct Dense {
  float* values;
  int64_t rows, columns, row_stride, column_stride;
};

// Fills the order of one cell from its rows' numbers of non-zeros, each up to `most`: a counting sort, the largest first;
// rows of equal count stay in their order.
void order_rows(const uint16_t* counts, int64_t stride, int64_t rows, int64_t most, uint16_t* order);

// Fills order and offsets; a zero of either sign is left out. Returns the number of non-zeros.
int64_t plan_cells(const Dense& dense, int64_t block, uint16_t* order, int64_t* offsets, int threads);

// Fills values and index of a matrix whose order and offsets are there, and writes no more than these have room for.
// Returns whether `dense` still has the non-zeros that were counted.
bool fill_cells(const Dense& dense, const Matrix& matrix, void* values, uint8_t* index, int threads);

// Writes every element of `dense`.
void unpack(const Matrix& matrix, const Dense& dense, int threads);

// What is wrong with the arrays of a matrix of so many non-zeros, or nothing: after this no kernel reads or writes outside
// of them.
std::string check(const Matrix& matrix, int64_t non_zeros);

}  // namespace aerogel
