// Expanding integers under a bit mask without AVX-512 VBMI2. Included inside a namespace, like body.h.

// The bytes 2 part and 2 part + 1 of `bits`, see `Vector::expand` of body_bitmask.h.
inline __m128i expand_sixteen(uint64_t bits, uint64_t before, const int8_t* p, int part) {
  const auto eight = [&](int byte) {
    const uint64_t* places = kPlaces.data() + (bits >> 8 * byte & 255);
    const __m128i integers = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + (before >> 8 * byte & 255)));
    return _mm_shuffle_epi8(integers, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(places)));
  };
  return _mm_unpacklo_epi64(eight(2 * part), eight(2 * part + 1));
}
