// The Python module `aerogel.runtime.native`. Arrays come in as addresses: the Python side has checked their shapes and
// types and keeps them alive, and going through an array protocol would cost more than a small layer takes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "codec.h"
#include "kernel.h"
#include "layers.h"
#include "pack.h"
#include "threads.h"

namespace nb = nanobind;
using aerogel::Activation;
using aerogel::Attention;
using aerogel::Coding;
using aerogel::Dense;
using aerogel::FeedForward;
using aerogel::Linear;
using aerogel::Matrix;
using aerogel::Norm;
using aerogel::ValueType;

namespace {

using Address = uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

Activation activation(const std::string& name) {
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  if (name == "silu") return Activation::silu;
  throw nb::value_error(("no activation " + name).c_str());
}

}  // namespace

NB_MODULE(native, m) {
  nb::class_<Matrix>(m, "Matrix")
      .def(
          "__init__",
          [](Matrix* place, int64_t rows, int64_t columns, int64_t block, bool bfloat16, Address values, Address index,
             Address order, Address offsets) {
            new (place) Matrix{rows,
                               columns,
                               block,
                               bfloat16 ? ValueType::bfloat16 : ValueType::float32,
                               at<const void>(values),
                               at<const uint8_t>(index),
                               at<const uint16_t>(order),
                               at<const int64_t>(offsets)};
          });
  nb::class_<Linear>(m, "Linear")
      .def("__init__", [](Linear* place, const Matrix& matrix, Address bias) {
        new (place) Linear{matrix, at<const float>(bias)};
      });
  nb::class_<Norm>(m, "Norm")
      .def("__init__", [](Norm* place, Address weight, Address bias, float epsilon, bool centred) {
        new (place) Norm{at<const float>(weight), at<const float>(bias), epsilon, centred};
      });
  nb::class_<FeedForward>(m, "FeedForward")
      .def("__init__", [](FeedForward* place, const Norm& before, const std::vector<Linear>& gate, const Linear& up,
                          const Linear& down, const std::string& act, const Norm& after) {
        new (place) FeedForward{before, after, gate, up, down, activation(act)};
      });
  nb::class_<Coding>(m, "Coding")
      .def("__init__", [](Coding* place, int width, int dropped, int high, Address high_codes, int low, Address low_codes) {
        new (place) Coding{width, dropped, {high, at<const uint16_t>(high_codes)}, {low, at<const uint16_t>(low_codes)}};
      });

  m.def("instruction_sets", [] {
    const aerogel::Kernels* found[4];
    std::vector<std::string> names;
    for (int i = 0, count = aerogel::available(found); i < count; i++) names.push_back(found[i]->name);
    return names;
  });
  m.def("instruction_set", [] { return std::string(aerogel::kernels().name); });
  m.def("use_instruction_set", [](const std::string& name) { return aerogel::use(name.c_str()); });
  m.def("set_openmp", [](Address address) { aerogel::set_openmp(at<void>(address)); });

  m.def("plan_cells", [](Address values, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride,
                         int64_t block, Address order, Address offsets, int threads) {
    const nb::gil_scoped_release release;
    const Dense dense{at<float>(values), rows, columns, row_stride, column_stride};
    return aerogel::plan_cells(dense, block, at<uint16_t>(order), at<int64_t>(offsets), threads);
  });
  m.def("fill_cells", [](Address dense, int64_t row_stride, int64_t column_stride, const Matrix& matrix, int threads) {
    const nb::gil_scoped_release release;
    return aerogel::fill_cells({at<float>(dense), matrix.rows, matrix.columns, row_stride, column_stride}, matrix,
                               const_cast<void*>(matrix.values), const_cast<uint8_t*>(matrix.index), threads);
  });
  m.def("unpack", [](const Matrix& matrix, Address dense, int64_t row_stride, int64_t column_stride, int threads) {
    const nb::gil_scoped_release release;
    aerogel::unpack(matrix, {at<float>(dense), matrix.rows, matrix.columns, row_stride, column_stride}, threads);
  });
  m.def("check", [](const Matrix& matrix, int64_t non_zeros) {
    const nb::gil_scoped_release release;
    return aerogel::check(matrix, non_zeros);
  });

  m.def("most_bytes", &aerogel::most_bytes);
  m.def("encode_positions", [](const Matrix& matrix, Address stream) {
    const nb::gil_scoped_release release;
    return aerogel::encode_positions(matrix, at<uint8_t>(stream));
  });
  m.def("encode_values", [](const Matrix& matrix, Address bits, const Coding& coding, Address stream) {
    const nb::gil_scoped_release release;
    return aerogel::encode_values(matrix, at<const uint32_t>(bits), coding, at<uint8_t>(stream));
  });
  m.def("plan_decoded", [](Address stream, int64_t size, int64_t non_zeros, int64_t rows, int64_t columns, int64_t block,
                           Address order, Address offsets) {
    const nb::gil_scoped_release release;
    return aerogel::plan_decoded({at<const uint8_t>(stream), size, non_zeros}, rows, columns, block, at<uint16_t>(order),
                                 at<int64_t>(offsets));
  });
  m.def("fill_decoded", [](Address stream, int64_t size, int64_t non_zeros, Address values, int64_t values_size,
                           const Coding& coding, const Matrix& matrix) {
    const nb::gil_scoped_release release;
    return aerogel::fill_decoded({at<const uint8_t>(stream), size, non_zeros},
                                 {at<const uint8_t>(values), values_size, coding}, matrix,
                                 const_cast<void*>(matrix.values), const_cast<uint8_t*>(matrix.index));
  });

  m.def("project", [](const Norm& before, const std::vector<Linear>& layers, Address x, int64_t tokens, Address y,
                      int threads) {
    const nb::gil_scoped_release release;
    aerogel::project(before, layers, at<const float>(x), tokens, at<float>(y), threads);
  });
  m.def("turn", [](Address x, int64_t stride, int64_t tokens, int64_t heads, int64_t size, Address cosine, Address sine) {
    const nb::gil_scoped_release release;
    aerogel::turn(at<float>(x), stride, tokens, heads, size, at<const float>(cosine), at<const float>(sine));
  });
  m.def("dense_vector", [](Address weight, int64_t rows, int64_t columns, Address x, Address y, int threads) {
    const nb::gil_scoped_release release;
    aerogel::dense_vector(at<const float>(weight), rows, columns, at<const float>(x), at<float>(y), threads);
  });
  m.def("feed_forward", [](const FeedForward& layer, Address x, int64_t tokens, Address y, int threads) {
    const nb::gil_scoped_release release;
    aerogel::feed_forward(layer, at<const float>(x), tokens, at<float>(y), threads);
  });
  m.def(
      "attention",
      [](const Norm& before, const std::vector<Linear>& from_x, const std::vector<Linear>& from_memory, const Linear& out,
         int64_t heads, int64_t key_heads, int64_t head_size, float scale, bool causal, const Norm& after,
         Address mask, int64_t mask_batch_stride, int64_t mask_query_stride, Address cosine, Address sine,
         int64_t angle_batch_stride, const std::vector<FeedForward>& then, Address x, Address memory, int64_t batch,
         int64_t length, int64_t memory_length, Address y, int threads) {
        const Attention layer{before,
                              after,
                              from_x,
                              from_memory,
                              out,
                              heads,
                              key_heads,
                              head_size,
                              scale,
                              causal,
                              at<const float>(mask),
                              mask_batch_stride,
                              mask_query_stride,
                              at<const float>(cosine),
                              at<const float>(sine),
                              angle_batch_stride};
        const nb::gil_scoped_release release;
        aerogel::attention(layer, then.empty() ? nullptr : &then[0], at<const float>(x), at<const float>(memory), batch,
                           length, memory_length, at<float>(y), threads);
      });
}
