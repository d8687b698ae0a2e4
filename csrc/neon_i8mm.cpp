// 64-bit ARM with the dot product of unsigned and signed bytes (FEAT_I8MM).
#define AEROGEL_SET neon_i8mm
#include "neon.cpp"
