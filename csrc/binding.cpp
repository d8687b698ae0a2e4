// The Python module `aerogel.runtime.native`. Arrays are passed as addresses: the Python side has checked their shapes and
// types and keeps them alive, and an array protocol would cost more time than a small layer takes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "codec.h"
#include "decoding.h"
#include "layers.h"
#include "threads.h"

namespace nb = nanobind;
using namespace aerogel;

namespace {

template <class T>
constexpr bool kIsArray = std::is_pointer_v<T> && !std::is_same_v<T, const FeedForward*>;

// What Python passes for a T: an address for an array, a number for a value type, and a record as it is.
template <class T>
using Passed = std::conditional_t<kIsArray<T>, uintptr_t, std::conditional_t<std::is_enum_v<T>, int, T>>;

template <class T>
T received(const Passed<T>& value) {
  if constexpr (kIsArray<T>)
    return reinterpret_cast<T>(value);
  else
    return static_cast<T>(value);
}

// A record that Python constructs from its fields in order.
template <class Record, class... Fields>
void record(nb::module_& m, const char* name) {
  nb::class_<Record>(m, name).def("__init__", [](Record* self, Passed<Fields>... values) {
    new (self) Record{received<Fields>(values)...};
  });
}

template <class Result, class... Arguments, class... Extra>
void function(nb::module_& m, const char* name, Result (*run)(Arguments...), const Extra&... extra) {
  const auto call = [run](Passed<Arguments>... values) { return run(received<Arguments>(values)...); };
  m.def(name, call, extra..., nb::call_guard<nb::gil_scoped_release>());
}

void bind_packing(nb::module_& m) {
  record<Cells, int64_t, int64_t, int64_t, int64_t, const RowCount*, const int64_t*, const uint8_t*>(m, "Cells");
  record<Values, ValueType, const void*, const float*, const int32_t*>(m, "Values");
  record<Bitmask, const uint64_t*, const int64_t*, int64_t>(m, "Bitmask");
  record<Matrix, Cells, Values, Bitmask>(m, "Matrix");
  record<NonZeros, ValueType, void*, uint8_t*>(m, "NonZeros");
  record<Dense, float*, int64_t, int64_t>(m, "Dense");
  function(m, "plan_cells", plan_cells);
  function(m, "fill_cells", fill_cells);
  function(m, "unpack", unpack);
  function(m, "sum_rows", sum_rows);
  function(m, "check", check);
}

void bind_codec(nb::module_& m) {
  record<Positions, const uint8_t*, int64_t, int64_t, bool>(m, "Positions");
  record<Field, int, const uint16_t*>(m, "Field");
  record<Coding, ValueType, int, Field, Field>(m, "Coding");
  record<CodedValues, const uint8_t*, int64_t, Coding>(m, "CodedValues");
  function(m, "most_bytes", most_bytes);
  function(m, "count_symbols", count_symbols);
  function(m, "encode_positions", encode_positions);
  function(m, "encode_values", encode_values);
  function(m, "plan_decoded", plan_decoded);
  function(m, "fill_decoded", fill_decoded);
}

void bind_layers(nb::module_& m) {
  record<Linear, Matrix, const float*>(m, "Linear");
  record<Norm, const float*, const float*, float, bool, float>(m, "Norm");
  nb::enum_<Activation>(m, "Activation")
      .value("relu", Activation::relu).value("gelu", Activation::gelu).value("gelu_tanh", Activation::gelu_tanh)
      .value("silu", Activation::silu);
  nb::class_<FeedForward>(m, "FeedForward")
      .def(nb::init<>()).def_rw("before", &FeedForward::before).def_rw("branch", &FeedForward::branch)
      .def_rw("after", &FeedForward::after)
      .def_rw("gate", &FeedForward::gate).def_rw("up", &FeedForward::up).def_rw("down", &FeedForward::down)
      .def_rw("activation", &FeedForward::activation).def_rw("joined", &FeedForward::joined);
  function(m, "project", project);
  function(m, "dense_vector", dense_vector);
  function(m, "feed_forward", feed_forward);
}

void bind_attention(nb::module_& m) {
  record<Rotary, const float*, const float*, int64_t>(m, "Rotary");
  record<Heads, int64_t, int64_t, int64_t, int64_t, int64_t>(m, "Heads");
  record<Mask, const float*, int64_t, int64_t>(m, "Mask");
  record<PositionBias, const float*, int64_t>(m, "PositionBias");
  record<RelativePositions, const float*, const float*>(m, "RelativePositions");
  record<Sequences, const float*, int64_t, int64_t, const float*, int64_t, Mask, Rotary, PositionBias, RelativePositions>(
      m, "Sequences");
  nb::class_<Attention>(m, "Attention")
      .def(nb::init<>()).def_rw("before", &Attention::before).def_rw("branch", &Attention::branch)
      .def_rw("after", &Attention::after).def_rw("query_norm", &Attention::query_norm)
      .def_rw("key_norm", &Attention::key_norm)
      .def_rw("from_x", &Attention::from_x).def_rw("from_encoder", &Attention::from_encoder)
      .def_rw("out", &Attention::out).def_rw("heads", &Attention::heads).def_rw("key_heads", &Attention::key_heads)
      .def_rw("head_size", &Attention::head_size).def_rw("scale", &Attention::scale)
      .def_rw("causal", &Attention::causal);
  using nb::arg;
  function(m, "normalise_heads", normalise_heads);
  function(m, "apply_rotary", apply_rotary);
  function(m, "attention", attention, arg("layer"), arg("next").none(), arg("sequences"), arg("y"), arg("threads"));
}

void bind_decoding(nb::module_& m) {
  record<DecoderBlock, Attention, FeedForward>(m, "DecoderBlock");
  record<Cache, float*, float*, int64_t>(m, "Cache");
  record<NextTokens, const float*, int64_t, int64_t, Mask, Rotary>(m, "NextTokens");
  function(m, "decode", decode);
}

}  // namespace

NB_MODULE(native, m) {
  nb::set_leak_warnings(false);  // Python keeps records until the process ends, see `kept_records`
  bind_packing(m);
  bind_codec(m);
  bind_layers(m);
  bind_attention(m);
  bind_decoding(m);
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const Kernels* set : available()) names.push_back(set->name);
    return names;
  });
  m.def("instruction_set", [] { return std::string(kernels().name); });
  m.def("use_instruction_set", [](const std::string& name) { return use(name.c_str()); });
  function(m, "set_openmp", set_openmp);
}
