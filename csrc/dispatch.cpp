#include <atomic>
#include <cstring>

#include "kernel.h"

namespace aerogel {

int available(const Kernels* found[4]) {
  int count = 0;
#ifdef AEROGEL_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) found[count++] = &avx512_kernels;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found[count++] = &avx2_kernels;
#endif
#ifdef AEROGEL_ARM64
  found[count++] = &neon_kernels;
#endif
  found[count++] = &scalar_kernels;
  return count;
}

namespace {

const Kernels* best() {
  const Kernels* found[4];
  available(found);
  return found[0];
}

std::atomic<const Kernels*> chosen{best()};

}  // namespace

const Kernels& kernels() { return *chosen.load(std::memory_order_relaxed); }

bool use(const char* name) {
  const Kernels* found[4];
  const int count = available(found);
  for (int i = 0; i < count; i++) {
    if (std::strcmp(found[i]->name, name) == 0) {
      chosen = found[i];
      return true;
    }
  }
  return false;
}

}  // namespace aerogel
