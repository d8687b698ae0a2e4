// x86 with AVX-VNNI besides what avx2.cpp needs: the dot products of AVX-512 VNNI on registers of 256 bits.
#define AEROGEL_SET avx_vnni
#define AEROGEL_VNNI
#include "avx2.cpp"
