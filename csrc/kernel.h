// What the sparse kernels compute, apart from how. Activations lie in tiles: [features][width] floats, one
// column a token, so that a weight is broadcast once and multiplies a contiguous run of tokens.
#pragma once

#include <cstdint>

namespace aerogel {

constexpr int kGroup = 16;         // a tile is one to four groups of 16 tokens wide
constexpr int kMaxWidth = 64;      // 64 tokens x 128 features = 32 KB: a block of a tile sits in L1
constexpr int64_t kPanel = 768;    // output rows whose partial sums (192 KB) stay in L2
constexpr int64_t kMaxBlock = 256;  // a column inside a block is a byte

enum class ValueType : int { float32 = 0, bfloat16 = 1 };

// A sparse matrix cut into panels of `kPanel` rows by blocks of `block` columns; `block` divides `kPanel`, so that
// the rows of one matrix can feed the columns of the next panel by panel. Cells are stored panel by panel; within
// a cell rows are sorted by their number of non-zeros, which makes the kernel's inner loop predictable.
struct Matrix {
  int64_t rows, columns, block;
  ValueType type;
  const void* values;       // [non-zeros]
  const uint8_t* index;     // [non-zeros], column within its block
  const uint16_t* order;    // [rows * blocks][2]: row within its panel, number of its non-zeros in this cell
  const int64_t* offsets;   // [cells + 1], where each cell's non-zeros start

  int64_t panels() const { return (rows + kPanel - 1) / kPanel; }
  int64_t blocks() const { return (columns + block - 1) / block; }
  int64_t cells() const { return panels() * blocks(); }
  int64_t non_zeros() const { return offsets[cells()]; }
  int64_t panel_rows(int64_t panel) const {
    const int64_t left = rows - panel * kPanel;
    return left < kPanel ? left : kPanel;
  }
  const uint16_t* cell_order(int64_t panel, int64_t cell_block) const {
    return order + 2 * (panel * kPanel * blocks() + cell_block * panel_rows(panel));
  }
};

enum class Activation { relu, gelu, gelu_tanh, silu };

struct Norm {
  const float* weight = nullptr;  // no weight: no norm
  const float* bias = nullptr;    // layer norm's; may be absent
  float epsilon = 0;
  bool centred = true;            // layer norm; false: root mean square alone
};

// One entry an instruction set; `width` is a multiple of kGroup up to kMaxWidth.
struct Kernels {
  const char* name;

  // tile[feature][token] = x[token * stride + feature]; tokens from `tokens` to `width` become 0.
  void (*load_tile)(const float* x, int64_t stride, int64_t tokens, int64_t features, int width, float* tile);
  // The inverse, for the first `tokens` columns.
  void (*store_tile)(const float* tile, int width, int64_t tokens, int64_t features, float* x, int64_t stride);

  // y[row] += sum over the blocks [first, last) of one panel; x begins at column first * block, y at the panel's
  // first row. `fresh` starts from the bias (of the whole matrix, or null) instead of what y holds.
  void (*multiply)(const Matrix& matrix, int64_t panel, int64_t first, int64_t last, const float* x, float* y, int width,
                   const float* bias, bool fresh);

  // The non-zeros [first, last), in their order, times one vector, added to y[rows]. Rows are whole: one belongs to the
  // range that its first non-zero falls in.
  void (*multiply_vector)(const Matrix& matrix, int64_t first, int64_t last, const float* x, float* y);

  // y[rows] = W[rows][columns] x, dense.
  void (*dense_vector)(const float* weight, int64_t rows, int64_t columns, const float* x, float* y);

  bool (*finite)(const float* x, int64_t count);  // no infinity, nothing that is not a number
  void (*activate)(Activation activation, float* y, int64_t count);
  void (*add)(const float* x, float* y, int64_t count);       // y += x
  void (*times)(const float* x, float* y, int64_t count);     // y *= x
  void (*normalise)(const Norm& norm, const float* x, float* y, int64_t features, int width);
  // The first `half` features against the next `half`, each pair turned by its angle: x cos + turned(x) sin.
  void (*rotate)(float* x, const float* cosine, const float* sine, int64_t half, int width);

  // out[r][w] (+)= sum_d a[r * row_stride + d * depth_stride] b[d][w]
  void (*product)(int64_t rows, int64_t depth, const float* a, int64_t row_stride, int64_t depth_stride, const float* b,
                  float* out, int width, bool accumulate);
  // One step of a softmax over keys: s[keys][width] becomes exp(scale * s + mask - largest). `largest` and `total` [width]
  // are carried from step to step, and `correction` [width] is what earlier sums must be multiplied by. `largest` begins
  // as -inf, and stays so for a column whose mask hides every key with -inf.
  void (*softmax_step)(float* s, int64_t keys, float scale, const float* mask, float* largest, float* total,
                       float* correction, int width);
  // x[feature][w] *= by[w], or /=.
  void (*scale_columns)(float* x, int64_t features, const float* by, int width, bool divide);
};

extern const Kernels scalar_kernels;
#ifdef AEROGEL_X86
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif
#ifdef AEROGEL_ARM64
extern const Kernels neon_kernels;
#endif

// The best that this CPU runs, or what `use` chose.
const Kernels& kernels();
// Names of those this CPU runs, best first.
int available(const Kernels* found[4]);
bool use(const char* name);

}  // namespace aerogel
