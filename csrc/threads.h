// Running tasks on several threads, on the OpenMP runtime that PyTorch has already loaded: a second one beside it would
// spin against it for the same cores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace aerogel {

// The address of `GOMP_parallel` in the loaded runtime; without it a pool of our own is used.
void set_openmp(void* gomp_parallel);

void run_parallel(int64_t tasks, int threads, void (*body)(void* context, int64_t task), void* context);

// Calls task(0) ... task(tasks - 1), each once, in no order; an exception in one is thrown here after all are done.
template <class F>
void parallel(int64_t tasks, int threads, F&& task) {
  run_parallel(
      tasks, threads, [](void* context, int64_t i) { (*static_cast<std::remove_reference_t<F>*>(context))(i); }, &task);
}

// Floats that a thread keeps from call to call, since fresh pages cost more than the arithmetic that fills them. A
// slot names one buffer; taking it again may move it.
float* scratch(int slot, size_t count);

}  // namespace aerogel
