#include "codec.h"

namespace aerogel {
namespace {

// Bits of a gap that are written as they are, for a matrix of this number of units.
int rice_parameter(int64_t units, int64_t non_zeros) {
  if (non_zeros == 0) return 0;
  // gaps are geometrically distributed: the best divisor is log(2) times their mean, within 5% of the entropy everywhere
  return static_cast<int>(std::bit_width(static_cast<uint64_t>((2 * units - non_zeros) / (4 * non_zeros))));
}

static_assert(Int8::kUnit == 4 && std::endian::native == std::endian::little, "a quad is read as one number");

// Fills bytes with bits from the lowest up.
class Writer {
 public:
  explicit Writer(uint8_t* bytes) : start_(bytes), at_(bytes) {}

  void gap(uint64_t gap, int k) {
    uint64_t ones = gap >> k;
    for (; ones >= 32; ones -= 32) put(0, 32);
    put(uint64_t{1} << ones, static_cast<int>(ones) + 1);
    put(gap & ((uint64_t{1} << k) - 1), k);
  }

  void value(uint32_t bits, const Coding& coding) {
    const int middle = coding.middle();
    symbol(bits >> coding.low.bits >> middle, coding.high);
    symbol(bits & ((uint32_t{1} << coding.low.bits) - 1), coding.low);
    put(bits >> coding.low.bits & ((uint64_t{1} << middle) - 1), middle);
  }

  void quad(uint32_t bits, const Coding& coding) {
    uint32_t mask = 0;
    for (int i = 0; i < Int8::kUnit; i++) mask |= uint32_t{(bits >> i * 8 & 255) != 0} << i;
    symbol(mask, coding.high);
    for (; bits; bits >>= 8)
      if (bits & 255) symbol(bits & 255, coding.low);
  }

  int64_t finish() {
    for (; count_ > 0; count_ -= 8, pending_ >>= 8) *at_++ = static_cast<uint8_t>(pending_);
    return at_ - start_;
  }

  void put(uint64_t bits, int count) {  // up to 32; at most 31 are pending
    pending_ |= bits << count_;
    count_ += count;
    if (count_ < 32) return;
    const uint32_t word = static_cast<uint32_t>(pending_);
    std::memcpy(at_, &word, sizeof word);
    at_ += sizeof word;
    pending_ >>= 32;
    count_ -= 32;
  }

 private:
  void symbol(uint32_t symbol, const Field& field) {
    if (field.bits) put(field.codes[symbol] >> 4, field.codes[symbol] & 15);
  }

  uint8_t *start_, *at_;
  uint64_t pending_ = 0;
  int count_ = 0;
};

class Reader {
 public:
  Reader(const uint8_t* bytes, int64_t size) : bytes_(bytes), size_(size), bits_(8 * size) {}

  // The next gap, or -1 if the stream ends within it or it exceeds `most`.
  int64_t gap(int k, int64_t most) {
    int64_t zeros = 0;
    uint64_t ahead = window();
    while (ahead == 0) {
      const int64_t seen = 64 - (bit_ & 7);
      zeros += seen;
      bit_ += seen;
      if (bit_ >= bits_) return -1;
      ahead = window();
    }
    const int more = std::countr_zero(ahead);
    zeros += more;
    bit_ += more + 1;
    ahead = more + 1 + k < 56 ? ahead >> more >> 1 : window();
    bit_ += k;
    if (bit_ > bits_ || zeros > most >> k) return -1;
    const int64_t gap = zeros << k | static_cast<int64_t>(ahead & ((uint64_t{1} << k) - 1));
    return gap > most ? -1 : gap;
  }

  // The bits of the next value; beyond the end of the stream all bits are 0.
  uint32_t value(const Coding& coding) {
    const int middle = coding.middle();
    uint64_t ahead = window();  // a value takes 37 bits at most
    uint64_t bits = symbol(coding.high, ahead);
    const uint64_t low = symbol(coding.low, ahead);
    bits = (bits << middle | (ahead & ((uint64_t{1} << middle) - 1))) << coding.low.bits | low;
    bit_ += middle;
    return static_cast<uint32_t>(bits >> 1 << coding.dropped | (bits & 1) << (coding.width() - 1));
  }

  // The integers of the next quad, a byte each; 0 if its mask is 0 or one of those in the mask is.
  uint32_t quad(const Coding& coding) {
    uint64_t ahead = window();  // two integers, or the mask and one, take 24 bits at most
    uint32_t quad = 0;
    for (uint64_t mask = symbol(coding.high, ahead); mask; mask &= mask - 1) {
      const uint64_t integer = symbol(coding.low, ahead);
      if (integer == 0) return 0;
      quad |= static_cast<uint32_t>(integer << std::countr_zero(mask) * 8);
      ahead = window();
    }
    return quad;
  }

  // Whether only the zeros that fill the last byte are left.
  bool finished() const { return bit_ <= bits_ && bits_ - bit_ < 8 && window() == 0; }

 private:
  uint64_t symbol(const Field& field, uint64_t& ahead) {
    if (field.bits == 0) return 0;
    const uint16_t code = field.codes[ahead & ((1 << kLongestCode) - 1)];
    ahead >>= code & 15;
    bit_ += code & 15;
    return code >> 4;
  }

  // The next 57 bits or more, 0 beyond the end.
  uint64_t window() const {
    const int64_t byte = bit_ >> 3;
    uint64_t word = 0;
    if (byte + 8 <= size_)
      std::memcpy(&word, bytes_ + byte, 8);
    else if (byte < size_)
      std::memcpy(&word, bytes_ + byte, size_ - byte);
    return word >> (bit_ & 7);
  }

  const uint8_t* bytes_;
  int64_t size_, bits_, bit_ = 0;
};

// Reads all positions: calls enter(run) where the next is in another run than the one before, the runs of a matrix being
// the blocks of its rows, [row][block], and visit(unit) with the unit within the block. Returns what is wrong with the
// stream, or null.
template <class Enter, class Visit>
const char* read_positions(const Positions& positions, const Cells& shape, Enter&& enter, Visit&& visit) {
  const int64_t in_row = shape.units(), block = shape.block, units = shape.rows * in_row, blocks = shape.blocks();
  const int k = rice_parameter(units, positions.non_zeros);
  Reader reader(positions.bytes, positions.size);
  int64_t position = -1, first = 0, end = 0;  // of the run
  for (int64_t i = 0; i < positions.non_zeros; i++) {
    const int64_t gap = positions.implied ? 0 : reader.gap(k, units - position - 2);
    if (gap < 0) return "they end early or leave the matrix";
    position += gap + 1;
    if (position >= end) {
      const int64_t row = position / in_row, number = position % in_row / block;
      first = row * in_row + number * block;
      end = std::min(first + block, (row + 1) * in_row);
      enter(row * blocks + number);
    }
    visit(position - first);
  }
  return reader.finished() ? nullptr : "something follows the last position";
}

// The non-zeros of each row within each block, [row][block].
std::vector<Range> runs_of(const Cells& cells) {
  const int64_t blocks = cells.blocks();
  std::vector<Range> runs(cells.rows * blocks);
  for (int64_t c = 0; c < cells.count(); c++) {
    const int64_t panel = c / blocks, block = c % blocks;
    const RowCount* order = cells.cell_order(panel, block);
    int64_t at = cells.offsets[c];
    for (int64_t i = 0; i < cells.panel_rows(panel); i++) {
      runs[(panel * kPanel + order[i].row) * blocks + block] = {.first = at, .last = at + order[i].count};
      at += order[i].count;
    }
  }
  return runs;
}

}  // namespace

int64_t most_bytes(int64_t units, int64_t non_zeros) {
  const int k = rice_parameter(units, non_zeros);
  return (non_zeros * (1 + k) + ((units - non_zeros) >> k) + 7) / 8;
}

void count_symbols(const uint32_t* bits, int64_t size, int shift, int field_bits, int64_t* counts) {
  const uint32_t mask = (uint32_t{1} << field_bits) - 1;
  std::fill(counts, counts + mask + 1, 0);
  for (int64_t i = 0; i < size; i++) counts[bits[i] >> shift & mask]++;
}

int64_t encode_positions(const Cells& cells, uint8_t* stream) {
  const std::vector<Range> runs = runs_of(cells);
  const int k = rice_parameter(cells.rows * cells.units(), cells.non_zeros());
  Writer writer(stream);
  int64_t previous = -1;
  for (int64_t row = 0; row < cells.rows; row++) {
    for (int64_t block = 0; block < cells.blocks(); block++) {
      const Range run = runs[row * cells.blocks() + block];
      const int64_t first = row * cells.units() + block * cells.block;
      for (int64_t i = run.first; i < run.last; i++) {
        const int64_t position = first + cells.index[i];
        writer.gap(static_cast<uint64_t>(position - previous - 1), k);
        previous = position;
      }
    }
  }
  return writer.finish();
}

int64_t encode_values(const Cells& cells, const uint32_t* bits, const Coding& coding, uint8_t* stream) {
  Writer writer(stream);
  for (const Range run : runs_of(cells)) {
    for (int64_t i = run.first; i < run.last; i++) {
      if (coding.type == ValueType::int8)
        writer.quad(bits[i], coding);
      else
        writer.value(bits[i], coding);
    }
  }
  return writer.finish();
}

std::string plan_decoded(const Positions& positions, const Cells& shape, RowCount* order, int64_t* offsets) {
  const int64_t blocks = shape.blocks();
  std::vector<uint16_t> counts(shape.rows * blocks);
  uint16_t* count = nullptr;
  const char* wrong = read_positions(
      positions, shape, [&](int64_t run) { count = &counts[run]; }, [&](int64_t) { ++*count; });
  if (wrong) return wrong;
  offsets[0] = 0;
  for (int64_t c = 0; c < shape.count(); c++) {
    const int64_t panel = c / blocks, block = c % blocks, rows = shape.panel_rows(panel);
    const uint16_t* first = counts.data() + panel * kPanel * blocks + block;
    order_rows(first, blocks, rows, shape.block, order + shape.order_start(panel, block));
    offsets[c + 1] = offsets[c];
    for (int64_t r = 0; r < rows; r++) offsets[c + 1] += first[r * blocks];
  }
  return "";
}

std::string fill_decoded(const Positions& positions, const CodedValues& values, const Cells& cells, const NonZeros& to) {
  const std::vector<Range> runs = runs_of(cells);
  Reader reader(values.bytes, values.size);
  bool fits = true, is_sound = true;
  with_stored(values.coding.type, [&]<class Type>(Type) {
    constexpr bool is_quad = Type::kUnit > 1;
    const Coding coding = values.coding;
    auto* stored = static_cast<typename Type::Stored*>(to.values);
    Range left{};
    const auto visit = [&](int64_t unit) {
      if (left.first == left.last) {  // the stream has changed since it was counted
        fits = false;
        return;
      }
      const uint32_t bits = is_quad ? reader.quad(coding) : reader.value(coding);
      if (is_quad && bits == 0) is_sound = false;
      // its lower bytes come first
      std::memcpy(stored + left.first * Type::kUnit, &bits, Type::kUnit * sizeof *stored);
      to.index[left.first++] = static_cast<uint8_t>(unit);
    };
    read_positions(positions, cells, [&](int64_t run) { left = runs[run]; }, visit);
  });
  if (!fits) return "there are more of them than were counted";
  if (!is_sound) return "a mask or an integer is 0";
  return reader.finished() ? "" : "their stream ends elsewhere than the last of them";
}

}  // namespace aerogel
