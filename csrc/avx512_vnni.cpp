// x86 with AVX-512 VNNI besides what avx512.cpp needs.
#define AEROGEL_SET avx512_vnni
#define AEROGEL_VNNI
#include "avx512.cpp"
