// int8 weights under a bit mask, see `Bitmask`: 64 columns of a row at a time are expanded in registers.

constexpr int kParts = kGroup / kLanes;  // registers that hold 64 bytes
constexpr int64_t kWords = kPanel / 64;  // of a group of columns

// In each byte how many bits are set in the lower bytes.
inline uint64_t bits_before(uint64_t word) {
  uint64_t counts = word - (word >> 1 & 0x5555555555555555);
  counts = (counts & 0x3333333333333333) + (counts >> 2 & 0x3333333333333333);
  counts = (counts + (counts >> 4)) & 0x0f0f0f0f0f0f0f0f;
  return counts * 0x0101010101010101 << 8;
}

// Calls f(part, its four columns a lane) for each part of 64 columns.
template <class F>
AEROGEL_INLINE void with_parts(uint64_t word, const int8_t* integers, F&& f) {
  const uint64_t before = bits_before(word);
  for (int part = 0; part < kParts; part++) f(part, Vector::expand(word, before, integers, part));
}

// The integers of up to kPanel columns of a row, and at least 64 bytes more, which `expand` may read.
struct ReadableIntegers {
  int8_t copy[kPanel + 64];
  const int8_t* next;

  explicit ReadableIntegers(const MaskedIntegers& from) : next(from.next) {
    const int64_t left = from.end - from.next;
    if (left >= kPanel + 64) return;
    if (left > 0) std::memcpy(copy, from.next, left);
    next = copy;
  }
};

// Up to kPanel columns of a row times one token. Sums of their own, since each would wait for the product before it. Rows
// are short: a call for each takes 15% longer.
AEROGEL_INLINE int32_t multiply_words(const uint64_t* bits, int64_t words, MaskedIntegers& integers, const uint8_t* x) {
  constexpr int kRow = 4, kUnrolled = std::max(1, kRow / kParts), kAhead = 1024;
  const ReadableIntegers readable(integers);
  const int8_t* next = readable.next;
  Int sums[kRow];
  for (Int& sum : sums) sum = Vector::set_int(0);
  const auto multiply = [&](int64_t w, int place) {
    prefetch(next + kAhead);
    with_parts(bits[w], next, [&](int part, Int quads) {
      Int& sum = sums[(place * kParts + part) % kRow];
      sum = Vector::dot(sum, Vector::load_quads(x + 64 * w + 4 * kLanes * part), Vector::factors(quads));
    });
    next += std::popcount(bits[w]);
  };
  int64_t w = 0;
  for (; w + kUnrolled <= words; w += kUnrolled)
    for (int i = 0; i < kUnrolled; i++) multiply(w + i, i);
  for (; w < words; w++) multiply(w, 0);
  integers.next += next - readable.next;
  for (int i = 1; i < kRow; i++) sums[0] = Vector::add_int(sums[0], sums[i]);
  return Vector::total(sums[0]);
}

// The same floats as of a tile, see `dequantize_row`; here the lanes are rows.
void dequantize_rows(const MaskedProduct& task, int64_t token, int64_t first, int64_t count) {
  const Matrix& matrix = task.layer.matrix;
  const Quads& x = task.x[token];
  const int32_t* sums = task.sums + token * matrix.cells.groups() * kGroup;
  float scales[kGroup] = {}, y[kGroup] = {};
  std::memcpy(scales, matrix.values.scales + first, count * sizeof(float));
  if (task.layer.bias) std::memcpy(y, task.layer.bias + first, count * sizeof(float));
  for (int64_t g = 0; g < matrix.cells.groups(); g++) {
    int32_t row_sums[kGroup] = {};
    std::memcpy(row_sums, matrix.values.sums + g * matrix.cells.rows + first, count * sizeof(int32_t));
    const Reg step = Vector::set(x.steps[g]);
    const Int zero = Vector::set_int(x.zeros[g]);
    for (int r = 0; r < kGroup; r += kLanes) {
      const Int zeros = Vector::multiply_int(zero, Vector::load_int(row_sums + r));
      const Reg exact = Vector::to_float(Vector::subtract_int(Vector::load_int(sums + g * kGroup + r), zeros));
      const Reg factor = Vector::multiply(step, Vector::load(scales + r));
      Vector::store(y + r, Vector::fma(exact, factor, Vector::load(y + r)));
    }
  }
  std::memcpy(task.y + token * task.stride + first, y, count * sizeof(float));
}

// The integers of up to kPanel columns of a row, with the zeros between them.
void expand_words(const uint64_t* bits, int64_t words, MaskedIntegers& integers, int8_t* to) {
  const ReadableIntegers readable(integers);
  const int8_t* next = readable.next;
  for (int64_t w = 0; w < words; w++) {
    with_parts(bits[w], next, [&](int part, Int quads) {
      Vector::store_int(reinterpret_cast<int32_t*>(to + 64 * w + 4 * kLanes * part), quads);
    });
    next += std::popcount(bits[w]);
  }
  integers.next += next - readable.next;
}

// sums[token][row] of expanded rows and a group of columns; the sums stay in registers.
template <int kTokens>
void multiply_rows(const int8_t* rows, int64_t row_stride, int64_t columns, const uint8_t* const (&x)[kTokens],
                   int32_t* sums, int64_t token_stride) {
  Int sum[kMaskedRows][kTokens];
  for (auto& row : sum)
    for (Int& one : row) one = Vector::set_int(0);
  for (int64_t c = 0; c < columns; c += 4 * kLanes) {
    Int quads[kTokens];
    for (int t = 0; t < kTokens; t++) quads[t] = Vector::load_quads(x[t] + c);
    for (int r = 0; r < kMaskedRows; r++) {
      const auto weights = Vector::factors(Vector::load_quads(rows + r * row_stride + c));
      for (int t = 0; t < kTokens; t++) sum[r][t] = Vector::dot(sum[r][t], quads[t], weights);
    }
  }
  for (int t = 0; t < kTokens; t++)
    for (int r = 0; r < kMaskedRows; r++) sums[t * token_stride + r] = Vector::total(sum[r][t]);
}

// A few rows at a time are expanded into the first cache, and multiply all tokens there.
void multiply_masked_tokens(const MaskedProduct& task) {
  constexpr int kTokens = kLanes < 16 ? 2 : 4;
  const Matrix& matrix = task.layer.matrix;
  const int64_t words = matrix.words(), row_stride = 64 * words, token_stride = matrix.cells.groups() * kGroup;
  MaskedIntegers integers = MaskedIntegers::from(matrix, matrix.mask.starts[task.chunks.first]);
  const uint64_t* bits = matrix.mask.bits + task.chunks.first * kGroup * matrix.mask.step;
  const auto multiply = [&]<int kSome>(int64_t token, int64_t row) {
    for (int64_t first = 0; first < row_stride; first += kPanel) {
      const uint8_t* x[kSome];
      for (int t = 0; t < kSome; t++) x[t] = task.x[token + t].data + first;
      int32_t* sums = task.sums + token * token_stride + first / kPanel * kGroup + row;
      multiply_rows<kSome>(task.rows + first, row_stride, std::min(kPanel, row_stride - first), x, sums, token_stride);
    }
  };
  for (int64_t chunk = task.chunks.first; chunk < task.chunks.last; chunk++) {
    const int64_t first = chunk * kGroup, count = std::min<int64_t>(kGroup, matrix.cells.rows - first);
    for (int64_t row = 0; row < count; row += kMaskedRows) {
      for (int64_t r = 0; r < std::min<int64_t>(kMaskedRows, count - row); r++, bits += matrix.mask.step)
        for (int64_t w = 0; w < words; w += kWords)
          expand_words(bits + w, std::min(kWords, words - w), integers, task.rows + r * row_stride + 64 * w);
      int64_t token = 0;
      for (; token + kTokens <= task.tokens; token += kTokens) multiply.template operator()<kTokens>(token, row);
      for (; token < task.tokens; token++) multiply.template operator()<1>(token, row);
    }
    for (int64_t t = 0; t < task.tokens; t++) dequantize_rows(task, t, first, count);
  }
}

void multiply_masked(const MaskedProduct& task) {
  if (task.tokens > 1) return multiply_masked_tokens(task);
  const Matrix& matrix = task.layer.matrix;
  const Cells& shape = matrix.cells;
  const int64_t words = matrix.words();
  MaskedIntegers integers = MaskedIntegers::from(matrix, matrix.mask.starts[task.chunks.first]);
  const uint64_t* bits = matrix.mask.bits + task.chunks.first * kGroup * matrix.mask.step;
  for (int64_t chunk = task.chunks.first; chunk < task.chunks.last; chunk++) {
    const int64_t first = chunk * kGroup, count = std::min<int64_t>(kGroup, shape.rows - first);
    for (int64_t r = 0; r < count; r++, bits += matrix.mask.step)
      for (int64_t w = 0; w < words; w += kWords)
        task.sums[w / kWords * kGroup + r] =
            multiply_words(bits + w, std::min(kWords, words - w), integers, task.x->data + 64 * w);
    dequantize_rows(task, 0, first, count);
  }
}

// The lowest bit of each quad that is not all zeros.
inline uint64_t quads_of(uint64_t word) {
  word |= word >> 1;
  return (word | word >> 2) & 0x1111111111111111;
}

MaskCount count_mask(const uint64_t* bits, int64_t words) {
  MaskCount count{};
  for (int64_t w = 0; w < words; w++) {
    count.integers += std::popcount(bits[w]);
    count.quads += std::popcount(quads_of(bits[w]));
  }
  return count;
}

// Writes the lanes with any of their four bits, and their numbers from `first` on, with room for all of them. Returns how
// many there are.
template <class V = Vector>
inline int store_used(uint64_t bits, Int quads, int first, int8_t* to, uint8_t* units) {
  if constexpr (V::kCompresses) {
    return V::store_used(bits, quads, first, to, units);
  } else {
    int32_t all[kLanes];
    V::store_int(all, quads);
    int count = 0;
    for (int i = 0; i < kLanes; i++) {  // a branch would be mispredicted as often as not
      std::memcpy(to + 4 * count, all + i, 4);
      units[count] = static_cast<uint8_t>(first + i);
      count += (bits >> 4 * i & 15) != 0;
    }
    return count;
  }
}

void expand_quads(const uint64_t* bits, int64_t words, MaskedIntegers integers, int8_t* quads, uint8_t* index) {
  const ReadableIntegers readable(integers);
  const int8_t* next = readable.next;
  for (int64_t w = 0; w < words; w++) {
    with_parts(bits[w], next, [&](int part, Int columns) {
      const int first = kLanes * part;
      const int count = store_used(bits[w] >> 4 * first, columns, static_cast<int>(16 * w) + first, quads, index);
      quads += 4 * count;
      index += count;
    });
    next += std::popcount(bits[w]);
  }
}
