// x86 with AVX-512 VNNI, VBMI2 and the products of bfloat16.
#define AEROGEL_SET avx512_bf16
#include "avx512.cpp"
