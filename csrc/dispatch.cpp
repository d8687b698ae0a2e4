#include <atomic>

#if defined(AEROGEL_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "kernel.h"

namespace aerogel {

std::vector<const Kernels*> available() {
  std::vector<const Kernels*> sets;
#ifdef AEROGEL_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) {
    if (__builtin_cpu_supports("avx512vnni")) {
      if (__builtin_cpu_supports("avx512vbmi2")) {
        if (__builtin_cpu_supports("avx512bf16")) sets.push_back(&avx512_bf16_kernels);
        sets.push_back(&avx512_vbmi2_kernels);
      }
      sets.push_back(&avx512_vnni_kernels);
    }
    sets.push_back(&avx512_kernels);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    if (__builtin_cpu_supports("avxvnni")) sets.push_back(&avx_vnni_kernels);
    sets.push_back(&avx2_kernels);
  }
#endif
#ifdef AEROGEL_ARM64
#ifdef __linux__
  if (getauxval(AT_HWCAP2) & HWCAP2_I8MM) sets.push_back(&neon_i8mm_kernels);
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) sets.push_back(&neon_dotprod_kernels);
#endif
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
