// Packs, checks, multiplies, encodes, damages and decodes random matrices, and runs random blocks of a transformer, for
// `make sanitize`: every array has exactly its length on the heap, so that the address sanitizer sees any read or write
// beyond it. Exits with 1 at the first mistake.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "codec.h"
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

struct Arrays {
  int64_t rows, columns, block;
  ValueType type;
  std::vector<uint8_t> values, index;
  std::vector<uint16_t> order;
  std::vector<int64_t> offsets;

  Arrays(int64_t r, int64_t c, int64_t b, ValueType t)
      : rows(r), columns(c), block(b), type(t), order(2 * r * view().blocks()), offsets(view().cells() + 1) {}

  size_t bytes() const { return type == ValueType::float32 ? 4 : 2; }
  void make_room(int64_t non_zeros) {
    values = std::vector<uint8_t>(non_zeros * bytes());
    index = std::vector<uint8_t>(non_zeros);
  }
  Matrix view() const { return {rows, columns, block, type, values.data(), index.data(), order.data(), offsets.data()}; }
  bool operator==(const Arrays& other) const {
    return values == other.values && index == other.index && order == other.order && offsets == other.offsets;
  }
};

std::vector<float> random_dense(int64_t rows, int64_t columns, double density) {
  std::vector<float> dense(rows * columns);
  std::bernoulli_distribution kept(density);
  for (float& value : dense) {
    value = kept(generator) ? draw_float() : 0;
    uint32_t bits;  // exact in bfloat16
    std::memcpy(&bits, &value, sizeof bits);
    bits &= 0xffff0000;
    std::memcpy(&value, &bits, sizeof bits);
  }
  return dense;
}

Arrays packed(std::vector<float>& dense, int64_t rows, int64_t columns, int64_t block, ValueType type) {
  Arrays arrays(rows, columns, block, type);
  const Dense from{dense.data(), rows, columns, columns, 1};
  arrays.make_room(plan_cells(from, block, arrays.order.data(), arrays.offsets.data(), 2));
  fill_cells(from, arrays.view(), arrays.values.data(), arrays.index.data(), 2);
  require(check(arrays.view(), arrays.index.size()).empty(), "a packed matrix is not sound");
  std::vector<float> again(dense.size());
  unpack(arrays.view(), {again.data(), rows, columns, columns, 1}, 2);
  require(again == dense, "unpacking is not the inverse of packing");
  return arrays;
}

// A code for all symbols of a field: a tree whose leaves are split at random, written and read.
struct Code {
  int bits = 0;
  std::vector<uint16_t> write, read = std::vector<uint16_t>(1 << kLongestCode);

  explicit Code(int width) {
    if (draw(0, 2) == 0) return;  // no field
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
  const std::string wrong =
      plan_decoded(positions, arrays.rows, arrays.columns, arrays.block, arrays.order.data(), arrays.offsets.data());
  if (!wrong.empty()) return wrong;
  arrays.make_room(non_zeros);
  const Values values{stream.values.data(), static_cast<int64_t>(stream.values.size()), stream.coding};
  const std::string also = fill_decoded(positions, values, arrays.view(), arrays.values.data(), arrays.index.data());
  require(check(arrays.view(), non_zeros).empty(), "a decoded matrix is not sound");
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
  const int dropped = arrays.bytes() == 4 ? static_cast<int>(draw(0, 16)) : 0;  // bfloat16 values in float32
  const int high_bits = draw(0, 1) ? 11 : 8, low_bits = static_cast<int>(draw(1, std::min(8, width - dropped - high_bits)));
  const Code high(high_bits), low(low_bits);
  std::vector<uint32_t> bits(non_zeros);
  for (int64_t i = 0; i < non_zeros; i++) {
    std::memcpy(&bits[i], arrays.values.data() + i * arrays.bytes(), arrays.bytes());
    const uint32_t sign = bits[i] >> (width - 1);
    bits[i] = (bits[i] & ((uint32_t{1} << (width - 1)) - 1)) >> dropped << 1 | sign;
  }
  Stream stream;
  stream.coding = {width, dropped, {high.bits, high.write.data()}, {low.bits, low.write.data()}};
  stream.positions.resize(most_bytes(arrays.rows * arrays.columns, non_zeros));
  stream.positions.resize(encode_positions(arrays.view(), stream.positions.data()));
  stream.values.resize(non_zeros * (2 * kLongestCode + width) / 8 + 8);
  stream.values.resize(encode_values(arrays.view(), bits.data(), stream.coding, stream.values.data()));
  stream.positions.shrink_to_fit();
  stream.values.shrink_to_fit();
  stream.coding.high.codes = high.read.data();
  stream.coding.low.codes = low.read.data();
  Arrays again(arrays.rows, arrays.columns, arrays.block, arrays.type);
  require(decode(stream, non_zeros, again).empty() && again == arrays, "decoding is not the inverse of encoding");
  for (int i = 0; i < 8; i++) {
    Stream damaged(stream);
    damage(i % 2 ? damaged.positions : damaged.values);
    Arrays found(arrays.rows, arrays.columns, arrays.block, arrays.type);
    decode(damaged, non_zeros, found);
  }
}

void multiply(const Arrays& arrays, const std::vector<float>& dense) {
  const Matrix matrix = arrays.view();
  std::vector<float> bias(matrix.rows);
  for (float& value : bias) value = draw_float();
  for (const int64_t tokens : {int64_t{1}, int64_t{3}, draw(2, 80)}) {
    std::vector<float> x(tokens * matrix.columns), y(tokens * matrix.rows);
    for (float& value : x) value = draw_float();
    project(Norm{}, {{matrix, bias.data()}}, x.data(), tokens, y.data(), static_cast<int>(draw(1, 3)));
    if (dense.empty()) continue;
    for (int64_t t = 0; t < tokens; t++) {
      for (int64_t r = 0; r < matrix.rows; r++) {
        double sum = bias[r], size = 1;
        for (int64_t k = 0; k < matrix.columns; k++) {
          const double term = double{x[t * matrix.columns + k]} * double{dense[r * matrix.columns + k]};
          sum += term;
          size += std::fabs(term);
        }
        require(std::fabs(y[t * matrix.rows + r] - sum) < 1e-4 * size, "a product differs from the dense one");
      }
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
    if (i % 4 == 1) flip(damaged.order);
    if (i % 4 == 2) flip(damaged.offsets);
    if (i % 4 == 3) flip(damaged.values);
    if (check(damaged.view(), damaged.index.size()).empty()) multiply(damaged, {});
  }
}

std::vector<float> random_floats(int64_t count) {
  std::vector<float> floats(count);
  for (float& value : floats) value = draw_float();
  return floats;
}

constexpr double kDensities[] = {0, 0.01, 0.05, 0.1, 0.3, 0.5, 1};
constexpr int64_t kBlocks[] = {128, 192, 256};

// A linear layer whose blocks are as wide as chance has it.
struct Layer {
  std::vector<float> dense, bias;
  Arrays arrays;

  Layer(int64_t rows, int64_t columns)
      : dense(random_dense(rows, columns, kDensities[draw(0, 6)])),
        bias(random_floats(rows)),
        arrays(packed(dense, rows, columns, kBlocks[draw(0, 2)], ValueType::float32)) {}

  Linear linear() const { return {arrays.view(), bias.data()}; }

  std::vector<double> times(const std::vector<double>& x) const {
    std::vector<double> y(bias.begin(), bias.end());
    for (size_t r = 0; r < y.size(); r++)
      for (size_t k = 0; k < x.size(); k++) y[r] += x[k] * double{dense[r * x.size() + k]};
    return y;
  }
};

struct RandomNorm {
  std::vector<float> weight, bias;

  explicit RandomNorm(int64_t features) : weight(random_floats(features)), bias(random_floats(features)) {}

  Norm norm() const { return {weight.data(), bias.data(), 1e-5f, true}; }

  std::vector<double> of(std::vector<double> x) const {
    double mean = 0, square = 0;
    for (const double value : x) mean += value / x.size();
    for (const double value : x) square += (value - mean) * (value - mean) / x.size();
    for (size_t i = 0; i < x.size(); i++) x[i] = (x[i] - mean) / std::sqrt(square + 1e-5) * weight[i] + bias[i];
    return x;
  }
};

double distance(const std::vector<float>& found, const std::vector<float>& expected) {
  double apart = 0, size = 1;
  for (size_t i = 0; i < found.size(); i++) {
    apart += std::pow(double{found[i]} - double{expected[i]}, 2);
    size += std::pow(double{expected[i]}, 2);
  }
  return std::sqrt(apart / size);
}

// Attention and feed-forward layers of any shape: at once, one after the other, and the latter in plain loops.
void run_block() {
  const int64_t heads = draw(1, 4), key_heads = draw(0, 1) ? heads : 1, size = 2 * draw(2, 36), features = heads * size;
  const int64_t batch = draw(1, 5), length = draw(1, 70), hidden = draw(1, 900), memory_features = draw(1, 300);
  const bool has_memory = draw(0, 2) == 0, is_gated = draw(0, 1), is_before = draw(0, 1);
  const int64_t keys = has_memory ? draw(1, 70) : length, threads = draw(1, 3);
  const Layer query(features, features), key(key_heads * size, has_memory ? memory_features : features),
      value(key_heads * size, has_memory ? memory_features : features), out(features, features);
  const Layer gate(hidden, features), up(hidden, features), down(features, hidden);
  const RandomNorm first(features), second(features);
  const std::vector<float> x = random_floats(batch * length * features), memory = random_floats(batch * keys * memory_features);
  const std::vector<float> cosine = random_floats(length * size), sine = random_floats(length * size);
  std::vector<float> mask = random_floats(batch * length * keys);
  for (size_t i = 0; i < mask.size(); i++)
    if (i % keys && draw(0, 3) == 0) mask[i] = -INFINITY;

  Attention attend{is_before ? first.norm() : Norm{},
                   is_before ? Norm{} : first.norm(),
                   {query.linear()},
                   {},
                   out.linear(),
                   heads,
                   key_heads,
                   size,
                   1 / std::sqrt(static_cast<float>(size)),
                   !has_memory && draw(0, 1)};
  auto& others = has_memory ? attend.from_memory : attend.from_x;
  others.push_back(key.linear());
  others.push_back(value.linear());
  if (!attend.causal && draw(0, 1)) {
    attend.mask = mask.data();
    attend.mask_batch_stride = length * keys;
    attend.mask_query_stride = keys;
  }
  if (!has_memory && draw(0, 1)) attend.cosine = cosine.data(), attend.sine = sine.data();
  const FeedForward then{is_before ? second.norm() : Norm{},
                         is_before ? Norm{} : second.norm(),
                         is_gated ? std::vector<Linear>{gate.linear()} : std::vector<Linear>{},
                         up.linear(),
                         down.linear(),
                         Activation::silu};

  std::vector<float> attended(x.size()), both(x.size()), at_once(x.size());
  const float* beside = has_memory ? memory.data() : nullptr;
  attention(attend, nullptr, x.data(), beside, batch, length, keys, attended.data(), static_cast<int>(threads));
  feed_forward(then, attended.data(), batch * length, both.data(), static_cast<int>(threads));
  attention(attend, &then, x.data(), beside, batch, length, keys, at_once.data(), static_cast<int>(threads));
  require(distance(at_once, both) < 1e-4, "a block differs from its two halves");

  const int64_t token = draw(0, batch * length - 1);
  const std::vector<double> given(attended.begin() + token * features, attended.begin() + (token + 1) * features);
  const std::vector<double> normed = is_before ? second.of(given) : given;
  std::vector<double> inner = up.times(normed);
  const std::vector<double> gated = is_gated ? gate.times(normed) : inner;
  for (size_t i = 0; i < inner.size(); i++) {
    const double swished = gated[i] / (1 + std::exp(-gated[i]));
    inner[i] = is_gated ? swished * inner[i] : swished;
  }
  std::vector<double> result = down.times(inner);
  for (int64_t i = 0; i < features; i++) result[i] += given[i];
  if (!is_before) result = second.of(result);
  const std::vector<float> expected(result.begin(), result.end());
  const std::vector<float> found(both.begin() + token * features, both.begin() + (token + 1) * features);
  require(distance(found, expected) < 1e-4, "feed-forward layers differ from plain loops");
}

}  // namespace

int main() {
  const Kernels* sets[4];
  const int count = available(sets);
  const int64_t edges[] = {1, 2, 15, 16, 17, 127, 128, 129, 191, 193, 255, 257};
  int matrices = 0;
  for (int i = 0; i < 120; i++) {
    int64_t rows = i % 3 ? draw(1, 40) : edges[draw(0, 11)], columns = i % 2 ? draw(1, 300) : edges[draw(0, 11)];
    if (i % 40 == 7) rows = draw(760, 1600), columns = draw(1, 30);
    const double density = kDensities[draw(0, 6)];
    const int64_t block = kBlocks[draw(0, 2)];
    const ValueType type = i % 4 == 3 ? ValueType::bfloat16 : ValueType::float32;
    std::vector<float> dense = random_dense(rows, columns, density);
    const Arrays arrays = packed(dense, rows, columns, block, type);
    encode_and_damage(arrays);
    for (int set = 0; set < count; set++) {
      require(use(sets[set]->name), "an instruction set can't be used");
      multiply(arrays, dense);
      damage_arrays(arrays);
      if (i % 2) run_block();
    }
    matrices++;
  }
  std::printf("%d matrices and half as many blocks on", matrices);
  for (int set = 0; set < count; set++) std::printf(" %s", sets[set]->name);
  std::printf(": sound\n");
}
