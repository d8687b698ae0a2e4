#include <atomic>

#if defined(AEROGEL_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "kernel.h"

namespace aerogel {

#ifdef AEROGEL_X86
namespace {

struct Features {
  bool avx2, avx_vnni, avx512, vnni, vbmi2, bf16;
};

// What the processor has and the system saves the registers of. Bits are those of Intel's manual, under CPUID and XCR0.
Features features() {
  const Cpuid basic = cpuid(1, 0);
  const auto all = [](uint64_t word, std::initializer_list<int> bits) {
    return std::all_of(bits.begin(), bits.end(), [=](int bit) { return word >> bit & 1; });
  };
  if (cpuid(0, 0).eax < 7 || !all(basic.ecx, {12, 27, 28})) return {};  // FMA, XGETBV, AVX
  const Cpuid extended = cpuid(7, 0), later = extended.eax >= 1 ? cpuid(7, 1) : Cpuid{};
  const uint64_t saved = saved_registers();
  const bool ymm = all(saved, {1, 2}), zmm = ymm && all(saved, {5, 6, 7});
  return {.avx2 = ymm && all(extended.ebx, {5}), .avx_vnni = all(later.eax, {4}),
          .avx512 = zmm && all(extended.ebx, {16, 17, 28, 30, 31}),  // F, DQ, CD, BW, VL: MSVC takes one for all
          .vnni = all(extended.ecx, {11}), .vbmi2 = all(extended.ecx, {6}), .bf16 = all(later.eax, {5})};
}

}  // namespace
#endif

std::vector<const Kernels*> available() {
  std::vector<const Kernels*> sets;
#ifdef AEROGEL_X86
  const Features has = features();
  if (has.avx512) {
    if (has.vnni) {
      if (has.vbmi2) {
        if (has.bf16) sets.push_back(&avx512_bf16_kernels);
        sets.push_back(&avx512_vbmi2_kernels);
      }
      sets.push_back(&avx512_vnni_kernels);
    }
    sets.push_back(&avx512_kernels);
  }
  if (has.avx2) {
    if (has.avx_vnni) sets.push_back(&avx_vnni_kernels);
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
