// The dense products and the softmax of attention.

// V is `Vector`: a name that only some instruction sets have may stand in a template alone.
template <bool kPairs, int kRows, int kRegs, class V = Vector>
inline void product_block(const Product& task, int64_t first_row, int first_column) {
  const auto [pairs, rows, depth, left, row_stride, depth_stride, right, b_stride, result, out_stride, width, accumulate] =
      task;
  const float *a = left + first_row * row_stride, *b = right + first_column;
  float* out = result + first_row * out_stride + first_column;
  Reg sum[kRows][kRegs];
  for (int r = 0; r < kRows; r++)
    for (int k = 0; k < kRegs; k++)
      sum[r][k] = accumulate ? Vector::load(out + r * out_stride + k * kLanes) : Vector::set(0.0f);
  for (int64_t d = 0; d < depth; d++, a += depth_stride, b += b_stride) {
    Reg column[kRegs];
    for (int k = 0; k < kRegs; k++) column[k] = Vector::load(b + k * kLanes);
    for (int r = 0; r < kRows; r++) {
      const Reg factor = Vector::set(a[r * row_stride]);
      for (int k = 0; k < kRegs; k++) {
        if constexpr (kPairs)
          sum[r][k] = V::fma_pairs(factor, column[k], sum[r][k]);
        else
          sum[r][k] = Vector::fma(factor, column[k], sum[r][k]);
      }
    }
  }
  for (int r = 0; r < kRows; r++)
    for (int k = 0; k < kRegs; k++) Vector::store(out + r * out_stride + k * kLanes, sum[r][k]);
}

// The columns from `first_column` on, `kRegs` registers at a time, and what is left over half as many at a time.
template <bool kPairs, int kRegs>
void product_columns(const Product& task, int first_column) {
  constexpr int kRows = Vector::kSumsOfProduct / kRegs, kFewRows = std::min(kRows, 4);
  int w = first_column;
  for (; w + kRegs * kLanes <= task.width; w += kRegs * kLanes) {
    int64_t r = 0;
    for (; r + kRows <= task.rows; r += kRows) product_block<kPairs, kRows, kRegs>(task, r, w);
    for (; r + kFewRows <= task.rows; r += kFewRows) product_block<kPairs, kFewRows, kRegs>(task, r, w);
    for (; r < task.rows; r++) product_block<kPairs, 1, kRegs>(task, r, w);
  }
  if constexpr (kRegs > 1) product_columns<kPairs, kRegs / 2>(task, w);
}

template <bool kPairs>
void product_of(const Product& task) {
  product_columns<kPairs, Vector::kRegsOfProduct>(task, 0);
}

void product(const Product& task) {
  if constexpr (Vector::kHasPairs)
    if (task.pairs) return product_of<true>(task);
  product_of<false>(task);
}

template <class V = Vector>
void pair_rows(float* x, int64_t rows, int width) {
  if constexpr (V::kHasPairs) {
    float* out = x;  // never ahead of what is read
    for (int64_t r = 0; r < rows; r += 2, x += 2 * width)
      for (int w = 0; w < width; w += kLanes, out += kLanes)
        V::store(out, V::pair(V::load(x + w), V::load(x + width + w)));
  }
}

template <class V = Vector>
void pair_columns(float* x, int64_t rows, int width) {
  if constexpr (V::kHasPairs)
    for (int64_t i = 0; i < rows * width; i += kLanes) V::store_bfloat16(x + i / 2, V::load(x + i));
}

void softmax_step(const SoftmaxStep& step) {
  const auto [scores, keys, scale, mask, largest, total, correction, width] = step;
  const Reg factor = Vector::set(scale), zero = Vector::set(0.0f);
  for (int w = 0; w < width; w += kLanes) {
    const Reg before = Vector::load(largest + w);
    Reg most = before;
    for (int64_t k = 0; k < keys; k++) {
      const Reg added = mask ? Vector::load(mask + k * width + w) : zero;
      const Reg value = Vector::fma(Vector::load(scores + k * width + w), factor, added);
      Vector::store(scores + k * width + w, value);
      most = Vector::max(most, value);
    }
    const Reg origin = Vector::max(Vector::set(-3.402823466e38f), most);  // finite, where no key is visible yet
    const Reg shrink = exponential(Vector::subtract(before, origin));
    Reg sum = Vector::multiply(Vector::load(total + w), shrink);
    for (int64_t k = 0; k < keys; k++) {
      const Reg value = exponential(Vector::subtract(Vector::load(scores + k * width + w), origin));
      Vector::store(scores + k * width + w, value);
      sum = Vector::add(sum, value);
    }
    Vector::store(largest + w, most);
    Vector::store(total + w, sum);
    Vector::store(correction + w, shrink);
  }
}

// `kRegs` registers of the weighted sum of values, from this feature on.
template <int kRegs>
inline void add_values(const TokenAttention& task, int64_t feature, float factor) {
  Reg sum[kRegs];
  for (auto& s : sum) s = Vector::set(0.0f);
  const float* from = task.values + feature;
  for (int64_t k = 0; k < task.count; k++, from += task.size) {
    const Reg weight = Vector::set(task.scores[k]);
    for (int r = 0; r < kRegs; r++) sum[r] = Vector::fma(weight, Vector::load(from + r * kLanes), sum[r]);
  }
  for (int r = 0; r < kRegs; r++)
    Vector::store(task.out + feature + r * kLanes, Vector::multiply(sum[r], Vector::set(factor)));
}

void attend_token(const TokenAttention& task) {
  const auto [query, keys, values, mask, count, size, scale, scores, out] = task;
  dense_vector(keys, count, size, query, scores);
  float largest = -std::numeric_limits<float>::infinity(), total = 0;
  for (int64_t k = 0; k < count; k++) {
    scores[k] = scores[k] * scale + (mask ? mask[k] : 0.0f);
    largest = scores[k] > largest || std::isnan(scores[k]) ? scores[k] : largest;
  }
  if (largest == -std::numeric_limits<float>::infinity()) {  // no key is visible: zeros, as torch's attention gives
    std::memset(out, 0, size * sizeof(float));
    return;
  }
  const Reg origin = Vector::set(largest);
  for (int64_t k = count; k % kLanes; k++) scores[k] = -std::numeric_limits<float>::infinity();
  Reg sums = Vector::set(0.0f);
  for (int64_t k = 0; k < count; k += kLanes) {
    const Reg value = exponential(Vector::subtract(Vector::load(scores + k), origin));
    Vector::store(scores + k, value);
    sums = Vector::add(sums, value);
  }
  float lanes[kLanes];
  Vector::store(lanes, sums);
  for (const float lane : lanes) total += lane;
  int64_t f = 0;
  for (; f + 4 * kLanes <= size; f += 4 * kLanes) add_values<4>(task, f, 1 / total);
  for (; f + kLanes <= size; f += kLanes) add_values<1>(task, f, 1 / total);
  for (; f < size; f++) {
    float sum = 0;
    for (int64_t k = 0; k < count; k++) sum += scores[k] * values[k * size + f];
    out[f] = sum / total;
  }
}
