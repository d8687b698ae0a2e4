// Functions of single numbers, and the passes over a tile that use them.

// exp, to about 2 units in the last place; 0 below -87.
inline Reg exponential(Reg x) {
  // min and max return their second operand where either is NaN
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

// max(x, 0) - a Q(a), a = |x|, with Q a polynomial in t = 2 a / end - 1, so that no large terms cancel, over [0, end].
template <size_t kCount>
inline Reg gelu_by(const float (&polynomial)[kCount], float end, Reg x) {
  const Reg zero = Vector::set(0.0f);
  const Reg a = Vector::min(Vector::set(end), Vector::max(x, Vector::subtract(zero, x)));
  const Reg t = Vector::fma(a, Vector::set(2 / end), Vector::set(-1.0f));
  Reg q = Vector::set(polynomial[0]);
  for (size_t i = 1; i < kCount; i++) q = Vector::fma(q, t, Vector::set(polynomial[i]));
  return Vector::subtract(Vector::max(x, zero), Vector::multiply(a, q));
}

// x Phi(x): Q(a) = erfc(a / sqrt 2) / 2, fitted by least squares weighted by a. The error is at most 3e-7.
inline Reg gelu(Reg x) {
  constexpr float kQ[] = {-0.005662990268f, 0.005453404505f,  0.030314652249f,  -0.043845996261f,
                          -0.049204435200f, 0.133553043008f,  -0.034909091890f, -0.163230538368f,
                          0.218451678753f,  -0.051355373114f, -0.177171990275f, 0.271885126829f,
                          -0.206807300448f, 0.094558112323f,  -0.025008084252f, 0.002979773097f};
  return gelu_by(kQ, 5.5f, x);
}

inline Reg gelu_tanh(Reg x) {
  // (1 + tanh u) / 2 is sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
  const Reg u = Vector::fma(Vector::multiply(Vector::multiply(x, x), x), Vector::set(0.044715f), x);
  return Vector::multiply(x, sigmoid(Vector::multiply(u, Vector::set(1.59576912f))));
}

// The same for results that become bytes: the error is at most 1.3e-4.
inline Reg gelu_for_bytes(Reg x) {
  constexpr float kQ[] = {0.013103922f, -0.003886768f, -0.067762534f, 0.079248279f, 0.064498789f,
                          -0.216853013f, 0.216928909f, -0.107968377f, 0.022731688f};
  return gelu_by(kQ, 4.0f, x);
}

inline Reg gelu_tanh_for_bytes(Reg x) {
  constexpr float kQ[] = {0.011810221f, -0.002563634f, -0.064748690f, 0.075980533f, 0.062175314f,
                          -0.214120639f, 0.217573109f, -0.108763046f, 0.022683346f};
  return gelu_by(kQ, 4.0f, x);
}

template <class F>
inline void each(float* y, int64_t count, F f) {
  // in tiles counts are multiples of 16; the tail of a vector is computed in a padded copy
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Vector::store(y + i, f(Vector::load(y + i), i));
  if (i < count) {
    float padded[kLanes] = {};
    std::memcpy(padded, y + i, (count - i) * sizeof(float));
    Vector::store(padded, f(Vector::load(padded), i));
    std::memcpy(y + i, padded, (count - i) * sizeof(float));
  }
}

// Calls f with the function of a register.
template <class F>
void with_activation(Activation activation, bool for_bytes, F&& f) {
  switch (activation) {
    case Activation::relu: return f([](Reg x) { return Vector::max(Vector::set(0.0f), x); });
    case Activation::gelu:
      if (for_bytes) return f([](Reg x) { return gelu_for_bytes(x); });
      return f([](Reg x) { return gelu(x); });
    case Activation::gelu_tanh:
      if (for_bytes) return f([](Reg x) { return gelu_tanh_for_bytes(x); });
      return f([](Reg x) { return gelu_tanh(x); });
    case Activation::silu: return f([](Reg x) { return Vector::multiply(x, sigmoid(x)); });
  }
}

void activate(Activation activation, float* y, int64_t count, bool for_bytes) {
  with_activation(activation, for_bytes, [&](auto of) { each(y, count, [&](Reg x, int64_t) { return of(x); }); });
}

bool finite(const float* x, int64_t count) {
  // 0 x is 0 for a finite x, and NaN otherwise
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

// Both directions read along the features of a few tokens at a time: the processor prefetches that few streams by itself.
void load_tile(const Tokens<const float>& from, int width, float* tile) {
  const auto [x, stride, tokens, features] = from;
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

void store_tile(const float* tile, int width, const Tokens<float>& to) {
  const auto [x, stride, tokens, features] = to;
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

void normalise(const Norm& norm, const float* x, const float* added, float* y, int64_t features, int width) {
  const Reg count = Vector::set(static_cast<float>(features));
  for (int w = 0; w < width; w += kLanes) {
    Reg mean = Vector::set(0.0f), square = Vector::set(0.0f);
    const float* from = x;
    if (added) {
      from = y;
      for (int64_t f = 0; f < features; f++) {
        const Reg sum = Vector::add(Vector::load(x + f * width + w), Vector::load(added + f * width + w));
        Vector::store(y + f * width + w, sum);
        mean = Vector::add(mean, sum);
      }
    } else if (norm.centred) {
      for (int64_t f = 0; f < features; f++) mean = Vector::add(mean, Vector::load(x + f * width + w));
    }
    mean = norm.centred ? Vector::divide(mean, count) : Vector::set(0.0f);
    for (int64_t f = 0; f < features; f++) {
      const Reg d = Vector::subtract(Vector::load(from + f * width + w), mean);
      square = Vector::fma(d, d, square);
    }
    const Reg variance = Vector::add(Vector::divide(square, count), Vector::set(norm.epsilon));
    const Reg scale = Vector::divide(Vector::set(1.0f), Vector::square_root(variance));
    for (int64_t f = 0; f < features; f++) {
      const Reg d = Vector::multiply(Vector::subtract(Vector::load(from + f * width + w), mean), scale);
      const Reg shift = Vector::set(norm.bias ? norm.bias[f] : 0.0f);
      Vector::store(y + f * width + w, Vector::fma(d, Vector::set(norm.weight[f] + norm.offset), shift));
    }
  }
}

void apply_rotary(Angles angles, float* x, int64_t half, int width) {
  const auto [cosine, sine] = angles;
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

void scale_columns(const float* x, float* y, int64_t features, const float* by, int width, bool divide) {
  for (int w = 0; w < width; w += kLanes) {
    const Reg column = Vector::load(by + w);
    const Reg factor = divide ? Vector::divide(Vector::set(1.0f), column) : column;
    for (int64_t f = 0; f < features; f++)
      Vector::store(y + f * width + w, Vector::multiply(Vector::load(x + f * width + w), factor));
  }
}
