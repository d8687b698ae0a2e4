// x86 with AVX-512 VNNI and VBMI2, which expands bytes under a mask.
#define AEROGEL_SET avx512_vbmi2
#define AEROGEL_VNNI
#define AEROGEL_VBMI2
#include "avx512.cpp"
