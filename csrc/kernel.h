// What the sparse kernels compute, apart from how. Activations lie in tiles: [features][width] floats, one
// column a token, so that a weight is broadcast once and multiplies a contiguous run of tokens.
#pragma once

// those that body.h needs, which is included inside a namespace
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <type_traits>
#include <vector>

#include "values.h"

namespace aerogel {

constexpr int kGroup = 16;         // a tile is one to four groups of 16 tokens wide
constexpr int kMaxWidth = 64;      // 64 tokens x 128 features = 32 KB: a block of a tile fits in L1
constexpr int64_t kPanel = 768;    // output rows whose partial sums (192 KB) fit in L2
constexpr int64_t kMaxBlock = 256;  // a unit inside a block is a byte
constexpr int kMaskedRows = 4;      // rows under a bit mask that are multiplied together

// A row within its panel, and the number of its non-zeros in a cell.
struct RowCount {
  uint16_t row, count;
};

// The numbers first ... last - 1.
struct Range {
  int64_t first, last;
};

// Where the non-zeros of a matrix are. A non-zero is `unit` neighbouring columns of a row, not all of them zero: a single
// weight, or a quad of int8. The matrix is cut into panels of `kPanel` rows by blocks of `block` units; these divide
// `kPanel` columns, so that the rows of one matrix can feed the columns of the next panel by panel. Cells are stored panel
// by panel; within a cell rows are sorted by their number of non-zeros, which makes the kernel's inner loop predictable.
struct Cells {
  int64_t rows, columns, block, unit = 1;
  const RowCount* order = nullptr;   // [rows * blocks], cell by cell
  const int64_t* offsets = nullptr;  // [cells + 1], where each cell's non-zeros start
  const uint8_t* index = nullptr;    // [non-zeros], unit within its block

  int64_t units() const { return (columns + unit - 1) / unit; }
  int64_t panels() const { return (rows + kPanel - 1) / kPanel; }
  int64_t blocks() const { return (units() + block - 1) / block; }
  // Groups of kPanel columns.
  int64_t groups() const { return (columns + kPanel - 1) / kPanel; }
  Range blocks_of_group(int64_t group) const {
    const int64_t some = kPanel / unit / block;
    return {.first = group * some, .last = std::min((group + 1) * some, blocks())};
  }
  int64_t count() const { return panels() * blocks(); }
  int64_t non_zeros() const { return offsets[count()]; }
  int64_t panel_rows(int64_t panel) const {
    const int64_t left = rows - panel * kPanel;
    return left < kPanel ? left : kPanel;
  }
  int64_t order_start(int64_t panel, int64_t block_number) const {
    return panel * kPanel * blocks() + block_number * panel_rows(panel);
  }
  const RowCount* cell_order(int64_t panel, int64_t block_number) const { return order + order_start(panel, block_number); }
};

struct Values {
  ValueType type;
  const void* data;                // [non-zeros][unit], in the order of the cells; or [non-zeros] of a bit mask
  const float* scales = nullptr;   // of int8: [rows]
  const int32_t* sums = nullptr;   // of int8: [groups][rows], the sum of a row's integers in each group of columns
};

// A layout of int8 for one token at a time, whose time is that of reading memory: a bit for each weight, and the integers
// of those that are not 0, row after row. Many tokens need quads, see `Expanded`.
struct Bitmask {
  const uint64_t* bits = nullptr;   // [rows][words], a word for 64 columns, from the lowest bit up; null: there are cells
  const int64_t* starts = nullptr;  // [chunks + 1], where the integers of each kGroup rows start
  int64_t step = 0;                 // from one row's words to the next row's; 0: all rows have the same
};

struct Matrix {
  Cells cells;  // of a bit mask only the shape, and the block of its quads
  Values values;
  Bitmask mask{};

  int64_t words() const { return (cells.columns + 63) / 64; }  // of a row of the bit mask
  int64_t chunks() const { return (cells.rows + kGroup - 1) / kGroup; }
};

struct Linear {
  Matrix matrix;
  const float* bias = nullptr;
};

enum class Activation { relu, gelu, gelu_tanh, silu };

struct Norm {
  const float* weight = nullptr;  // null: no norm
  const float* bias = nullptr;    // of a layer norm; may be null
  float epsilon = 0;
  bool centred = true;            // layer norm; false: root mean square norm
  float offset = 0;               // added to the weight
};

// Activations [count][features], `stride` floats from one token to the next.
template <class T>
struct Tokens {
  T* x;
  int64_t stride, count, features;
};

// A tile that is quantized a token and kPanel features at a time: x = steps (data - zeros). Bytes are those that the
// kernels of the instruction set multiply: signed or unsigned.
struct Quads {
  uint8_t* data;   // [units][width][4]
  float* steps;    // [groups][width]
  int32_t* zeros;  // [groups][width]

  // The part from this feature on.
  Quads at(int64_t feature, int width) const {
    if (!data) return {};
    const int64_t group = feature / kPanel * width;
    return {.data = data + feature * width, .steps = steps + group, .zeros = zeros + group};
  }
};

// The input of linear layers: a tile (or one token), and if a layer has int8 values the same quantized.
struct Input {
  const float* floats;
  Quads quads;

  Input at(int64_t feature, int width) const { return {floats + feature * width, quads.at(feature, width)}; }
};

// y (+)= one panel of W times one group of its columns; the bias is added with the first group.
struct GroupProduct {
  const Linear& layer;
  int64_t panel, group;
  Input x;        // from the group's first column on
  int32_t* sums;  // of int8: memory for the panel's integers
  float* y;       // from the panel's first row on
  int width;
};

// Integers under a bit mask, from the next to the last of the matrix.
struct MaskedIntegers {
  const int8_t *next, *end;

  static MaskedIntegers from(const Matrix& matrix, int64_t at) {
    const auto* data = static_cast<const int8_t*>(matrix.values.data);
    return {.next = data + at, .end = data + matrix.mask.starts[matrix.chunks()]};
  }
};

// The integers under some words of a bit mask, and the quads that are not all zeros.
struct MaskCount {
  int64_t integers, quads;
};

// y[token][row] = some rows of W times tokens, plus bias.
struct MaskedProduct {
  const Linear& layer;
  Range chunks;    // of kGroup rows
  const Quads* x;  // of each token
  int64_t tokens;
  int32_t* sums;   // memory for kGroup integers a token and group of columns
  int8_t* rows;    // of several tokens: memory for kMaskedRows rows, without a mask
  float* y;        // from the layer's first row on
  int64_t stride;  // from one token's y to the next
};

// out[r * out_stride + w] (+)= sum_d a[r * row_stride + d * depth_stride] b[d * b_stride + w]. With `pairs`, each element of
// a and b is a pair of bfloat16, and two products are summed for each d.
struct Product {
  bool pairs;
  int64_t rows, depth;
  const float* a;
  int64_t row_stride, depth_stride;
  const float* b;
  int64_t b_stride;
  float* out;
  int64_t out_stride;
  int width;
  bool accumulate;
};

// One step of a softmax over keys: scores[keys][width] become exp(scale * score + mask - largest). `largest` and `total`
// [width] are carried from step to step, and `correction` [width] is what earlier sums must be multiplied by. `largest`
// begins as -inf, and stays so for a column whose mask hides every key with -inf.
struct SoftmaxStep {
  float* scores;
  int64_t keys;
  float scale;
  const float* mask;  // [keys][width], or null
  float *largest, *total, *correction;
  int width;
};

// out[size] = softmax(scale query keys^T + mask) values, for one query.
struct TokenAttention {
  const float *query, *keys, *values;  // keys and values [count][size]
  const float* mask;                   // [count], or null
  int64_t count, size;
  float scale;
  float* scores;  // memory for `count` floats, rounded up to 64
  float* out;
};

// Rotary angles of each feature and token.
struct Angles {
  const float *cosine, *sine;
};

// One entry an instruction set; `width` is a multiple of kGroup up to kMaxWidth.
struct Kernels {
  const char* name;

  // tile[feature][token] = x[token][feature]; tokens from `count` to `width` become 0.
  void (*load_tile)(const Tokens<const float>& from, int width, float* tile);
  // The inverse, for the first `count` columns.
  void (*store_tile)(const float* tile, int width, const Tokens<float>& to);

  // One group of features.
  void (*quantize)(const float* tile, int64_t features, int width, const Quads& to);
  // The same of activation(tile), which the tile becomes.
  void (*quantize_activated)(Activation activation, float* tile, int64_t features, int width, const Quads& to);
  void (*quantize_token)(const float* x, int64_t features, const Quads& to);
  void (*multiply_group)(const GroupProduct& task);
  // Non-zeros times one token, added to y[rows]. Rows are whole: one belongs to the range of its first non-zero. Of int8 the
  // sums are without the zero points and the scales of rows.
  void (*multiply_vector)(const Matrix& matrix, Range range, const Input& x, float* y);
  void (*multiply_masked)(const MaskedProduct& task);
  MaskCount (*count_mask)(const uint64_t* bits, int64_t words);
  // Fills the quads of up to kPanel columns of a row that are not all zeros, and their units from the first word on. Writes
  // up to kGroup more.
  void (*expand_quads)(const uint64_t* bits, int64_t words, MaskedIntegers integers, int8_t* quads, uint8_t* index);
  // y[rows] = W[rows][columns] x, dense.
  void (*dense_vector)(const float* weight, int64_t rows, int64_t columns, const float* x, float* y);

  bool (*finite)(const float* x, int64_t count);  // neither infinity nor NaN
  // `for_bytes`: only as exactly as quantizing the result needs.
  void (*activate)(Activation activation, float* y, int64_t count, bool for_bytes);
  void (*add)(const float* x, float* y, int64_t count);       // y += x
  void (*times)(const float* x, float* y, int64_t count);     // y *= x
  // y = norm(x + added), or norm(x) where `added` is null; y may be either of them.
  void (*normalise)(const Norm& norm, const float* x, const float* added, float* y, int64_t features, int width);
  // Rotates the first `half` features of a tile against the next `half`, each pair by its angle.
  void (*apply_rotary)(Angles angles, float* x, int64_t half, int width);

  bool has_pairs;  // whether `product` of pairs is faster than of floats; without, it is not implemented
  void (*product)(const Product& task);
  // x[rows][width] in place to pairs of bfloat16, of neighbouring rows or of neighbouring columns: an even number.
  void (*pair_rows)(float* x, int64_t rows, int width);
  void (*pair_columns)(float* x, int64_t rows, int width);
  void (*softmax_step)(const SoftmaxStep& step);
  void (*attend_token)(const TokenAttention& task);
  // y[feature][w] = x[feature][w] by[w], or x[feature][w] / by[w].
  void (*scale_columns)(const float* x, float* y, int64_t features, const float* by, int width, bool divide);
};

extern const Kernels scalar_kernels;
#ifdef AEROGEL_X86
extern const Kernels avx2_kernels, avx_vnni_kernels, avx512_kernels, avx512_vnni_kernels, avx512_vbmi2_kernels,
    avx512_bf16_kernels;
#endif
#ifdef AEROGEL_ARM64
extern const Kernels neon_kernels, neon_dotprod_kernels, neon_i8mm_kernels;
#endif

// Defines the table of the instruction set whose kernels are in the namespace `set`.
#define AEROGEL_KERNELS(set) AEROGEL_KERNELS_OF(set)  // expands a macro's name
#define AEROGEL_KERNELS_OF(set) constinit const Kernels set##_kernels = set::table(#set)

// The best that this CPU runs, or what `use` chose.
const Kernels& kernels();
// Those that this CPU runs, best first.
std::vector<const Kernels*> available();
bool use(const char* name);

}  // namespace aerogel
