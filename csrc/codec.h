// Where the non-zeros of a matrix are, as a checkpoint keeps it: docs/format.md.
#pragma once

#include <string>

#include "kernel.h"

namespace aerogel {

// A stream of positions: a Rice code of the gaps between neighbouring non-zeros, row after row.
struct Positions {
  const uint8_t* bytes;
  int64_t size;       // bytes
  int64_t non_zeros;  // how many positions there are
};

// Bits of a gap that are written as they are, for a matrix of so many elements.
int rice_parameter(int64_t elements, int64_t non_zeros);

// Bytes that no stream of such a matrix exceeds.
int64_t most_bytes(int64_t elements, int64_t non_zeros);

// Writes the positions of a matrix's non-zeros, and their values in the same order. Returns the bytes of the stream.
int64_t encode(const Matrix& matrix, uint8_t* stream, void* values);

// Reads the whole stream, and from it fills order and offsets of a matrix with these rows, columns and block. Returns what
// is wrong with the stream, or nothing.
std::string plan_decoded(const Positions& positions, int64_t rows, int64_t columns, int64_t block, uint16_t* order,
                         int64_t* offsets);

// Fills `filled` and `index` of a matrix from a stream that `plan_decoded` has found sound, and values in its order.
void fill_decoded(const Positions& positions, const void* values, const Matrix& matrix, void* filled, uint8_t* index);

}  // namespace aerogel
