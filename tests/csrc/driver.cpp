// Packs, checks, multiplies, encodes, damages and decodes random matrices, and runs random blocks of a transformer, for
// `make sanitize`: every array has exactly its length on the heap, so that the address sanitizer sees any read or write
// beyond it. Exits with 1 at the first error.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "codec.h"
#include "decoding.h"
#include "kernel.h"
#include "layers.h"
#include "pack.h"

using namespace aerogel;

namespace {

std::mt19937 generator(0);

int64_t draw(int64_t first, int64_t last) { return std::uniform_int_distribution<int64_t>(first, last)(generator); }
float draw_float() { return std::normal_distribution<float>()(generator); }

void require(bool right, const std::string& what) {
  if (right) return;
  std::fprintf(stderr, "wrong: %s\n", what.c_str());
  std::exit(1);
}

std::vector<float> random_floats(int64_t count) {
  std::vector<float> floats(count);
  for (float& value : floats) value = draw_float();
  return floats;
}

// Of x and 0.
double range_of(const float* x, int64_t count) {
  return std::max(0.0f, *std::max_element(x, x + count)) - std::min(0.0f, *std::min_element(x, x + count));
}

struct Arrays {
  int64_t rows, columns, block;
  ValueType type;
  std::vector<uint8_t> values, index;
  std::vector<RowCount> order;
  std::vector<int64_t> offsets;
  std::vector<float> scales;  // of int8
  std::vector<int32_t> sums;

  Arrays(int64_t r, int64_t c, int64_t b, ValueType t)
      : rows(r), columns(c), block(b), type(t), order(r * cells().blocks()), offsets(cells().count() + 1) {}

  bool is_int8() const { return type == ValueType::int8; }
  size_t bytes() const { return type == ValueType::float32 || is_int8() ? 4 : 2; }  // of a non-zero
  NonZeros make_room(int64_t non_zeros) {
    values = std::vector<uint8_t>(non_zeros * bytes());
    index = std::vector<uint8_t>(non_zeros);
    return {.type = type, .values = values.data(), .index = index.data()};
  }
  Cells cells() const {
    return {.rows = rows, .columns = columns, .block = block, .unit = is_int8() ? Int8::kUnit : 1,
            .order = order.data(), .offsets = offsets.data(), .index = index.data()};
  }
  Matrix matrix() const {
    return {.cells = cells(),
            .values = {.type = type, .data = values.data(), .scales = scales.data(), .sums = sums.data()}};
  }
  bool operator==(const Arrays& other) const {
    return values == other.values && index == other.index && offsets == other.offsets &&
           std::memcmp(order.data(), other.order.data(), order.size() * sizeof(RowCount)) == 0;
  }
};

std::vector<float> random_dense(int64_t rows, int64_t columns, double density, ValueType type) {
  std::vector<float> dense(rows * columns);
  std::bernoulli_distribution kept(density);
  for (float& value : dense) {
    value = kept(generator) ? draw_float() : 0;
    if (type == ValueType::int8) {
      value = value == 0 ? 0 : static_cast<float>(draw(-127, 127));
      continue;
    }
    uint32_t bits;  // exact in bfloat16
    std::memcpy(&bits, &value, sizeof bits);
    bits &= 0xffff0000;
    std::memcpy(&value, &bits, sizeof bits);
  }
  return dense;
}

Arrays packed(std::vector<float>& dense, int64_t rows, int64_t columns, int64_t block, ValueType type) {
  Arrays arrays(rows, columns, block, type);
  const Dense from{.values = dense.data(), .row_stride = columns, .column_stride = 1};
  const NonZeros to = arrays.make_room(plan_cells(from, arrays.cells(), arrays.order.data(), arrays.offsets.data(), 2));
  require(fill_cells(from, arrays.cells(), to, 2), "a matrix has other non-zeros than were counted");
  require(check(arrays.cells(), arrays.index.size()).empty(), "a packed matrix is not sound");
  std::vector<float> again(dense.size());
  unpack(arrays.matrix(), {.values = again.data(), .row_stride = columns, .column_stride = 1}, 2);
  require(again == dense, "unpacking is not the inverse of packing");
  if (arrays.is_int8()) {
    arrays.scales.resize(rows);
    for (float& scale : arrays.scales) scale = std::exp(draw_float()) / 100;
    arrays.sums.resize(rows * arrays.cells().groups());
    sum_rows(arrays.matrix(), arrays.sums.data(), 2);
    for (int64_t i = 0; i < rows * columns; i++) dense[i] *= arrays.scales[i / columns];
  }
  return arrays;
}

// The same int8 weight under a bit mask.
struct Masked {
  Matrix quads;
  std::vector<int8_t> integers;
  std::vector<uint64_t> bits;
  std::vector<int64_t> starts;

  explicit Masked(const Matrix& matrix) : quads(matrix), bits(matrix.cells.rows * matrix.words()) {
    const Cells& cells = matrix.cells;
    std::vector<float> dense(cells.rows * cells.columns);
    unpack(matrix, {.values = dense.data(), .row_stride = cells.columns, .column_stride = 1}, 2);
    for (int64_t row = 0; row < cells.rows; row++) {
      if (row % kGroup == 0) starts.push_back(integers.size());
      for (int64_t k = 0; k < cells.columns; k++) {
        const float integer = dense[row * cells.columns + k];
        if (integer == 0) continue;
        bits[row * matrix.words() + k / 64] |= uint64_t{1} << k % 64;
        integers.push_back(static_cast<int8_t>(integer));
      }
    }
    starts.push_back(integers.size());
    integers.shrink_to_fit();
  }

  Matrix matrix() const {
    Matrix masked(quads);
    masked.cells.order = nullptr, masked.cells.offsets = nullptr, masked.cells.index = nullptr;
    masked.values.data = integers.data();
    masked.mask = {.bits = bits.data(), .starts = starts.data(), .step = quads.words()};
    return masked;
  }
};

// A random code for all symbols of a field: a tree whose leaves are split at random. Has tables to write and to read.
struct Code {
  int bits = 0;
  std::vector<uint16_t> write, read = std::vector<uint16_t>(1 << kLongestCode);

  Code(int width, bool may_be_absent) {
    if (may_be_absent && draw(0, 2) == 0) return;
    bits = width;
    std::vector<int> lengths{0};
    while (lengths.size() < size_t{1} << bits) {
      int& length = lengths[draw(0, lengths.size() - 1)];
      if (length < kLongestCode) lengths.push_back(++length);
    }
    std::sort(lengths.begin(), lengths.end());
    write.resize(lengths.size());
    std::vector<uint32_t> symbols(lengths.size());
    std::iota(symbols.begin(), symbols.end(), 0);
    std::shuffle(symbols.begin(), symbols.end(), generator);
    uint32_t start = 0;  // of the code, among all bit strings of the longest code's length
    for (size_t i = 0; i < symbols.size(); i++) {
      const int length = lengths[i], slots = 1 << (kLongestCode - length);
      uint32_t code = 0;
      for (int bit = 0; bit < length; bit++) code |= (start >> (kLongestCode - 1 - bit) & 1) << bit;
      write[symbols[i]] = static_cast<uint16_t>(code << 4 | length);
      for (int more = 0; more < slots; more++) read[code | more << length] = static_cast<uint16_t>(symbols[i] << 4 | length);
      start += slots;
    }
  }
};

struct Stream {
  std::vector<uint8_t> positions, values;
  Coding coding;
};

std::string decode(const Stream& stream, int64_t non_zeros, Arrays& arrays) {
  const Positions positions{stream.positions.data(), static_cast<int64_t>(stream.positions.size()), non_zeros};
  const std::string wrong = plan_decoded(positions, arrays.cells(), arrays.order.data(), arrays.offsets.data());
  if (!wrong.empty()) return wrong;
  const NonZeros to = arrays.make_room(non_zeros);
  const CodedValues values{stream.values.data(), static_cast<int64_t>(stream.values.size()), stream.coding};
  const std::string also = fill_decoded(positions, values, arrays.cells(), to);
  require(check(arrays.cells(), non_zeros).empty(), "a decoded matrix is not sound");
  return also;
}

void damage(std::vector<uint8_t>& bytes) {
  if (draw(0, 1) && !bytes.empty()) {
    bytes = std::vector<uint8_t>(bytes.begin(), bytes.begin() + draw(0, bytes.size() - 1));
  } else {
    for (uint8_t& byte : bytes)
      if (draw(0, static_cast<int64_t>(bytes.size())) < 3) byte = static_cast<uint8_t>(draw(0, 255));
  }
}

void encode_and_damage(const Arrays& arrays) {
  const int64_t non_zeros = arrays.index.size();
  const int width = 8 * static_cast<int>(arrays.bytes());
  const int dropped = arrays.type == ValueType::float32 ? static_cast<int>(draw(0, 16)) : 0;  // bfloat16 values in float32
  const bool is_int8 = arrays.is_int8();
  const int high_bits = is_int8 ? 4 : draw(0, 1) ? 11 : 8;
  const int low_bits = is_int8 ? 8 : static_cast<int>(draw(1, std::min(8, width - dropped - high_bits)));
  const Code high(high_bits, !is_int8), low(low_bits, !is_int8);
  std::vector<uint32_t> bits(non_zeros);
  for (int64_t i = 0; i < non_zeros; i++) {
    std::memcpy(&bits[i], arrays.values.data() + i * arrays.bytes(), arrays.bytes());
    if (is_int8) continue;
    const uint32_t sign = bits[i] >> (width - 1);
    bits[i] = (bits[i] & ((uint32_t{1} << (width - 1)) - 1)) >> dropped << 1 | sign;
  }
  Stream stream;
  stream.coding = {.type = arrays.type, .dropped = dropped, .high = {high.bits, high.write.data()},
                   .low = {low.bits, low.write.data()}};
  stream.positions.resize(most_bytes(arrays.rows * arrays.cells().units(), non_zeros));
  stream.positions.resize(encode_positions(arrays.cells(), stream.positions.data()));
  stream.values.resize(non_zeros * (5 * kLongestCode + width) / 8 + 8);
  stream.values.resize(encode_values(arrays.cells(), bits.data(), stream.coding, stream.values.data()));
  stream.positions.shrink_to_fit();
  stream.values.shrink_to_fit();
  stream.coding.high.codes = high.read.data();
  stream.coding.low.codes = low.read.data();
  Arrays again(arrays.rows, arrays.columns, arrays.block, arrays.type);
  require(decode(stream, non_zeros, again).empty() && again == arrays, "decoding is not the inverse of encoding");
  for (int i = 0; i < 8; i++) {
    Stream damaged(stream);
    damage(i % 2 ? damaged.positions : damaged.values);
    Arrays again(arrays.rows, arrays.columns, arrays.block, arrays.type);
    decode(damaged, non_zeros, again);
  }
}

void multiply(const Matrix& matrix, const std::vector<float>& dense) {
  const int64_t rows = matrix.cells.rows, columns = matrix.cells.columns;
  std::vector<float> bias(rows);
  for (float& value : bias) value = draw_float();
  for (const int64_t tokens : {int64_t{1}, int64_t{3}, draw(2, 80)}) {
    std::vector<float> x(tokens * columns), y(tokens * rows);
    for (float& value : x) value = draw_float();
    project(Norm{}, {{matrix, bias.data()}}, x.data(), tokens, y.data(), static_cast<int>(draw(1, 3)));
    if (dense.empty()) continue;
    for (int64_t t = 0; t < tokens; t++) {
      for (int64_t r = 0; r < rows; r++) {
        double sum = bias[r], size = 1, weights = 0;
        for (int64_t k = 0; k < columns; k++) {
          const double term = double{x[t * columns + k]} * double{dense[r * columns + k]};
          sum += term;
          size += std::fabs(term);
          weights += std::fabs(dense[r * columns + k]);
        }
        // an activation is rounded by half a step, and its range is divided into 254 of them
        const double rounding = matrix.values.type == ValueType::int8 ? weights * range_of(x.data() + t * columns, columns) / 508 : 0;
        require(std::fabs(y[t * rows + r] - sum) <= 1e-4 * size + rounding, "a product differs from the dense one");
      }
    }
  }
}

double distance(const std::vector<float>& computed, const std::vector<float>& expected) {
  double apart = 0, size = 1;
  for (size_t i = 0; i < computed.size(); i++) {
    apart += std::pow(double{computed[i]} - double{expected[i]}, 2);
    size += std::pow(double{expected[i]}, 2);
  }
  return std::sqrt(apart / size);
}

// int8: without a bias and in one group of columns only the integers of a tile are summed, which is exact, and so are those
// of one token under a bit mask.
void compare_sets(const Arrays& arrays) {
  if (!arrays.is_int8() || arrays.columns > kPanel) return;
  const Masked masked(arrays.matrix());
  for (const int64_t tokens : {int64_t{1}, int64_t{2}, draw(3, 80)}) {
    const std::vector<float> x = random_floats(std::max<int64_t>(tokens, 3) * arrays.columns);
    std::vector<float> expected(std::max<int64_t>(tokens, 3) * arrays.rows), y(tokens * arrays.rows);
    require(use("scalar"), "an instruction set can't be used");
    project(Norm{}, {{.matrix = arrays.matrix()}}, x.data(), std::max<int64_t>(tokens, 3), expected.data(), 1);  // a tile
    expected.resize(y.size());
    for (const Kernels* set : available()) {
      require(use(set->name), "an instruction set can't be used");
      project(Norm{}, {{.matrix = masked.matrix()}}, x.data(), tokens, y.data(), 1);
      require(distance(y, expected) == 0, std::string("int8 sums under a bit mask differ on ") + set->name);
      project(Norm{}, {{.matrix = arrays.matrix()}}, x.data(), tokens, y.data(), 1);
      // one token's zero point is subtracted from floats, and another one where bytes are signed
      require(distance(y, expected) <= (tokens < 3 ? 1e-5 : 0), std::string("int8 sums differ on ") + set->name);
    }
  }
}

// Damage that `check` passes must be harmless.
void damage_arrays(const Arrays& arrays) {
  for (int i = 0; i < 8; i++) {
    Arrays damaged(arrays);
    const auto flip = [](auto& array) {
      if (!array.empty()) array[draw(0, array.size() - 1)] ^= static_cast<uint8_t>(draw(1, 255));
    };
    if (i % 4 == 0) flip(damaged.index);
    if (i % 4 == 1) {
      RowCount& entry = damaged.order[draw(0, damaged.order.size() - 1)];
      (draw(0, 1) ? entry.row : entry.count) ^= static_cast<uint16_t>(draw(1, 255));
    }
    if (i % 4 == 2) flip(damaged.offsets);
    if (i % 4 == 3) flip(damaged.values);
    if (check(damaged.cells(), damaged.index.size()).empty()) multiply(damaged.matrix(), {});
  }
}

constexpr double kDensities[] = {0, 0.01, 0.05, 0.1, 0.3, 0.5, 1};

int64_t random_block(ValueType type) {
  constexpr int64_t kOfFloats[] = {128, 192, 256}, kOfQuads[] = {64, 96, 192};
  return (type == ValueType::int8 ? kOfQuads : kOfFloats)[draw(0, 2)];
}

// A linear layer with blocks of random width.
struct Layer {
  std::vector<float> dense, bias;
  Arrays arrays;
  std::optional<Masked> masked;

  Layer(int64_t rows, int64_t columns, ValueType type)
      : dense(random_dense(rows, columns, kDensities[draw(0, 6)], type)),
        bias(random_floats(rows)),
        arrays(packed(dense, rows, columns, random_block(type), type)) {
    if (arrays.is_int8() && draw(0, 1)) masked.emplace(arrays.matrix());
  }

  Linear linear() const { return {.matrix = masked ? masked->matrix() : arrays.matrix(), .bias = bias.data()}; }

  std::vector<double> times(const std::vector<double>& x) const {
    std::vector<double> y(bias.begin(), bias.end());
    for (size_t r = 0; r < y.size(); r++)
      for (size_t k = 0; k < x.size(); k++) y[r] += x[k] * double{dense[r * x.size() + k]};
    return y;
  }
};

struct RandomNorm {
  static constexpr float kOffset = 0.5f;
  std::vector<float> weight, bias;

  explicit RandomNorm(int64_t features) : weight(random_floats(features)), bias(random_floats(features)) {}

  Norm norm() const { return {weight.data(), bias.data(), 1e-5f, true, kOffset}; }

  std::vector<double> of(std::vector<double> x) const {
    double mean = 0, square = 0;
    for (const double value : x) mean += value / x.size();
    for (const double value : x) square += (value - mean) * (value - mean) / x.size();
    for (size_t i = 0; i < x.size(); i++) x[i] = (x[i] - mean) / std::sqrt(square + 1e-5) * (weight[i] + kOffset) + bias[i];
    return x;
  }
};

// Each sequence token by token through two blocks, beside all tokens at once.
void decode_block(DecoderBlock block, Sequences sequences, int threads, double rounding) {
  const int64_t batch = sequences.batch, length = sequences.length, features = block.attention.out.matrix.cells.rows;
  const int64_t room = batch * block.attention.key_heads * length * block.attention.head_size;
  block.attention.causal = true;
  sequences.mask = {};
  sequences.position_bias = {};
  sequences.relative = {};
  std::vector<float> once(batch * length * features), expected(once.size());
  attention(block.attention, &block.feed_forward, sequences, once.data(), threads);
  const float* x = sequences.x;
  sequences.x = once.data();
  attention(block.attention, &block.feed_forward, sequences, expected.data(), threads);
  std::vector<std::vector<float>> rooms(4, std::vector<float>(room));
  const std::vector<Cache> caches = {{rooms[0].data(), rooms[1].data(), length}, {rooms[2].data(), rooms[3].data(), length}};
  std::vector<float> token(batch * features), output(batch * features), found(expected.size());
  for (int64_t t = 0; t < length; t++) {
    for (int64_t b = 0; b < batch; b++)
      std::copy_n(x + (b * length + t) * features, features, token.begin() + b * features);
    NextTokens next{.x = token.data(), .batch = batch, .position = t};
    const Angles angles = sequences.rotary.angles;
    if (angles.cosine)
      next.rotary.angles = {.cosine = angles.cosine + t * block.attention.head_size,
                            .sine = angles.sine + t * block.attention.head_size};
    decode({block, block}, caches, next, output.data(), threads);
    for (int64_t b = 0; b < batch; b++)
      std::copy_n(output.begin() + b * features, features, found.begin() + (b * length + t) * features);
  }
  require(distance(found, expected) < rounding, "decoding differs from all tokens at once");
}

// Attention and feed-forward layers of random shape: in one call, in two calls, and the latter in plain loops.
void run_block(ValueType type) {
  const bool is_int8 = type == ValueType::int8;
  const int64_t heads = draw(1, 4), key_heads = draw(0, 1) ? heads : 1, size = 2 * draw(2, 36), features = heads * size;
  const int64_t batch = draw(1, 5), length = draw(1, 70), hidden = draw(1, 900), encoder_features = draw(1, 300);
  const bool has_encoder = draw(0, 2) == 0, is_gated = draw(0, 1), is_before = draw(0, 1), is_inside = draw(0, 1);
  const bool is_joined = !is_gated && draw(0, 1);
  const int64_t keys = has_encoder ? draw(1, 70) : length;
  const int threads = static_cast<int>(draw(1, 3));
  const int64_t key_features = has_encoder ? encoder_features : features;
  const Layer query(features, features, type), key(key_heads * size, key_features, type),
      value(key_heads * size, key_features, type), out(features, features, type);
  const Layer gate(hidden, features, type), up(hidden * (is_joined ? 2 : 1), features, type), down(features, hidden, type);
  const RandomNorm first(features), second(features), branch(features), head_norm(size);
  const std::vector<float> x = random_floats(batch * length * features), encoder = random_floats(batch * keys * encoder_features);
  const std::vector<float> cosine = random_floats(length * size), sine = random_floats(length * size);
  std::vector<float> mask = random_floats(batch * length * keys);
  const std::vector<float> position_bias = random_floats(batch * heads * length * keys),
                           relative_keys = random_floats((2 * length - 1) * features),
                           relative_queries = random_floats((2 * length - 1) * features);
  for (size_t i = 0; i < mask.size(); i++)
    if (i % keys && draw(0, 3) == 0) mask[i] = -INFINITY;

  Attention attend{.before = is_before ? first.norm() : Norm{},
                   .branch = is_inside ? branch.norm() : Norm{},
                   .after = is_before ? Norm{} : first.norm(),
                   .query_norm = is_inside ? head_norm.norm() : Norm{},
                   .key_norm = is_inside ? head_norm.norm() : Norm{},
                   .from_x = {query.linear()},
                   .from_encoder = {},
                   .out = out.linear(),
                   .heads = heads,
                   .key_heads = key_heads,
                   .head_size = size,
                   .scale = 1 / std::sqrt(static_cast<float>(size)),
                   .causal = !has_encoder && draw(0, 1)};
  auto& others = has_encoder ? attend.from_encoder : attend.from_x;
  others.push_back(key.linear());
  others.push_back(value.linear());
  const FeedForward next{.before = is_before ? second.norm() : Norm{},
                         .branch = is_inside ? branch.norm() : Norm{},
                         .after = is_before ? Norm{} : second.norm(),
                         .gate = is_gated ? std::vector<Linear>{gate.linear()} : std::vector<Linear>{},
                         .up = up.linear(),
                         .down = down.linear(),
                         .activation = Activation::silu,
                         .joined = is_joined};

  std::vector<float> attended(x.size()), both(x.size()), at_once(x.size());
  Sequences sequences{.x = x.data(), .batch = batch, .length = length,
                      .encoder_hidden_states = has_encoder ? encoder.data() : nullptr, .encoder_length = keys};
  if (!attend.causal && draw(0, 1))
    sequences.mask = {.values = mask.data(), .batch_stride = length * keys, .query_stride = keys};
  if (!has_encoder && draw(0, 1)) sequences.rotary.angles = {.cosine = cosine.data(), .sine = sine.data()};
  if (draw(0, 1))
    sequences.position_bias = {.values = position_bias.data(), .batch_stride = draw(0, 1) ? heads * length * keys : 0};
  if (!has_encoder && draw(0, 1)) sequences.relative.keys = relative_keys.data();
  if (!has_encoder && draw(0, 1)) sequences.relative.queries = relative_queries.data();
  attention(attend, nullptr, sequences, attended.data(), threads);
  feed_forward(next, attended.data(), batch * length, both.data(), threads);
  attention(attend, &next, sequences, at_once.data(), threads);
  const double rounding = is_int8 ? 0.3 : 1e-4;  // of int8: in narrow layers with weights of all sizes
  require(distance(at_once, both) < rounding, "a block differs from its two halves");

  if (!has_encoder) decode_block({attend, next}, sequences, threads, rounding);

  if (is_int8) {
    const char* set = kernels().name;
    require(use("scalar"), "an instruction set can't be used");
    std::vector<float> scalar(x.size());
    feed_forward(next, attended.data(), batch * length, scalar.data(), threads);
    require(distance(both, scalar) < 1e-2 && use(set), "feed-forward layers differ from the scalar ones");
  }

  const int64_t token = draw(0, batch * length - 1);
  const std::vector<double> input(attended.begin() + token * features, attended.begin() + (token + 1) * features);
  const std::vector<double> normed = is_before ? second.of(input) : input;
  std::vector<double> inner = up.times(normed);
  const std::vector<double> gated = is_gated ? gate.times(normed) : inner;
  if (is_joined) inner.erase(inner.begin(), inner.begin() + hidden);
  for (size_t i = 0; i < inner.size(); i++) {
    const double swished = gated[i] / (1 + std::exp(-gated[i]));
    inner[i] = is_gated || is_joined ? swished * inner[i] : swished;
  }
  std::vector<double> result = down.times(inner);
  if (is_inside) result = branch.of(result);
  for (int64_t i = 0; i < features; i++) result[i] += input[i];
  if (!is_before) result = second.of(result);
  const std::vector<float> expected(result.begin(), result.end());
  const std::vector<float> computed(both.begin() + token * features, both.begin() + (token + 1) * features);
  require(distance(computed, expected) < rounding, "feed-forward layers differ from plain loops");
}

}  // namespace

int main() {
  const std::vector<const Kernels*> sets = available();
  const int64_t edges[] = {1, 2, 15, 16, 17, 127, 128, 129, 191, 193, 255, 257};
  int matrices = 0;
  for (int i = 0; i < 120; i++) {
    int64_t rows = i % 3 ? draw(1, 40) : edges[draw(0, 11)], columns = i % 2 ? draw(1, 300) : edges[draw(0, 11)];
    if (i % 40 == 7) rows = draw(760, 1600), columns = draw(1, 30);
    const double density = kDensities[draw(0, 6)];
    const ValueType type = i % 4 == 3 ? ValueType::bfloat16 : i % 4 == 2 ? ValueType::float32 : ValueType::int8;
    if (i % 40 == 13) columns = draw(760, 1600);
    std::vector<float> dense = random_dense(rows, columns, density, type);
    const Arrays arrays = packed(dense, rows, columns, random_block(type), type);
    encode_and_damage(arrays);
    compare_sets(arrays);
    for (const Kernels* set : sets) {
      require(use(set->name), "an instruction set can't be used");
      multiply(arrays.matrix(), dense);
      if (arrays.is_int8()) multiply(Masked(arrays.matrix()).matrix(), dense);
      damage_arrays(arrays);
      if (i % 2) run_block(i % 4 == 1 ? ValueType::int8 : ValueType::float32);
    }
    matrices++;
  }
  std::printf("%d matrices and half as many blocks on", matrices);
  for (const Kernels* set : sets) std::printf(" %s", set->name);
  std::printf(": sound\n");
}
