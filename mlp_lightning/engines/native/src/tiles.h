/* Products of matrices on a processor's tile units (Intel AMX): operands are rounded to bfloat16, sums are float.

   A tile is 16 rows of 16 words, and a word a pair of bfloat16 that lie one after another along the depth of the product:
   a left operand's tile has 16 of its rows, 32 deep; a right operand's has 16 of its columns, 32 deep. What a matrix
   lacks of a whole tile is 0. */
#include "transpose.h"

#define DEPTH 32            /* of a tile */
#define WORDS (SIDE * SIDE) /* of a tile */

INLINE int64_t tiles_of(int64_t n, int64_t side)
{
    return (n + side - 1) / side;
}

/* 32 numbers in a row, as 16 words. */
INLINE __m512i in_a_row(__m512 first, __m512 second)
{
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}

/* 16 words, each of a number of `upper` and of the one below it. */
INLINE __m512i one_below_another(__m512 upper, __m512 lower)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, in_a_row(upper, lower));
}

/* The tile of a left operand whose rows these are, of which `rows` and `columns` are left from here on. */
INLINE void take_rows(const float *from, int64_t ld, int64_t rows, int64_t columns, word *tile)
{
    for (int i = 0; i < SIDE; i++) {
        const __mmask16 first = i < rows ? lanes(columns) : 0, second = i < rows ? lanes(columns - SIDE) : 0;
        _mm512_store_si512(tile + i * SIDE, in_a_row(_mm512_maskz_loadu_ps(first, from + i * ld),
                                                     _mm512_maskz_loadu_ps(second, from + i * ld + SIDE)));
    }
}

/* The tile of a right operand whose rows these are, likewise. */
INLINE void take_columns(const float *from, int64_t ld, int64_t rows, int64_t columns, word *tile)
{
    for (int i = 0; i < SIDE; i++) {
        const __mmask16 upper = 2 * i < rows ? lanes(columns) : 0, lower = 2 * i + 1 < rows ? lanes(columns) : 0;
        _mm512_store_si512(tile + i * SIDE, one_below_another(_mm512_maskz_loadu_ps(upper, from + 2 * i * ld),
                                                              _mm512_maskz_loadu_ps(lower, from + (2 * i + 1) * ld)));
    }
}

/* Makes a left operand's tile that of its transpose as a right operand, and the other way round. */
INLINE void transpose(word *tile)
{
    transpose_square(tile, SIDE, SIDE, SIDE, tile, SIDE);
}

/* Tells the unit of this thread the tiles' shape, before it multiplies; _tile_release() ends it. */
INLINE void open_tiles(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes_of_row[16];
        uint8_t rows[16];
    } shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.bytes_of_row[i] = SIDE * sizeof(word);
        shapes.rows[i] = SIDE;
    }
    _tile_loadconfig(&shapes);
}

/* `multiply` for as many tiles as the compiler knows. */
INLINE void multiply_some(const int down, const int across, const word *a, int64_t next_a, const word *b,
                          int64_t next_b, int64_t depth, float *c, int64_t ldc, int adds)
{
    const int64_t bytes = SIDE * sizeof(word), bytes_c = ldc * sizeof(float);
#define EACH_TILE(work)                     \
    do {                                    \
        work(0, 0, 0, 4, 6);                \
        if (across > 1)                     \
            work(1, 0, 1, 4, 7);            \
        if (down > 1)                       \
            work(2, 1, 0, 5, 6);            \
        if (down > 1 && across > 1)         \
            work(3, 1, 1, 5, 7);            \
    } while (0)
#define CLEAR(tile, i, j, left, right) _tile_zero(tile)
#define LOAD(tile, i, j, left, right) _tile_loadd(tile, c + (i)*SIDE * ldc + (j)*SIDE, bytes_c)
#define STORE(tile, i, j, left, right) _tile_stored(tile, c + (i)*SIDE * ldc + (j)*SIDE, bytes_c)
#define MULTIPLY(tile, i, j, left, right) _tile_dpbf16ps(tile, left, right)
    if (adds)
        EACH_TILE(LOAD);
    else
        EACH_TILE(CLEAR);
    for (; depth > 0; depth--, a += WORDS, b += WORDS) {
        _tile_loadd(4, a, bytes);
        if (down > 1)
            _tile_loadd(5, a + next_a, bytes);
        _tile_loadd(6, b, bytes);
        if (across > 1)
            _tile_loadd(7, b + next_b, bytes);
        EACH_TILE(MULTIPLY);
    }
    EACH_TILE(STORE);
}

/* C <- A B, or C + A B where it `adds`, of 16 or 32 rows and columns: `down` and `across` are 1 or 2 tiles, whose first
   words are next_a and next_b apart in the operands; each has `depth` tiles one after another. */
static void multiply(int down, int across, const word *a, int64_t next_a, const word *b, int64_t next_b, int64_t depth,
                     float *c, int64_t ldc, int adds)
{
    if (down > 1 && across > 1)
        multiply_some(2, 2, a, next_a, b, next_b, depth, c, ldc, adds);
    else if (down > 1)
        multiply_some(2, 1, a, next_a, b, next_b, depth, c, ldc, adds);
    else if (across > 1)
        multiply_some(1, 2, a, next_a, b, next_b, depth, c, ldc, adds);
    else
        multiply_some(1, 1, a, next_a, b, next_b, depth, c, ldc, adds);
}
