// The Python module `aerogel.runtime.native`. Arrays are passed as addresses: the Python side has checked their shapes and
// types and keeps them alive, and an array protocol would cost more time than a small layer takes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "codec.h"
#include "layers.h"
#include "threads.h"

namespace nb = nanobind;
using namespace aerogel;

namespace {

using Address = uintptr_t;
using Unlocked = nb::call_guard<nb::gil_scoped_release>;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

void bind_packing(nb::module_& m) {
  using Shape = std::pair<int64_t, int64_t>;
  nb::class_<Cells>(m, "Cells")
      .def("__init__", [](Cells* self, Shape shape, int64_t block, Address order, Address offsets, Address index) {
        new (self) Cells{.rows = shape.first, .columns = shape.second, .block = block, .order = at<const RowCount>(order),
                         .offsets = at<const int64_t>(offsets), .index = at<const uint8_t>(index)};
      });
  nb::class_<Matrix>(m, "Matrix").def("__init__", [](Matrix* self, const Cells& cells, int type, Address values) {
    new (self) Matrix{cells, {.type = ValueType{type}, .data = at<const void>(values)}};
  });
  nb::class_<NonZeros>(m, "NonZeros").def("__init__", [](NonZeros* self, int type, Address values, Address index) {
    new (self) NonZeros{.type = ValueType{type}, .values = at<void>(values), .index = at<uint8_t>(index)};
  });
  nb::class_<Dense>(m, "Dense").def("__init__", [](Dense* self, Address values, int64_t row_stride, int64_t column_stride) {
    new (self) Dense{.values = at<float>(values), .row_stride = row_stride, .column_stride = column_stride};
  });
  const auto plan = [](const Dense& dense, const Cells& shape, Address order, Address offsets, int threads) {
    return plan_cells(dense, shape, at<RowCount>(order), at<int64_t>(offsets), threads);
  };
  m.def("plan_cells", plan, Unlocked());
  m.def("fill_cells", &fill_cells, Unlocked());
  m.def("unpack", &unpack, Unlocked());
  m.def("check", &check, Unlocked());
}

void bind_codec(nb::module_& m) {
  nb::class_<Positions>(m, "Positions").def("__init__", [](Positions* self, Address bytes, int64_t size, int64_t non_zeros) {
    new (self) Positions{.bytes = at<const uint8_t>(bytes), .size = size, .non_zeros = non_zeros};
  });
  nb::class_<Field>(m, "Field").def("__init__", [](Field* self, int bits, Address codes) {
    new (self) Field{.bits = bits, .codes = at<const uint16_t>(codes)};
  });
  nb::class_<Coding>(m, "Coding").def("__init__", [](Coding* self, int type, int dropped, const Field& high, const Field& low) {
    new (self) Coding{.type = ValueType{type}, .dropped = dropped, .high = high, .low = low};
  });
  nb::class_<CodedValues>(m, "CodedValues")
      .def("__init__", [](CodedValues* self, Address bytes, int64_t size, const Coding& coding) {
        new (self) CodedValues{.bytes = at<const uint8_t>(bytes), .size = size, .coding = coding};
      });
  m.def("most_bytes", &most_bytes);
  const auto count = [](Address bits, int64_t size, int shift, int field_bits, Address counts) {
    count_symbols(at<const uint32_t>(bits), size, shift, field_bits, at<int64_t>(counts));
  };
  m.def("count_symbols", count, Unlocked());
  const auto positions = [](const Cells& cells, Address stream) { return encode_positions(cells, at<uint8_t>(stream)); };
  m.def("encode_positions", positions, Unlocked());
  const auto values = [](const Cells& cells, Address bits, const Coding& coding, Address stream) {
    return encode_values(cells, at<const uint32_t>(bits), coding, at<uint8_t>(stream));
  };
  m.def("encode_values", values, Unlocked());
  const auto plan = [](const Positions& stream, const Cells& shape, Address order, Address offsets) {
    return plan_decoded(stream, shape, at<RowCount>(order), at<int64_t>(offsets));
  };
  m.def("plan_decoded", plan, Unlocked());
  m.def("fill_decoded", &fill_decoded, Unlocked());
}

void bind_layers(nb::module_& m) {
  nb::class_<Linear>(m, "Linear").def("__init__", [](Linear* self, const Matrix& matrix, Address bias) {
    new (self) Linear{.matrix = matrix, .bias = at<const float>(bias)};
  });
  nb::class_<Norm>(m, "Norm").def("__init__", [](Norm* self, Address weight, Address bias, float epsilon, bool centred) {
    new (self) Norm{.weight = at<const float>(weight), .bias = at<const float>(bias), .epsilon = epsilon, .centred = centred};
  });
  nb::enum_<Activation>(m, "Activation")
      .value("relu", Activation::relu).value("gelu", Activation::gelu).value("gelu_tanh", Activation::gelu_tanh)
      .value("silu", Activation::silu);
  nb::class_<FeedForward>(m, "FeedForward")
      .def(nb::init<>()).def_rw("before", &FeedForward::before).def_rw("after", &FeedForward::after)
      .def_rw("gate", &FeedForward::gate).def_rw("up", &FeedForward::up).def_rw("down", &FeedForward::down)
      .def_rw("activation", &FeedForward::activation);
  const auto project_at = [](const Norm& before, const std::vector<Linear>& layers, Address x, int64_t tokens, Address y,
                             int threads) { project(before, layers, at<const float>(x), tokens, at<float>(y), threads); };
  m.def("project", project_at, Unlocked());
  const auto dense_vector_at = [](Address weight, int64_t rows, int64_t columns, Address x, Address y, int threads) {
    dense_vector(at<const float>(weight), rows, columns, at<const float>(x), at<float>(y), threads);
  };
  m.def("dense_vector", dense_vector_at, Unlocked());
  const auto feed_forward_at = [](const FeedForward& layer, Address x, int64_t tokens, Address y, int threads) {
    feed_forward(layer, at<const float>(x), tokens, at<float>(y), threads);
  };
  m.def("feed_forward", feed_forward_at, Unlocked());
}

void bind_attention(nb::module_& m) {
  nb::class_<Rotary>(m, "Rotary").def("__init__", [](Rotary* self, Address cosine, Address sine, int64_t batch_stride) {
    new (self) Rotary{{.cosine = at<const float>(cosine), .sine = at<const float>(sine)}, batch_stride};
  });
  nb::class_<Heads>(m, "Heads")
      .def(nb::init<>()).def_rw("batch", &Heads::batch).def_rw("length", &Heads::length)
      .def_rw("features", &Heads::features).def_rw("count", &Heads::count).def_rw("size", &Heads::size);
  const auto rotate = [](const Rotary& rotary, const Heads& heads, Address x) { apply_rotary(rotary, heads, at<float>(x)); };
  m.def("apply_rotary", rotate, Unlocked());
  nb::class_<Mask>(m, "Mask").def("__init__", [](Mask* self, Address values, int64_t batch_stride, int64_t query_stride) {
    new (self) Mask{.values = at<const float>(values), .batch_stride = batch_stride, .query_stride = query_stride};
  });
  nb::class_<Attention>(m, "Attention")
      .def(nb::init<>()).def_rw("before", &Attention::before).def_rw("after", &Attention::after)
      .def_rw("from_x", &Attention::from_x).def_rw("from_encoder", &Attention::from_encoder)
      .def_rw("out", &Attention::out).def_rw("heads", &Attention::heads).def_rw("key_heads", &Attention::key_heads)
      .def_rw("head_size", &Attention::head_size).def_rw("scale", &Attention::scale)
      .def_rw("causal", &Attention::causal).def_rw("mask", &Attention::mask).def_rw("rotary", &Attention::rotary);
  nb::class_<Sequences>(m, "Sequences")
      .def("__init__", [](Sequences* self, Address x, int64_t batch, int64_t length, Address encoder, int64_t encoder_length) {
        new (self) Sequences{.x = at<const float>(x), .batch = batch, .length = length,
                             .encoder_hidden_states = at<const float>(encoder), .encoder_length = encoder_length};
      });
  const auto attend = [](const Attention& layer, const FeedForward* next, const Sequences& sequences, Address y,
                         int threads) { attention(layer, next, sequences, at<float>(y), threads); };
  using nb::arg;
  m.def("attention", attend, arg("layer"), arg("next").none(), arg("sequences"), arg("y"), arg("threads"), Unlocked());
}

}  // namespace

NB_MODULE(native, m) {
  bind_packing(m);
  bind_codec(m);
  bind_layers(m);
  bind_attention(m);
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const Kernels* set : available()) names.push_back(set->name);
    return names;
  });
  m.def("instruction_set", [] { return std::string(kernels().name); });
  m.def("use_instruction_set", [](const std::string& name) { return use(name.c_str()); });
  m.def("set_openmp", [](Address address) { set_openmp(at<void>(address)); });
}
