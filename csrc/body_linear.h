// Linear layers: a panel of a packed weight times a tile, and packed and dense weights times one token.

// The non-zeros of one cell.
template <class Type>
struct CellRows {
  const typename Type::Stored* values;
  const uint8_t* index;
  const RowCount *order, *end;
};

// Each non-zero is broadcast and multiplied into the tile's row of its column; a row's sums stay in registers. Not inlined:
// the loop needs all registers. `start` sets the sums to the panel's bias (or 0) first.
template <int kRegs, class Type>
AEROGEL_NOINLINE void multiply_cell(const CellRows<Type>& cell, const float* x, float* y, const float* bias, bool start) {
  constexpr int64_t kWidth = kRegs * kLanes;
  const auto* values = cell.values;
  const uint8_t* index = cell.index;
  for (const RowCount *entry = cell.order, *end = cell.end; entry < end; entry++) {
    const int64_t row = entry->row, count = entry->count;
    if (count == 0 && !start) break;  // rows are sorted by count: only empty ones follow
    float* sums = y + row * kWidth;
    Reg sum[kRegs];
    if (start) {
      const Reg begin = Vector::set(bias ? bias[row] : 0.0f);
      for (int r = 0; r < kRegs; r++) sum[r] = begin;
    } else {
      for (int r = 0; r < kRegs; r++) sum[r] = Vector::load(sums + r * kLanes);
    }
    const auto accumulate = [&](Reg weight, int64_t column) {
      const float* from = x + column * kWidth;
      for (int r = 0; r < kRegs; r++) sum[r] = Vector::fma(weight, Vector::load(from + r * kLanes), sum[r]);
    };
    int64_t j = 0;
    for (; j + 4 <= count; j += 4) with_four(Vector::four(Type{}, values + j), index + j, accumulate);
    for (; j < count; j++) accumulate(Vector::set(Type::decode(values[j])), index[j]);
    for (int r = 0; r < kRegs; r++) Vector::store(sums + r * kLanes, sum[r]);
    values += count;
    index += count;
  }
}

template <int kRegs, class Type>
void multiply_floats(const GroupProduct& task) {
  const Cells& cells = task.layer.matrix.cells;
  const float* bias = task.layer.bias ? task.layer.bias + task.panel * kPanel : nullptr;
  const int64_t rows = cells.panel_rows(task.panel), step = cells.block * kRegs * kLanes;
  const auto [first, last] = cells.blocks_of_group(task.group);
  for (int64_t b = first; b < last; b++) {
    const int64_t offset = cells.offsets[task.panel * cells.blocks() + b];
    const auto* values = static_cast<const typename Type::Stored*>(task.layer.matrix.values.data) + offset;
    const RowCount* order = cells.cell_order(task.panel, b);
    const CellRows<Type> cell{.values = values, .index = cells.index + offset, .order = order, .end = order + rows};
    multiply_cell<kRegs>(cell, task.x.floats + (b - first) * step, task.y, bias, b == 0);
  }
}

static_assert(std::endian::native == std::endian::little, "four columns are read as one number");

void multiply_group(const GroupProduct& task) {
  with_values(task.layer.matrix.values.type, [&]<class Type>(Type) {
    with_width(task.width, [&]<int kRegs>() {
      if constexpr (std::is_same_v<Type, Int8>)
        multiply_quads<kRegs>(task);
      else
        multiply_floats<kRegs, Type>(task);
    });
  });
}

// One token: memory decides, not arithmetic. Neighbouring rows of a cell mostly have the same count (they are sorted),
// so four are computed side by side and their sums do not wait for each other.
template <class Type>
void multiply_vector_rows(const typename Type::Stored* values, const uint8_t* index, const RowCount* order,
                          const RowCount* end, const float* x, float* y) {
  const auto weight = [&](int64_t j) { return Type::decode(values[j]); };
  while (order < end) {
    const int64_t count = order->count, side_by_side = order + 4 <= end && order[3].count == count ? 4 : 1;
    if (count == 0) return;
    if (side_by_side == 4) {
      float a = 0, b = 0, c = 0, d = 0;
      for (int64_t j = 0; j < count; j++) {
        a += weight(j) * x[index[j]];
        b += weight(j + count) * x[index[j + count]];
        c += weight(j + 2 * count) * x[index[j + 2 * count]];
        d += weight(j + 3 * count) * x[index[j + 3 * count]];
      }
      y[order[0].row] += a;
      y[order[1].row] += b;
      y[order[2].row] += c;
      y[order[3].row] += d;
    } else {
      float sum = 0;
      for (int64_t j = 0; j < count; j++) sum += weight(j) * x[index[j]];
      y[order->row] += sum;
    }
    values += side_by_side * count;
    index += side_by_side * count;
    order += side_by_side;
  }
}

void multiply_vector(const Matrix& matrix, Range range, const Input& x, float* y) {
  const Cells& cells = matrix.cells;
  const int64_t *offsets = cells.offsets, count = cells.count(), first = range.first, last = range.last;
  for (int64_t c = std::upper_bound(offsets, offsets + count, first) - offsets - 1; c < count && offsets[c] < last; c++) {
    const int64_t panel = c / cells.blocks(), block = c % cells.blocks();
    const RowCount *row = cells.cell_order(panel, block), *end = row + cells.panel_rows(panel);
    int64_t at = offsets[c];
    for (; row < end && at < first; row++) at += row->count;
    if (offsets[c + 1] > last) {
      const RowCount* stop = row;
      for (int64_t next = at; stop < end && next < last; stop++) next += stop->count;
      end = stop;
    }
    with_values(matrix.values.type, [&]<class Type>(Type) {
      const auto* values = static_cast<const typename Type::Stored*>(matrix.values.data) + at * Type::kUnit;
      const int64_t column = block * cells.block * Type::kUnit;
      if constexpr (std::is_same_v<Type, Int8>)
        multiply_vector_quads(values, cells.index + at, row, end, x.quads.at(column, 1), y + panel * kPanel);
      else
        multiply_vector_rows<Type>(values, cells.index + at, row, end, x.floats + column, y + panel * kPanel);
    });
  }
}

void dense_vector(const float* weight, int64_t rows, int64_t columns, const float* x, float* y) {
  for (int64_t row = 0; row < rows; row++, weight += columns) {
    constexpr int kSums = 4;  // hides the latency of the multiply-add
    Reg sum[kSums];
    for (auto& s : sum) s = Vector::set(0.0f);
    int64_t c = 0;
    for (; c + kSums * kLanes <= columns; c += kSums * kLanes)
      for (int k = 0; k < kSums; k++)
        sum[k] = Vector::fma(Vector::load(weight + c + k * kLanes), Vector::load(x + c + k * kLanes), sum[k]);
    for (int k = 1; k < kSums; k++) sum[0] = Vector::add(sum[0], sum[k]);
    float lanes[kLanes], total = 0;
    Vector::store(lanes, sum[0]);
    for (float lane : lanes) total += lane;
    for (; c < columns; c++) total += weight[c] * x[c];
    y[row] = total;
  }
}
