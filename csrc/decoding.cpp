#include "decoding.h"

#include "one_token.h"
#include "team.h"

namespace aerogel {
namespace {

constexpr int64_t kStepsABlock = 5;

// The layers of a block that share an input.
struct Products {
  Layers heads, out, up, down;
};

// The vectors of one sequence.
struct Row {
  float *x, *normed, *sums, *attended;
  float* quads;
  Input input{};  // of the next product
};

class Decoder {
 public:
  Decoder(const std::vector<DecoderBlock>& blocks, const std::vector<Cache>& caches, const NextTokens& tokens, int threads)
      : blocks_(blocks), caches_(caches), tokens_(tokens), threads_(threads) {
    int64_t widest = features();
    for (const auto& [attention, next] : blocks) {
      Products own{.heads = {}, .out = {&attention.out}, .up = first_layers(next), .down = {&next.down}};
      for (const Linear& layer : attention.from_x) own.heads.push_back(&layer);
      for (const Layers& layers : {own.heads, own.up}) widest = std::max(widest, total_rows(layers));
      products_.push_back(own);
    }
    widest_ = widest;
    const int64_t a_row = 4 * widest + room_size(widest, 1);
    float* memory = scratch(kPartial, tokens.batch * (a_row + threads * widest));
    for (int64_t s = 0; s < tokens.batch; s++) {
      float* at = memory + s * a_row;
      rows_.push_back({.x = at, .normed = at + widest, .sums = at + 2 * widest, .attended = at + 3 * widest,
                       .quads = at + 4 * widest});
      std::memcpy(at, tokens.x + s * features(), features() * sizeof(float));
      begin_block(rows_[s], 0);
    }
    partial_ = memory + tokens.batch * a_row;
  }

  void run(Team::Member& member) {
    for (size_t b = 0; b < blocks_.size(); b++) {
      const Attention& attention = blocks_[b].attention;  // Clang before 16 can't capture a structured binding
      const FeedForward& next = blocks_[b].feed_forward;
      const Products& layers = products_[b];
      multiply(member, layers.heads, [&](int64_t s) { keep_keys(b, s); });
      member.each(tokens_.batch * attention.heads, [&](int64_t i) { attend(b, i / attention.heads, i % attention.heads); },
                  [&] {
                    for (Row& row : rows_) use_as_input(row, row.attended, layers.out);
                  });
      multiply(member, layers.out, [&](int64_t s) {
        Row& row = rows_[s];
        finish_one(attention.branch, attention.after, row.x, row.sums, row.x, features());
        use_as_input(row, normed_vector(next.before, row.x, features(), row.normed), layers.up);
      });
      multiply(member, layers.up, [&](int64_t s) {
        activate_one(next, rows_[s].sums);
        use_as_input(rows_[s], rows_[s].sums, layers.down);
      });
      multiply(member, layers.down, [&](int64_t s) {
        finish_one(next.branch, next.after, rows_[s].x, rows_[s].sums, rows_[s].x, features());
        begin_block(rows_[s], b + 1);
      });
    }
  }

  void store(float* y) const {
    for (const Row& row : rows_) y = std::copy_n(row.x, features(), y);
  }

 private:
  int64_t features() const { return blocks_[0].attention.out.matrix.cells.rows; }

  // The sums of `layers` for each sequence, from its input, and then `after(sequence)`.
  template <class F>
  void multiply(Team::Member& member, const Layers& layers, F&& after) {
    const auto partial = [&](int64_t i) { return partial_ + i * widest_; };
    member.each(
        tokens_.batch * threads_,
        [&](int64_t i) { multiply_part(layers, rows_[i / threads_].input, i % threads_, threads_, partial(i)); },
        [&] {
          for (int64_t s = 0; s < tokens_.batch; s++) {
            add_parts(layers, rows_[s].input, partial(s * threads_), threads_, widest_, rows_[s].sums);
            after(s);
          }
        });
  }

  void use_as_input(Row& row, const float* x, const Layers& layers) const {
    const int64_t features = layers[0]->matrix.cells.columns;
    row.input = {.floats = x, .quads = {}};
    if (!any_int8(layers)) return;
    row.input = room_at(row.quads, x, features, 1);
    quantize_input(row.input, features, 1);
  }

  void begin_block(Row& row, size_t b) const {
    if (b == blocks_.size()) return;
    use_as_input(row, normed_vector(blocks_[b].attention.before, row.x, features(), row.normed), products_[b].heads);
  }

  // Normalises and rotates queries and keys, and stores keys and values at the token's place in the cache.
  void keep_keys(size_t b, int64_t s) const {
    const Attention& layer = blocks_[b].attention;
    const Cache& cache = caches_[b];
    const int64_t size = layer.head_size, heads = layer.heads, key_heads = layer.key_heads;
    float* sums = rows_[s].sums;
    const auto all = [&](int64_t count) { return Heads{.batch = 1, .length = 1, .features = 0, .count = count, .size = size}; };
    if (layer.query_norm.weight) normalise_heads(layer.query_norm, all(heads), sums);
    if (layer.key_norm.weight) normalise_heads(layer.key_norm, all(key_heads), sums + heads * size);
    if (tokens_.rotary.angles.cosine) {
      Rotary rotary = tokens_.rotary;
      rotary.angles.cosine += s * rotary.batch_stride;
      rotary.angles.sine += s * rotary.batch_stride;
      apply_rotary(rotary, all(heads + key_heads), sums);
    }
    for (int64_t h = 0; h < key_heads; h++) {
      const int64_t place = ((s * key_heads + h) * cache.capacity + tokens_.position) * size;
      std::copy_n(sums + (heads + h) * size, size, cache.keys + place);
      std::copy_n(sums + (heads + key_heads + h) * size, size, cache.values + place);
    }
  }

  void attend(size_t b, int64_t s, int64_t head) const {
    const Attention& layer = blocks_[b].attention;
    const Cache& cache = caches_[b];
    const int64_t size = layer.head_size, count = tokens_.position + 1;
    const int64_t key_head = s * layer.key_heads + head / (layer.heads / layer.key_heads);
    const int64_t start = key_head * cache.capacity * size;
    const Mask& mask = tokens_.mask;
    kernels().attend_token({.query = rows_[s].sums + head * size, .keys = cache.keys + start, .values = cache.values + start,
                            .mask = mask.values ? mask.values + s * mask.batch_stride : nullptr, .count = count, .size = size,
                            .scale = layer.scale, .scores = scratch(kScores, count + 2 * kMaxWidth),
                            .out = rows_[s].attended + head * size});
  }

  const std::vector<DecoderBlock>& blocks_;
  const std::vector<Cache>& caches_;
  const NextTokens& tokens_;
  int threads_;
  std::vector<Products> products_;
  std::vector<Row> rows_;
  int64_t widest_;
  float* partial_;
};

}  // namespace

void decode(const std::vector<DecoderBlock>& blocks, const std::vector<Cache>& caches, const NextTokens& tokens, float* y,
            int threads) {
  Decoder decoder(blocks, caches, tokens, threads);
  Team::run(blocks.size() * kStepsABlock, threads, [&](Team::Member& member) { decoder.run(member); });
  decoder.store(y);
}

}  // namespace aerogel
