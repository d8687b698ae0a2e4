// The kernels, written once for any vector type. A translation unit defines `Vector` for its instruction set in a
// namespace of its own, includes this file there, and fills a table of `Kernels`.

// No include guard: each instruction set compiles its own copy. The includes stand in each translation unit, outside
// its namespace: <algorithm> <bit> <cmath> <cstring> <iterator> and kernel.h.

using Reg = Vector::Reg;
constexpr int kLanes = Vector::kLanes;
constexpr int kPerGroup = kGroup / kLanes;  // registers to hold 16 tokens

static_assert(std::endian::native == std::endian::little, "four columns are read as one number");

inline float value_at(const float* values, int64_t i) { return values[i]; }
inline float value_at(const uint16_t* values, int64_t i) {
  const uint32_t bits = static_cast<uint32_t>(values[i]) << 16;  // bfloat16 is the upper half of a float32
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// exp, to about 2 units in the last place; 0 below -87.
inline Reg exponential(Reg x) {
  // min and max keep their second operand where it is not a number
  const Reg clamped = Vector::min(Vector::set(88.3f), Vector::max(Vector::set(-87.3f), x));
  const Reg n = Vector::round(Vector::multiply(clamped, Vector::set(1.44269504f)));
  // ln 2 in two parts, so that n ln 2 is subtracted without rounding
  Reg r = Vector::fma(n, Vector::set(-0.693359375f), clamped);
  r = Vector::fma(n, Vector::set(2.12194440e-4f), r);
  Reg p = Vector::set(1.0f / 5040);
  p = Vector::fma(p, r, Vector::set(1.0f / 720));
  p = Vector::fma(p, r, Vector::set(1.0f / 120));
  p = Vector::fma(p, r, Vector::set(1.0f / 24));
  p = Vector::fma(p, r, Vector::set(1.0f / 6));
  p = Vector::fma(p, r, Vector::set(0.5f));
  p = Vector::fma(p, r, Vector::set(1.0f));
  p = Vector::fma(p, r, Vector::set(1.0f));
  return Vector::zero_where_below(Vector::times_power_of_two(p, n), x, -87.3f);
}

inline Reg sigmoid(Reg x) {
  const Reg one = Vector::set(1.0f);
  return Vector::divide(one, Vector::add(one, exponential(Vector::subtract(Vector::set(0.0f), x))));
}

// x Phi(x) = max(x, 0) - a Q(a), a = |x|, Q(a) = erfc(a / sqrt 2) / 2: a polynomial in a, fitted over [0, 5.5] by least
// squares weighted by a, on t = 2 a / 5.5 - 1 so that no large terms cancel. The result is off by at most 3e-7.
inline Reg gelu(Reg x) {
  constexpr float kQ[] = {-0.005662990268f, 0.005453404505f,  0.030314652249f,  -0.043845996261f,
                          -0.049204435200f, 0.133553043008f,  -0.034909091890f, -0.163230538368f,
                          0.218451678753f,  -0.051355373114f, -0.177171990275f, 0.271885126829f,
                          -0.206807300448f, 0.094558112323f,  -0.025008084252f, 0.002979773097f};
  const Reg zero = Vector::set(0.0f);
  const Reg a = Vector::min(Vector::set(5.5f), Vector::max(x, Vector::subtract(zero, x)));
  const Reg t = Vector::fma(a, Vector::set(2 / 5.5f), Vector::set(-1.0f));
  Reg q = Vector::set(kQ[0]);
  for (size_t i = 1; i < std::size(kQ); i++) q = Vector::fma(q, t, Vector::set(kQ[i]));
  return Vector::subtract(Vector::max(x, zero), Vector::multiply(a, q));
}

inline Reg gelu_tanh(Reg x) {
  // (1 + tanh u) / 2 is sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
  const Reg u = Vector::fma(Vector::multiply(Vector::multiply(x, x), x), Vector::set(0.044715f), x);
  return Vector::multiply(x, sigmoid(Vector::multiply(u, Vector::set(1.59576912f))));
}

template <class F>
inline void each(float* y, int64_t count, F f) {
  // counts are multiples of 16 in tiles; a vector's tail goes through a padded copy
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Vector::store(y + i, f(Vector::load(y + i), i));
  if (i < count) {
    float padded[kLanes] = {};
    std::memcpy(padded, y + i, (count - i) * sizeof(float));
    Vector::store(padded, f(Vector::load(padded), i));
    std::memcpy(y + i, padded, (count - i) * sizeof(float));
  }
}

void activate(Activation activation, float* y, int64_t count) {
  switch (activation) {
    case Activation::relu: return each(y, count, [](Reg x, int64_t) { return Vector::max(Vector::set(0.0f), x); });
    case Activation::gelu: return each(y, count, [](Reg x, int64_t) { return gelu(x); });
    case Activation::gelu_tanh: return each(y, count, [](Reg x, int64_t) { return gelu_tanh(x); });
    case Activation::silu: return each(y, count, [](Reg x, int64_t) { return Vector::multiply(x, sigmoid(x)); });
  }
}

bool finite(const float* x, int64_t count) {
  // 0 x is 0 for a number, and not a number for all else
  Reg sum = Vector::set(0.0f);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sum = Vector::fma(Vector::load(x + i), Vector::set(0.0f), sum);
  float lanes[kLanes], total = 0;
  Vector::store(lanes, sum);
  for (const float lane : lanes) total += lane;
  for (; i < count; i++) total += x[i] * 0.0f;
  return total == 0.0f;
}

inline Reg load_some(const float* x, int64_t count) {
  if (count >= kLanes) return Vector::load(x);
  float padded[kLanes] = {};
  if (count > 0) std::memcpy(padded, x, count * sizeof(float));
  return Vector::load(padded);
}

inline void store_some(float* x, Reg value, int64_t count) {
  if (count >= kLanes) return Vector::store(x, value);
  float padded[kLanes];
  Vector::store(padded, value);
  if (count > 0) std::memcpy(x, padded, count * sizeof(float));
}

void add(const float* x, float* y, int64_t count) {
  each(y, count, [=](Reg v, int64_t i) { return Vector::add(v, load_some(x + i, count - i)); });
}

void times(const float* x, float* y, int64_t count) {
  each(y, count, [=](Reg v, int64_t i) { return Vector::multiply(v, load_some(x + i, count - i)); });
}

// Both ways go along the features of a few tokens at a time: so many streams the processor fetches ahead by itself.
void load_tile(const float* x, int64_t stride, int64_t tokens, int64_t features, int width, float* tile) {
  for (int t = 0; t < width; t += kLanes) {
    for (int64_t f = 0; f < features; f += kLanes) {
      Reg square[kLanes];
      for (int i = 0; i < kLanes; i++)
        square[i] = t + i < tokens ? load_some(x + (t + i) * stride + f, features - f) : Vector::set(0.0f);
      Vector::transpose(square);
      const int64_t left = std::min<int64_t>(kLanes, features - f);
      for (int64_t i = 0; i < left; i++) Vector::store(tile + (f + i) * width + t, square[i]);
    }
  }
}

void store_tile(const float* tile, int width, int64_t tokens, int64_t features, float* x, int64_t stride) {
  for (int t = 0; t < tokens; t += kLanes) {
    const int64_t some = std::min<int64_t>(kLanes, tokens - t);
    for (int64_t f = 0; f < features; f += kLanes) {
      const int64_t left = std::min<int64_t>(kLanes, features - f);
      Reg square[kLanes];
      for (int i = 0; i < kLanes; i++)
        square[i] = i < left ? Vector::load(tile + (f + i) * width + t) : Vector::set(0.0f);
      Vector::transpose(square);
      for (int64_t i = 0; i < some; i++) store_some(x + (t + i) * stride + f, square[i], left);
    }
  }
}

// Each non-zero is broadcast and multiplied into the tile's row of its column; a row's sums stay in registers.
template <int kRegs, class T>
void multiply_panel(const Matrix& matrix, int64_t panel, int64_t first, int64_t last, const float* x, float* y,
                    const float* bias, bool fresh) {
  constexpr int64_t kWidth = kRegs * kLanes;
  const int64_t rows = matrix.panel_rows(panel), cell = panel * matrix.blocks();
  for (int64_t b = first; b < last; b++, x += matrix.block * kWidth) {
    const T* values = static_cast<const T*>(matrix.values) + matrix.offsets[cell + b];
    const uint8_t* index = matrix.index + matrix.offsets[cell + b];
    const uint16_t* order = matrix.cell_order(panel, b);
    const bool start = fresh && b == first;
    for (int64_t i = 0; i < rows; i++) {
      const int64_t row = order[2 * i], count = order[2 * i + 1];
      if (count == 0 && !start) break;  // rows are sorted by count: only empty ones follow
      float* sums = y + row * kWidth;
      Reg sum[kRegs];
      if (start) {
        const Reg begin = Vector::set(bias ? bias[panel * kPanel + row] : 0.0f);
        for (int r = 0; r < kRegs; r++) sum[r] = begin;
      } else {
        for (int r = 0; r < kRegs; r++) sum[r] = Vector::load(sums + r * kLanes);
      }
      const auto add = [&](Reg weight, int64_t column) {
        const float* from = x + column * kWidth;
        for (int r = 0; r < kRegs; r++) sum[r] = Vector::fma(weight, Vector::load(from + r * kLanes), sum[r]);
      };
      int64_t j = 0;
      for (; j + 4 <= count; j += 4) {
        // loads are what there is least of: one for four weights, one for four columns
        const typename Vector::Four weights = Vector::four(values + j);
        uint32_t columns;
        std::memcpy(&columns, index + j, sizeof columns);
        add(Vector::template pick<0>(weights), columns & 255);
        add(Vector::template pick<1>(weights), columns >> 8 & 255);
        add(Vector::template pick<2>(weights), columns >> 16 & 255);
        add(Vector::template pick<3>(weights), columns >> 24);
      }
      for (; j < count; j++) add(Vector::set(value_at(values, j)), index[j]);
      for (int r = 0; r < kRegs; r++) Vector::store(sums + r * kLanes, sum[r]);
      values += count;
      index += count;
    }
  }
}

template <class T>
void multiply_typed(const Matrix& matrix, int64_t panel, int64_t first, int64_t last, const float* x, float* y,
                    int width, const float* bias, bool fresh) {
  switch (width / kGroup) {
    case 1: return multiply_panel<1 * kPerGroup, T>(matrix, panel, first, last, x, y, bias, fresh);
    case 2: return multiply_panel<2 * kPerGroup, T>(matrix, panel, first, last, x, y, bias, fresh);
    case 3: return multiply_panel<3 * kPerGroup, T>(matrix, panel, first, last, x, y, bias, fresh);
    default: return multiply_panel<4 * kPerGroup, T>(matrix, panel, first, last, x, y, bias, fresh);
  }
}

void multiply(const Matrix& matrix, int64_t panel, int64_t first, int64_t last, const float* x, float* y, int width,
              const float* bias, bool fresh) {
  if (matrix.type == ValueType::float32)
    multiply_typed<float>(matrix, panel, first, last, x, y, width, bias, fresh);
  else
    multiply_typed<uint16_t>(matrix, panel, first, last, x, y, width, bias, fresh);
}

// One token: memory decides, not arithmetic. Neighbouring rows of a cell mostly have the same count (they are sorted),
// so four go side by side and their sums do not wait for each other.
template <class T>
void multiply_vector_cell(const T* values, const uint8_t* index, const uint16_t* order, int64_t rows, const float* x,
                          float* y) {
  for (int64_t i = 0; i < rows;) {
    const int64_t count = order[2 * i + 1];
    if (count == 0) return;
    if (i + 4 <= rows && order[2 * i + 7] == count) {
      float a = 0, b = 0, c = 0, d = 0;
      for (int64_t j = 0; j < count; j++) {
        a += value_at(values, j) * x[index[j]];
        b += value_at(values, j + count) * x[index[j + count]];
        c += value_at(values, j + 2 * count) * x[index[j + 2 * count]];
        d += value_at(values, j + 3 * count) * x[index[j + 3 * count]];
      }
      y[order[2 * i]] += a;
      y[order[2 * i + 2]] += b;
      y[order[2 * i + 4]] += c;
      y[order[2 * i + 6]] += d;
      values += 4 * count;
      index += 4 * count;
      i += 4;
    } else {
      float sum = 0;
      for (int64_t j = 0; j < count; j++) sum += value_at(values, j) * x[index[j]];
      y[order[2 * i]] += sum;
      values += count;
      index += count;
      i += 1;
    }
  }
}

void multiply_vector(const Matrix& matrix, int64_t first, int64_t last, const float* x, float* y) {
  const int64_t* offsets = matrix.offsets;
  const int64_t cells = matrix.cells();
  for (int64_t c = std::upper_bound(offsets, offsets + cells, first) - offsets - 1; c < cells && offsets[c] < last; c++) {
    const int64_t panel = c / matrix.blocks(), block = c % matrix.blocks();
    const uint16_t* order = matrix.cell_order(panel, block);
    int64_t begin = 0, rows = matrix.panel_rows(panel), at = offsets[c];
    for (; begin < rows && at < first; begin++) at += order[2 * begin + 1];
    if (offsets[c + 1] > last) {
      int64_t end = begin;
      for (int64_t next = at; end < rows && next < last; end++) next += order[2 * end + 1];
      rows = end;
    }
    const float* part = x + block * matrix.block;
    float* sums = y + panel * kPanel;
    if (matrix.type == ValueType::float32)
      multiply_vector_cell(static_cast<const float*>(matrix.values) + at, matrix.index + at, order + 2 * begin,
                           rows - begin, part, sums);
    else
      multiply_vector_cell(static_cast<const uint16_t*>(matrix.values) + at, matrix.index + at, order + 2 * begin,
                           rows - begin, part, sums);
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

void normalise(const Norm& norm, const float* x, float* y, int64_t features, int width) {
  const Reg count = Vector::set(static_cast<float>(features));
  for (int w = 0; w < width; w += kLanes) {
    Reg mean = Vector::set(0.0f), square = Vector::set(0.0f);
    if (norm.centred) {
      for (int64_t f = 0; f < features; f++) mean = Vector::add(mean, Vector::load(x + f * width + w));
      mean = Vector::divide(mean, count);
    }
    for (int64_t f = 0; f < features; f++) {
      const Reg d = Vector::subtract(Vector::load(x + f * width + w), mean);
      square = Vector::fma(d, d, square);
    }
    const Reg variance = Vector::add(Vector::divide(square, count), Vector::set(norm.epsilon));
    const Reg scale = Vector::divide(Vector::set(1.0f), Vector::square_root(variance));
    for (int64_t f = 0; f < features; f++) {
      const Reg d = Vector::multiply(Vector::subtract(Vector::load(x + f * width + w), mean), scale);
      const Reg shift = Vector::set(norm.bias ? norm.bias[f] : 0.0f);
      Vector::store(y + f * width + w, Vector::fma(d, Vector::set(norm.weight[f]), shift));
    }
  }
}

void rotate(float* x, const float* cosine, const float* sine, int64_t half, int width) {
  const int64_t count = half * width;
  for (int64_t i = 0; i < count; i += kLanes) {
    const Reg a = Vector::load(x + i), b = Vector::load(x + count + i), zero = Vector::set(0.0f);
    const Reg first = Vector::fma(a, Vector::load(cosine + i),
                                  Vector::subtract(zero, Vector::multiply(b, Vector::load(sine + i))));
    const Reg second = Vector::fma(b, Vector::load(cosine + count + i), Vector::multiply(a, Vector::load(sine + count + i)));
    Vector::store(x + i, first);
    Vector::store(x + count + i, second);
  }
}

template <int kRows, int kRegs>
inline void product_block(int64_t depth, const float* a, int64_t row_stride, int64_t depth_stride, const float* b,
                          float* out, int width, bool accumulate) {
  Reg sum[kRows][kRegs];
  for (int r = 0; r < kRows; r++)
    for (int k = 0; k < kRegs; k++)
      sum[r][k] = accumulate ? Vector::load(out + r * width + k * kLanes) : Vector::set(0.0f);
  for (int64_t d = 0; d < depth; d++, a += depth_stride, b += width) {
    Reg column[kRegs];
    for (int k = 0; k < kRegs; k++) column[k] = Vector::load(b + k * kLanes);
    for (int r = 0; r < kRows; r++) {
      const Reg left = Vector::set(a[r * row_stride]);
      for (int k = 0; k < kRegs; k++) sum[r][k] = Vector::fma(left, column[k], sum[r][k]);
    }
  }
  for (int r = 0; r < kRows; r++)
    for (int k = 0; k < kRegs; k++) Vector::store(out + r * width + k * kLanes, sum[r][k]);
}

template <int kRegs>
void product_columns(int64_t rows, int64_t depth, const float* a, int64_t row_stride, int64_t depth_stride,
                     const float* b, float* out, int width, bool accumulate) {
  constexpr int kRows = Vector::kRowsAtOnce;
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows)
    product_block<kRows, kRegs>(depth, a + r * row_stride, row_stride, depth_stride, b, out + r * width, width, accumulate);
  for (; r < rows; r++)
    product_block<1, kRegs>(depth, a + r * row_stride, row_stride, depth_stride, b, out + r * width, width, accumulate);
}

void product(int64_t rows, int64_t depth, const float* a, int64_t row_stride, int64_t depth_stride, const float* b,
             float* out, int width, bool accumulate) {
  constexpr int kRegs = Vector::kRegsAtOnce, kStep = kRegs * kLanes;
  int w = 0;
  for (; w + kStep <= width; w += kStep)
    product_columns<kRegs>(rows, depth, a, row_stride, depth_stride, b + w, out + w, width, accumulate);
  for (; w < width; w += kLanes)
    product_columns<1>(rows, depth, a, row_stride, depth_stride, b + w, out + w, width, accumulate);
}

void softmax_step(float* s, int64_t keys, float scale, const float* mask, float* largest, float* total,
                  float* correction, int width) {
  const Reg factor = Vector::set(scale), zero = Vector::set(0.0f);
  for (int w = 0; w < width; w += kLanes) {
    const Reg before = Vector::load(largest + w);
    Reg most = before;
    for (int64_t k = 0; k < keys; k++) {
      const Reg added = mask ? Vector::load(mask + k * width + w) : zero;
      const Reg value = Vector::fma(Vector::load(s + k * width + w), factor, added);
      Vector::store(s + k * width + w, value);
      most = Vector::max(most, value);
    }
    const Reg origin = Vector::max(Vector::set(-3.402823466e38f), most);  // finite, where no key is visible yet
    const Reg shrink = exponential(Vector::subtract(before, origin));
    Reg sum = Vector::multiply(Vector::load(total + w), shrink);
    for (int64_t k = 0; k < keys; k++) {
      const Reg value = exponential(Vector::subtract(Vector::load(s + k * width + w), origin));
      Vector::store(s + k * width + w, value);
      sum = Vector::add(sum, value);
    }
    Vector::store(largest + w, most);
    Vector::store(total + w, sum);
    Vector::store(correction + w, shrink);
  }
}

void scale_columns(float* x, int64_t features, const float* by, int width, bool divide) {
  for (int w = 0; w < width; w += kLanes) {
    const Reg given = Vector::load(by + w);
    const Reg factor = divide ? Vector::divide(Vector::set(1.0f), given) : given;
    for (int64_t f = 0; f < features; f++)
      Vector::store(x + f * width + w, Vector::multiply(Vector::load(x + f * width + w), factor));
  }
}

constexpr Kernels table(const char* name) {
  return {name,     load_tile, store_tile, multiply, multiply_vector, dense_vector, finite,
          activate, add,       times,      normalise, rotate,         product,      softmax_step, scale_columns};
}
