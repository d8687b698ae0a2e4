// x86 with AVX-512 VNNI, VBMI2 and the products of bfloat16.
#define AEROGEL_SET avx512_bf16
#define AEROGEL_VNNI
#define AEROGEL_VBMI2
#define AEROGEL_BF16
#include "avx512.cpp"
