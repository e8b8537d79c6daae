/* The passes in mixed precision, for processors with tile units: operands of products are rounded to bfloat16.

   What a layer gives the next has its features as rows and its samples as columns, (H, B), with memory for a multiple of
   32 of either. Threads divide the features, 32 at a time: a strip, which is finished and packed as operand of what
   comes next while it is in the cache. What a strip comes to does not depend on who makes it. */
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <unistd.h>

#include "passes.h"
#include "shares.h"
#include "tiles.h"

#define STRIP 32   /* features, two tiles; also the depth of a tile */
#define AT_ONCE 16 /* tiles of the depth, whose left operands stay in the first cache */

/* A pass, as one of its threads knows it. */
typedef struct {
    const layer_t *layers;
    int count;
    const float *x;
    int64_t rows, width; /* B, and up to a multiple of 32 */
    int64_t stride;      /* of rows of z and dz: no power of 2, whose multiples fall on few lines of the cache */
    int64_t me, all;
    shares_t shares; /* of the strips of each layer's outputs, then of those whose weights make their step */
} part_t;

/* Runs what follows for strips of layer k's outputs, from feature i on, as the thread comes to them. */
#define EACH_STRIP(i, p, k) for (int64_t i; (i = STRIP * take(&(p)->shares, k, (p)->me)) >= 0;)

static int64_t two_at_most(int64_t left)
{
    return left > SIDE ? 2 : 1;
}

/* C (32, B) <- rows from i on of W, or of W' where it is `transposed` and given as (depth, n), times the right operand. */
static void strip_times(const float *w, int transposed, int64_t ldw, int64_t i, int64_t n, int64_t depth,
                        const word *right, const part_t *p, float *c)
{
    __attribute__((aligned(64))) word left[2 * AT_ONCE * WORDS];
    const int64_t tiles = tiles_of(depth, DEPTH);
    for (int64_t t = 0; t < tiles; t += AT_ONCE) {
        const int64_t count = minimum(AT_ONCE, tiles - t);
        for (int64_t s = 0; s < count; s++)
            for (int64_t down = 0; down < two_at_most(n - i); down++) {
                const int64_t row = i + down * SIDE, k = (t + s) * DEPTH;
                word *tile = left + (down * AT_ONCE + s) * WORDS;
                if (transposed) {
                    take_columns(w + k * ldw + row, ldw, depth - k, n - row, tile);
                    transpose(tile);
                } else
                    take_rows(w + row * ldw + k, ldw, n - row, depth - k, tile);
            }
        for (int64_t j = 0; j < p->rows; j += 2 * SIDE)
            multiply(two_at_most(n - i), two_at_most(p->rows - j), left, AT_ONCE * WORDS,
                     right + (j / SIDE * tiles + t) * WORDS, tiles * WORDS, count, c + j, p->stride, t > 0);
    }
}

/* X as right operand of the first layer, its features deep: a thread's part of it. */
static void pack_samples(const part_t *p)
{
    const int64_t depth = p->layers[0].fan_in, tiles = tiles_of(depth, DEPTH);
    for (int64_t j = 0; j < p->rows; j += SIDE)
        for (int64_t t = tiles * p->me / p->all; t < tiles * (p->me + 1) / p->all; t++) {
            word *tile = p->layers[0].input + (j / SIDE * tiles + t) * WORDS;
            take_rows(p->x + j * depth + t * DEPTH, depth, p->rows - j, depth - t * DEPTH, tile);
            transpose(tile);
        }
}

/* Strip i of a hidden layer: relu(Z + b), also as right operand of the next layer. NaN stays. */
static void finish_output(const layer_t *l, const part_t *p, int64_t i)
{
    const int64_t tiles = tiles_of(l->fan_out, DEPTH), count = l->fan_out - i;
    for (int64_t j = 0; j < p->rows; j += SIDE) {
        word *tile = (l + 1)->input + (j / SIDE * tiles + i / DEPTH) * WORDS;
        for (int64_t h = 0; h < STRIP; h += 2) {
            __m512 a[2];
            for (int64_t r = 0; r < 2; r++) {
                float *z = l->z + (i + h + r) * p->stride + j;
                a[r] = _mm512_setzero_ps();
                if (h + r < count)
                    a[r] = _mm512_max_ps(a[r], _mm512_load_ps(z) + _mm512_set1_ps(l->bias[i + h + r]));
                _mm512_store_ps(z, a[r]);
            }
            _mm512_store_si512(tile + h / 2 * SIDE, one_below_another(a[0], a[1]));
        }
    }
}

static void forward_part(const part_t *p)
{
    open_tiles();
    pack_samples(p);
    for (int k = 0; k < p->count; k++) {
        const layer_t *l = &p->layers[k];
        const int is_last = k == p->count - 1;
        wait_for_all(p->all);
        EACH_STRIP(i, p, k) {
            float *c = (is_last ? l->dz : l->z) + i * p->stride;
            strip_times(l->weight, 0, l->fan_in, i, l->fan_out, l->fan_in, l->input, p, c);
            if (!is_last)
                finish_output(l, p, i);
            else
                for (int64_t h = i; h < minimum(i + STRIP, l->fan_out); h++)
                    for (int64_t j = 0; j < p->rows; j++)
                        l->z[j * l->fan_out + h] = l->dz[h * p->stride + j] + l->bias[h];
        }
    }
    _tile_release();
}

/* Strip i of dZ, where A > 0 or A is NULL, else 0, as operand of dW and of dA of the layer before; and db or b. */
static void finish_delta(const layer_t *l, const part_t *p, int64_t i, const float *a, const update_t *how)
{
    const int64_t samples_deep = p->width / DEPTH, features_deep = tiles_of(l->fan_out, DEPTH), count = l->fan_out - i;
    float *bias = (how->updates ? l->bias : l->dbias) + i;
    const __m512 zero = _mm512_setzero_ps();
    __m512 sums[STRIP];
    for (int64_t h = 0; h < STRIP; h++)
        sums[h] = zero;
    for (int64_t j = 0; j < p->width; j += DEPTH)
        for (int64_t h = 0; h < STRIP; h += 2) {
            __m512 d[2][2];
            for (int64_t r = 0; r < 2; r++)
                for (int64_t s = 0; s < 2; s++) {
                    const int64_t column = j + s * SIDE, from = (i + h + r) * p->stride + column;
                    __mmask16 some = h + r < count ? lanes(p->rows - column) : 0;
                    if (a != NULL)
                        some = _mm512_mask_cmp_ps_mask(some, _mm512_maskz_load_ps(some, a + from), zero, _CMP_GT_OQ);
                    d[r][s] = _mm512_maskz_load_ps(some, l->dz + from);
                    sums[h + r] += d[r][s];
                }
            for (int64_t r = 0; r < 2; r++) {
                word *tile = l->dz_rows + ((i + h) / SIDE * samples_deep + j / DEPTH) * WORDS;
                _mm512_store_si512(tile + (h + r) % SIDE * SIDE, in_a_row(d[r][0], d[r][1]));
            }
            for (int64_t s = 0; s < 2; s++) {
                word *tile = l->dz_columns + ((j / SIDE + s) * features_deep + i / DEPTH) * WORDS;
                _mm512_store_si512(tile + h / 2 * SIDE, one_below_another(d[0][s], d[1][s]));
            }
        }
    for (int64_t h = 0; h < minimum(STRIP, count); h++)
        bias[h] = (how->bias_beta == 0 ? 0 : how->bias_beta * bias[h]) + how->alpha * _mm512_reduce_add_ps(sums[h]);
}

/* The input of a layer as right operand of dW, its samples deep: a thread's part of it. */
static void pack_input(const part_t *p, int k)
{
    const layer_t *l = &p->layers[k];
    const int64_t panels = tiles_of(l->fan_in, SIDE), tiles = p->width / DEPTH;
    for (int64_t t = 0; t < tiles; t++)
        for (int64_t j = panels * p->me / p->all * SIDE; j < panels * (p->me + 1) / p->all * SIDE; j += SIDE) {
            word *tile = l->input + (j / SIDE * tiles + t) * WORDS;
            if (k == 0)
                take_columns(p->x + t * DEPTH * l->fan_in + j, l->fan_in, p->rows - t * DEPTH, l->fan_in - j, tile);
            else {
                take_rows((l - 1)->z + j * p->stride + t * DEPTH, p->stride, l->fan_in - j, p->rows - t * DEPTH, tile);
                transpose(tile);
            }
        }
}

/* W <- beta W + alpha C of at most 32 rows and columns. */
static void add_to(float *weight, int64_t ldw, const float *c, int64_t rows, int64_t columns, const update_t *how)
{
    const __m512 alpha = _mm512_set1_ps(how->alpha), beta = _mm512_set1_ps(how->beta);
    for (int64_t i = 0; i < minimum(rows, STRIP); i++)
        for (int64_t j = 0; j < minimum(columns, 2 * SIDE); j += SIDE) {
            const __mmask16 some = lanes(columns - j);
            __m512 sum = alpha * _mm512_load_ps(c + i * 2 * SIDE + j);
            if (how->beta != 0) /* what is not kept may be anything, NaN too */
                sum += beta * _mm512_maskz_loadu_ps(some, weight + i * ldw + j);
            _mm512_mask_storeu_ps(weight + i * ldw + j, some, sum);
        }
}

/* Strip i of dW of a layer, and its step. */
static void weight_strip(const layer_t *l, const part_t *p, int64_t i, const update_t *how)
{
    __attribute__((aligned(64))) float c[STRIP * 2 * SIDE];
    const int64_t tiles = p->width / DEPTH, rows = minimum(STRIP, l->fan_out - i);
    float *weight = how->updates ? l->weight : l->dweight;
    for (int64_t j = 0; j < l->fan_in; j += 2 * SIDE) {
        multiply(two_at_most(rows), two_at_most(l->fan_in - j), l->dz_rows + i / SIDE * tiles * WORDS, tiles * WORDS,
                 l->input + j / SIDE * tiles * WORDS, tiles * WORDS, tiles, c, 2 * SIDE, 0);
        add_to(weight + i * l->fan_in + j, l->fan_in, c, rows, l->fan_in - j, how);
    }
    if (how->adam) {
        adam_step(how, l->weight + i * l->fan_in, rows * l->fan_in);
        adam_step(how, l->bias + i, rows);
    }
}

/* dW of all layers, and their step. A thread has made its own strips of all of them before it makes another's. */
static void weights_part(const part_t *p, const update_t *how)
{
    for (int k = 0; k < p->count; k++)
        for (int64_t i; (i = STRIP * take_of_part(&p->shares, p->count + k, p->me, 0)) >= 0;)
            weight_strip(&p->layers[k], p, i, how);
    for (int k = 0; k < p->count; k++)
        EACH_STRIP(i, p, p->count + k)
            weight_strip(&p->layers[k], p, i, how);
}

static void backward_part(const part_t *p, const float *dlogits, const update_t *how)
{
    open_tiles();
    const layer_t *last = &p->layers[p->count - 1];
    EACH_STRIP(i, p, p->count - 1) {
        for (int64_t h = i; h < minimum(i + STRIP, last->fan_out); h++)
            for (int64_t j = 0; j < p->rows; j++)
                last->dz[h * p->stride + j] = dlogits[j * last->fan_out + h];
        finish_delta(last, p, i, NULL, how);
    }
    for (int k = 0; k < p->count; k++)
        pack_input(p, k);
    for (int k = p->count - 1; k > 0; k--) {
        const layer_t *l = &p->layers[k], *before = l - 1;
        wait_for_all(p->all);
        EACH_STRIP(i, p, k - 1) {
            strip_times(l->weight, 1, l->fan_in, i, l->fan_in, l->fan_out, l->dz_columns, p, before->dz + i * p->stride);
            finish_delta(before, p, i, before->z, how);
        }
    }
    wait_for_all(p->all); /* all weights have served, and all biases are there */
    if (!how->adam || isfinite(sum_of_biases(p->layers, p->count, 0)))
        weights_part(p, how);
    _tile_release();
}

/* Whether the system lets this process use the tile units: Linux wants to be asked. */
int may_use_tiles(void)
{
    const long request = 0x1023, tiles = 18;
    return syscall(SYS_arch_prctl, request, tiles) == 0;
}

/* Deal out the strips of all layers once, or twice for two passes over them. */
static void deal_strips(const shares_t *shares, const chain_t *c, int passes)
{
    for (int k = 0; k < passes * c->count; k++)
        deal(shares, k, c->layers[k % c->count].fan_out, STRIP);
}

static part_t part_of(const chain_t *c, const float *x, int64_t rows, int64_t me, int64_t all, shares_t shares)
{
    const int64_t width = tiles_of(rows, DEPTH) * DEPTH;
    return (part_t){c->layers, c->count, x, rows, width, width + SIDE, me, all, shares};
}

/* As forward_pass and backward_pass. */
const float *forward_pass_bf16(const chain_t *c, const float *x, int64_t rows, int threads)
{
    part_left_t parts[c->count * threads];
    const shares_t shares = {parts, threads};
    deal_strips(&shares, c, 1);
    IN_TEAM(threads, {
        const part_t part = part_of(c, x, rows, me, all, shares);
        forward_part(&part);
    });
    return c->layers[c->count - 1].z;
}

double backward_pass_bf16(const chain_t *c, const float *x, const float *dlogits, int64_t rows, const update_t *how,
                          int threads)
{
    part_left_t parts[2 * c->count * threads];
    const shares_t shares = {parts, threads};
    deal_strips(&shares, c, 2);
    IN_TEAM(threads, {
        const part_t part = part_of(c, x, rows, me, all, shares);
        backward_part(&part, dlogits, how);
    });
    return sum_of_biases(c->layers, c->count, how->updates);
}
#endif
