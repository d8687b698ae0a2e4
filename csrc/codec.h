// The non-zeros of a matrix, as a checkpoint keeps them: docs/format.md.
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

constexpr int kLongestCode = 12;

// A part of every value's bits that is written in a Huffman code. There may be none: then it has 0 bits.
struct Field {
  int bits;
  // To write: [2^bits], the code of each symbol. To read: [2^kLongestCode], the symbol whose code these bits begin with.
  // Either is followed by the code's length, in four bits.
  const uint16_t* codes;
};

// How values are written. Their bits are taken without the lowest `dropped`, which are 0 in all values, and with the sign
// behind the others. The highest of these bits are one field, the lowest another, those between them are written as they are.
struct Coding {
  int width;  // of a value: 16 or 32 bits
  int dropped;
  Field high, low;

  int middle() const { return width - dropped - high.bits - low.bits; }
};

// A stream of values in that coding.
struct Values {
  const uint8_t* bytes;
  int64_t size;
  Coding coding;
};

// Write the positions of a matrix's non-zeros, or their values, row after row. Return the bytes of the stream. `bits` has
// each value's in the order of the matrix, as the coding wants them.
int64_t encode_positions(const Matrix& matrix, uint8_t* stream);
int64_t encode_values(const Matrix& matrix, const uint32_t* bits, const Coding& coding, uint8_t* stream);

// Reads the whole stream, and from it fills order and offsets of a matrix with these rows, columns and block. Returns what
// is wrong with the stream, or nothing.
std::string plan_decoded(const Positions& positions, int64_t rows, int64_t columns, int64_t block, uint16_t* order,
                         int64_t* offsets);

// Fills `filled` (of the coding's width) and `index` of a matrix from a stream that `plan_decoded` has found sound, and its
// values. Returns what is wrong with these, or nothing.
std::string fill_decoded(const Positions& positions, const Values& values, const Matrix& matrix, void* filled,
                         uint8_t* index);

}  // namespace aerogel
