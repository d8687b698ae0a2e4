// 64-bit ARM with the dot product of bytes (FEAT_DotProd).
#define AEROGEL_SET neon_dotprod
#include "neon.cpp"
