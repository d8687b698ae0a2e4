#include <atomic>

#include "kernel.h"

namespace aerogel {

std::vector<const Kernels*> available() {
  std::vector<const Kernels*> sets;
#ifdef AEROGEL_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) sets.push_back(&avx512_kernels);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.push_back(&avx2_kernels);
#endif
#ifdef AEROGEL_ARM64
  sets.push_back(&neon_kernels);
#endif
  sets.push_back(&scalar_kernels);
  return sets;
}

static std::atomic<const Kernels*> chosen{available().front()};

const Kernels& kernels() { return *chosen.load(std::memory_order_relaxed); }

bool use(const char* name) {
  for (const Kernels* set : available()) {
    if (std::strcmp(set->name, name) != 0) continue;
    chosen = set;
    return true;
  }
  return false;
}

}  // namespace aerogel
