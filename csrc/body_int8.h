// Linear layers with int8 values: a tile is quantized, multiplied in quads, and the integer sums become floats again. Sums
// and quantized tiles are the same on every instruction set, bit for bit.

using Int = Vector::Int;

inline Int broadcast_quad(const int8_t* p) {
  int32_t quad;
  std::memcpy(&quad, p, sizeof quad);
  return Vector::set_int(quad);
}

// The range of a token and 0, and how its values become bytes. It is divided into 254 steps, one less than there are: so
// rounding the zero point never carries a value outside of a byte.
struct TokenRange {
  Reg low = Vector::set(0.0f), high = Vector::set(0.0f);
  Reg finite = Vector::set(0.0f);  // NaN after an infinity or a NaN

  void add(Reg value) {
    low = Vector::min(low, value);
    high = Vector::max(high, value);
    finite = Vector::fma(value, Vector::set(0.0f), finite);
  }
};

struct Quantizer {
  Reg step, inverse, zero;

  static Quantizer of(const TokenRange& range) {
    const Reg part = Vector::set(1.0f / 254);
    const Reg step = Vector::subtract(Vector::multiply(range.high, part), Vector::multiply(range.low, part));
    const Reg inverse = Vector::zero_where_below(Vector::divide(Vector::set(1.0f), step), step, 1e-37f);
    const Reg zero = Vector::round(Vector::subtract(Vector::set(0.0f), Vector::multiply(range.low, inverse)));
    return {.step = Vector::add(step, range.finite), .inverse = inverse,
            .zero = Vector::subtract(zero, Vector::set(Vector::kOffset))};  // 0, or 128 where bytes are signed
  }
  // The byte is the lowest of the result: near 1.5 x 2^23 floats are integers.
  Int operator()(Reg value) const {
    return Vector::bits(Vector::add(Vector::multiply(value, inverse), Vector::add(zero, Vector::set(12582912.0f))));
  }
};

// Row after row of the tile, since its neighbours arrive together from the second cache.
// `value(i)` is called once for the values at tile + i, and may change them.
template <int kRegs, class Value>
void quantize_columns(const float* tile, int64_t features, const Quads& to, Value value) {
  constexpr int64_t kWidth = kRegs * kLanes;
  TokenRange ranges[kRegs];
  for (int64_t f = 0; f < features; f++)
    for (int r = 0; r < kRegs; r++) ranges[r].add(value(f * kWidth + r * kLanes));
  Quantizer quantizers[kRegs];
  for (int r = 0; r < kRegs; r++) {
    quantizers[r] = Quantizer::of(ranges[r]);
    Vector::store(to.steps + r * kLanes, quantizers[r].step);
    Vector::store_int(to.zeros + r * kLanes, Vector::to_int(quantizers[r].zero));
  }
  for (int64_t f = 0; f < features; f += 4) {
    const int64_t some = std::min<int64_t>(features - f, 4);
    for (int r = 0; r < kRegs; r++) {
      const float* x = tile + f * kWidth + r * kLanes;
      Int quad[4];
      for (int i = 0; i < 4; i++) quad[i] = quantizers[r](i < some ? Vector::load(x + i * kWidth) : Vector::set(0.0f));
      Vector::store_bytes(to.data + 4 * (f / 4 * kWidth + r * kLanes), quad);
    }
  }
}

void quantize(const float* tile, int64_t features, int width, const Quads& to) {
  with_width(width, [&]<int kRegs>() {
    quantize_columns<kRegs>(tile, features, to, [=](int64_t i) { return Vector::load(tile + i); });
  });
}

void quantize_activated(Activation activation, float* tile, int64_t features, int width, const Quads& to) {
  with_activation(activation, true, [&](auto of) {
    const auto activated = [=](int64_t i) {
      const Reg value = of(Vector::load(tile + i));
      Vector::store(tile + i, value);
      return value;
    };
    with_width(width, [&]<int kRegs>() { quantize_columns<kRegs>(tile, features, to, activated); });
  });
}

// One token: its features are neighbours, and so the lanes have parts of its range.
void quantize_token(const float* x, int64_t features, const Quads& to) {
  TokenRange parts;
  for (int64_t f = 0; f < features; f += kLanes) parts.add(load_some(x + f, features - f));
  float low[kLanes], high[kLanes], finite[kLanes];
  Vector::store(low, parts.low);
  Vector::store(high, parts.high);
  Vector::store(finite, parts.finite);
  for (int i = 1; i < kLanes; i++) {
    low[0] = std::min(low[0], low[i]);
    high[0] = std::max(high[0], high[i]);
    finite[0] += finite[i];
  }
  const Quantizer quantizer =
      Quantizer::of({.low = Vector::set(low[0]), .high = Vector::set(high[0]), .finite = Vector::set(finite[0])});
  float steps[kLanes];
  int32_t zeros[kLanes];
  Vector::store(steps, quantizer.step);
  Vector::store_int(zeros, Vector::to_int(quantizer.zero));
  *to.steps = steps[0];
  *to.zeros = zeros[0];
  for (int64_t f = 0; f < features; f += kLanes)
    Vector::store_low_bytes(to.data + f, quantizer(load_some(x + f, features - f)));
}

// One cell of quads, like CellRows.
struct CellQuads {
  const int8_t* values;
  const uint8_t* index;
  const RowCount *order, *end;
  int64_t units;
};

// What the integer sums of a panel become: y = scales steps (sums - zeros row_sums) + bias, added to y if it accumulates.
struct Dequantize {
  const float* scales;
  const int32_t* row_sums;
  const float* bias;
  const float* steps;
  const int32_t* zeros;
  float* y;
  bool accumulate;
};

template <int kRegs>
inline void dequantize_row(const Int (&sum)[kRegs], int64_t row, const Dequantize& to) {
  float* y = to.y + row * (kRegs * kLanes);
  const Reg scale = Vector::set(to.scales[row]), bias = Vector::set(to.bias ? to.bias[row] : 0.0f);
  const Int row_sum = Vector::set_int(to.row_sums[row]);
  for (int r = 0; r < kRegs; r++, y += kLanes) {
    const Int zeros = Vector::multiply_int(Vector::load_int(to.zeros + r * kLanes), row_sum);
    const Reg exact = Vector::to_float(Vector::subtract_int(sum[r], zeros));
    const Reg factor = Vector::multiply(Vector::load(to.steps + r * kLanes), scale);
    Vector::store(y, Vector::fma(exact, factor, to.accumulate ? Vector::load(y) : bias));
  }
}

// Rows of a cell that have equally many quads, side by side: the sums of one would wait for each other. Rows with all quads
// also share the loads of x.
template <int kRows, int kRegs, bool kWhole>
inline void multiply_quad_rows(const CellQuads& cell, const uint8_t* x, int32_t* sums, const Dequantize* to, bool first) {
  constexpr int64_t kWidth = kRegs * kLanes;
  const int64_t count = cell.order->count;
  Int sum[kRows][kRegs];
  for (int i = 0; i < kRows; i++)
    for (int r = 0; r < kRegs; r++)
      sum[i][r] = first ? Vector::set_int(0) : Vector::load_int(sums + cell.order[i].row * kWidth + r * kLanes);
  const auto accumulate = [&](int i, Int quad, int64_t unit) {
    const auto weights = Vector::factors(quad);
    const uint8_t* from = x + unit * (4 * kWidth);
    for (int r = 0; r < kRegs; r++)
      sum[i][r] = Vector::dot(sum[i][r], Vector::load_quads(from + r * 4 * kLanes), weights);
  };
  int64_t j = 0;
  if constexpr (!kWhole && kLanes > 1) {
    for (; j + 4 <= count; j += 4) {
      for (int i = 0; i < kRows; i++) {
        const int64_t at = j + i * count;
        const auto quads = Vector::four(Float32{}, reinterpret_cast<const float*>(cell.values + 4 * at));  // of 32 bits, too
        with_four(quads, cell.index + at, [&](Reg quad, int64_t unit) { accumulate(i, Vector::bits(quad), unit); });
      }
    }
  }
  for (; j < count; j++) {
    Int shared[kRegs];
    if constexpr (kWhole)
      for (int r = 0; r < kRegs; r++) shared[r] = Vector::load_quads(x + j * 4 * kWidth + r * 4 * kLanes);
    for (int i = 0; i < kRows; i++) {
      const Int quad = broadcast_quad(cell.values + 4 * (j + i * count));
      if constexpr (kWhole) {
        const auto weights = Vector::factors(quad);
        for (int r = 0; r < kRegs; r++) sum[i][r] = Vector::dot(sum[i][r], shared[r], weights);
      } else {
        accumulate(i, quad, cell.index[j + i * count]);
      }
    }
  }
  for (int i = 0; i < kRows; i++) {
    const int64_t row = cell.order[i].row;
    if (to)
      dequantize_row<kRegs>(sum[i], row, *to);
    else
      for (int r = 0; r < kRegs; r++) Vector::store_int(sums + row * kWidth + r * kLanes, sum[i][r]);
  }
}

// The sums begin at 0 in the first cell of a group, and are dequantized in its last.
template <int kRegs>
AEROGEL_NOINLINE void multiply_quads_of_cell(CellQuads cell, const uint8_t* x, int32_t* sums, const Dequantize* to,
                                              bool first) {
  constexpr int kRows = std::max(1, 4 / kRegs), kWholeRows = std::max(1, Vector::kSums / kRegs);
  const auto multiply = [&]<int kSome, bool kWhole>() {
    multiply_quad_rows<kSome, kRegs, kWhole>(cell, x, sums, to, first);
    const int64_t quads = kSome * cell.order->count;
    cell.order += kSome;
    cell.values += 4 * quads;
    cell.index += quads;
  };
  // rows are sorted by count: the last of several tells whether all have as many as the first
  while (cell.end - cell.order >= kWholeRows && cell.order[kWholeRows - 1].count == cell.units)
    multiply.template operator()<kWholeRows, true>();
  while (cell.order < cell.end) {
    const int64_t count = cell.order->count;
    if (count == 0 && !first && !to) break;
    if (kRows > 1 && cell.end - cell.order >= kRows && cell.order[kRows - 1].count == count)
      multiply.template operator()<kRows, false>();
    else
      multiply.template operator()<1, false>();
  }
}

template <int kRegs>
void multiply_quads(const GroupProduct& task) {
  const Matrix& matrix = task.layer.matrix;
  const Cells& cells = matrix.cells;
  const int64_t rows = cells.panel_rows(task.panel), first_row = task.panel * kPanel;
  const Dequantize to{.scales = matrix.values.scales + first_row,
                      .row_sums = matrix.values.sums + task.group * cells.rows + first_row,
                      .bias = task.layer.bias ? task.layer.bias + first_row : nullptr,
                      .steps = task.x.quads.steps, .zeros = task.x.quads.zeros, .y = task.y, .accumulate = task.group > 0};
  const auto [first, last] = cells.blocks_of_group(task.group);
  for (int64_t b = first; b < last; b++) {
    const int64_t offset = cells.offsets[task.panel * cells.blocks() + b];
    const RowCount* order = cells.cell_order(task.panel, b);
    const CellQuads cell{.values = static_cast<const int8_t*>(matrix.values.data) + 4 * offset,
                         .index = cells.index + offset, .order = order, .end = order + rows,
                         .units = std::min(cells.block, cells.units() - b * cells.block)};
    const uint8_t* x = task.x.quads.data + (b - first) * cells.block * 4 * kRegs * kLanes;
    multiply_quads_of_cell<kRegs>(cell, x, task.sums, b == last - 1 ? &to : nullptr, b == first);
  }
}

// Rows of a cell times one token, like multiply_vector_rows; the zero point is left to the caller, once for all cells.
void multiply_vector_quads(const int8_t* values, const uint8_t* index, const RowCount* order, const RowCount* end,
                           const Quads& x, float* y) {
  for (; order < end && order->count > 0; order++) {
    const int64_t count = order->count;
    Int lanes = Vector::set_int(0);
    const auto accumulate = [&](const int8_t* weights, const uint8_t* columns) {
      const Int quads = Vector::gather_quads(x.data, columns);
      lanes = Vector::dot(lanes, quads, Vector::factors(Vector::load_quads(weights)));
    };
    int64_t j = 0;
    for (; j + kLanes <= count; j += kLanes) accumulate(values + 4 * j, index + j);
    if (j < count) {
      int8_t weights[4 * kLanes] = {};
      uint8_t columns[kLanes] = {};
      std::memcpy(weights, values + 4 * j, 4 * (count - j));
      std::memcpy(columns, index + j, count - j);
      accumulate(weights, columns);
    }
    y[order->row] += *x.steps * static_cast<float>(Vector::total(lanes));
    values += 4 * count;
    index += count;
  }
}
