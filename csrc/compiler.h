// What C++ has no standard way to say, for GCC, Clang and MSVC. There is nothing of one compiler alone in the other files.
#pragma once

#include <cstdint>

#if defined(_MSC_VER) && !defined(__clang__)
#define AEROGEL_INLINE __forceinline
#define AEROGEL_NOINLINE __declspec(noinline)
#else
#define AEROGEL_INLINE [[gnu::always_inline]] inline
#define AEROGEL_NOINLINE [[gnu::noinline]]
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define AEROGEL_X86_PROCESSOR
#include <immintrin.h>
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace aerogel {

AEROGEL_INLINE void prefetch([[maybe_unused]] const void* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p);
#elif defined(AEROGEL_X86_PROCESSOR)
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
#endif
}

#if defined(AEROGEL_X86_PROCESSOR)
// Loads a vector before its use, not as an operand in memory.
template <class T>
AEROGEL_INLINE void load_now([[maybe_unused]] T& vector) {
#if defined(__GNUC__)
  asm("" : "+v"(vector));
#endif
}
#endif

// Tells the processor that this thread waits for another.
AEROGEL_INLINE void pause_thread() {
#if defined(AEROGEL_X86_PROCESSOR)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

#if defined(AEROGEL_X86_PROCESSOR)
struct Cpuid {
  uint32_t eax, ebx, ecx, edx;
};

AEROGEL_INLINE Cpuid cpuid(uint32_t leaf, uint32_t part) {
#if defined(_MSC_VER)
  int words[4];
  __cpuidex(words, static_cast<int>(leaf), static_cast<int>(part));
  return {static_cast<uint32_t>(words[0]), static_cast<uint32_t>(words[1]), static_cast<uint32_t>(words[2]),
          static_cast<uint32_t>(words[3])};
#else
  Cpuid of{};
  __cpuid_count(leaf, part, of.eax, of.ebx, of.ecx, of.edx);
  return of;
#endif
}

// XCR0, which CPUID must have said can be read: the kinds of registers that the system saves for each thread.
AEROGEL_INLINE uint64_t saved_registers() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
#endif
}
#endif

}  // namespace aerogel
