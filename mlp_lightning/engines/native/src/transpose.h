/* Transposes of matrices of words: of floats, or of pairs of bfloat16. */
#include <stdint.h>

#define SIDE 16 /* of the squares that are transposed at a time */
#define INLINE static inline __attribute__((always_inline))

typedef uint32_t word;

#ifdef __AVX512F__
#include <immintrin.h>

/* The first `count` of 16 lanes. */
INLINE __mmask16 lanes(int64_t count)
{
    return count <= 0 ? 0 : count >= SIDE ? 0xffff : (__mmask16)((1 << count) - 1);
}

/* The first 16 rows and columns of a matrix, or as many as are left, to their transpose, which may be in their place; rows
   are ld apart. */
INLINE void transpose_square(const void *from, int64_t ld_from, int64_t rows, int64_t columns, void *to, int64_t ld_to)
{
    __m512i r[SIDE], s[SIDE];
    for (int i = 0; i < SIDE; i++)
        r[i] = _mm512_maskz_loadu_epi32(i < rows ? lanes(columns) : 0, (const word *)from + i * ld_from);
    for (int i = 0; i < SIDE; i += 2) {
        s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < SIDE; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_unpacklo_epi64(s[i + j], s[i + 2 + j]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi64(s[i + j], s[i + 2 + j]);
        }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < SIDE; j += 8) {
            s[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88);
            s[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        const int first = (i & 3) + (i & 4), second = first + 8;
        _mm512_mask_storeu_epi32((word *)to + first * ld_to, first < columns ? lanes(rows) : 0,
                                 _mm512_shuffle_i32x4(s[i], s[i + 8], 0x88));
        _mm512_mask_storeu_epi32((word *)to + second * ld_to, second < columns ? lanes(rows) : 0,
                                 _mm512_shuffle_i32x4(s[i], s[i + 8], 0xdd));
    }
}
#else
INLINE void transpose_square(const float *from, int64_t ld_from, int64_t rows, int64_t columns, float *to, int64_t ld_to)
{
    for (int64_t i = 0; i < rows && i < SIDE; i++)
        for (int64_t j = 0; j < columns && j < SIDE; j++)
            to[j * ld_to + i] = from[i * ld_from + j];
}
#endif

/* A (rows, columns) to its transpose, in memory of its own. */
static inline void transpose_matrix(const float *from, int64_t ld_from, int64_t rows, int64_t columns, float *to,
                                    int64_t ld_to)
{
    for (int64_t i = 0; i < rows; i += SIDE)
        for (int64_t j = 0; j < columns; j += SIDE)
            transpose_square(from + i * ld_from + j, ld_from, rows - i, columns - j, to + j * ld_to + i, ld_to);
}
