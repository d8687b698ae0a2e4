// The non-zeros of a matrix as checkpoints store them: docs/format.md.
#pragma once

#include <string>

#include "pack.h"

namespace aerogel {

// A stream of positions: a Rice code of the gaps between neighbouring non-zeros, in units, row after row.
struct Positions {
  const uint8_t* bytes;
  int64_t size;          // bytes
  int64_t non_zeros;     // number of positions
  bool implied = false;  // there are no bytes: every unit is a non-zero
};

// An upper bound of the bytes of a stream of positions in a matrix of this number of units.
int64_t most_bytes(int64_t units, int64_t non_zeros);

constexpr int kLongestCode = 12;

// A part of every value's bits that is written in a code; absent where it has 0 bits.
struct Field {
  int bits;
  // To write: [2^bits], the code of each symbol. To read: [2^kLongestCode], the symbol whose code these bits begin with.
  // Either is followed by the code's length, in four bits.
  const uint16_t* codes;
};

// How values are written. Floats: their bits without the lowest `dropped`, which are 0 in all values, and with the sign
// behind the others; the highest of these bits are one field, the lowest another, and those between them are written as
// they are. int8: a quad's mask of integers that are not 0 is the high field, and each of these integers the low one.
struct Coding {
  ValueType type;
  int dropped;
  Field high, low;

  int width() const {
    int bits = 0;
    with_stored(type, [&]<class Type>(Type) { bits = 8 * sizeof(typename Type::Stored); });
    return bits;
  }
  int middle() const { return width() - dropped - high.bits - low.bits; }
};

// A stream of values in that coding.
struct CodedValues {
  const uint8_t* bytes;
  int64_t size;
  Coding coding;
};

// Counts how often each number of `field_bits` bits occurs from bit `shift` on: counts[2^field_bits].
void count_symbols(const uint32_t* bits, int64_t size, int shift, int field_bits, int64_t* counts);

// Write the positions of a matrix's non-zeros, or their values, row after row. Return the bytes of the stream. `bits` has
// each value's bits in the order of the cells, sign last, without the dropped ones; or the bytes of each quad.
int64_t encode_positions(const Cells& cells, uint8_t* stream);
int64_t encode_values(const Cells& cells, const uint32_t* bits, const Coding& coding, uint8_t* stream);

// Reads the whole stream, and from it fills order and offsets for cells of this shape. Returns what is wrong with the
// stream, or nothing.
std::string plan_decoded(const Positions& positions, const Cells& shape, RowCount* order, int64_t* offsets);

// Fills values (of the coding's type) and index from the stream that `plan_decoded` has checked and counted into `cells`,
// and from a stream of values. Returns what is wrong with the values, or nothing.
std::string fill_decoded(const Positions& positions, const CodedValues& values, const Cells& cells, const NonZeros& to);

}  // namespace aerogel
