/* The products of a layer over what is not 0 of its input X, as its bits tell (sparse_input.h). Z is the sum over quads of
   four of X times four rows of W', and four rows of dW' are the sum over such samples, both of them some features of the
   layer at a time, in registers; and dX is needed where X is not 0 alone, which is what ReLU's derivative leaves of it.

   A thread makes the features that it has. */
#include "sparse_input.h"

typedef vec wide_t[VECTORS];
typedef vec unit_t[UNIT / LANES];

/* Runs `work` for each sample i whose bit is 1. */
#define EACH_SAMPLE(i, bits, work)                               \
    for (uint64_t left = (bits); left != 0; left &= left - 1) {  \
        const int i = __builtin_ctzll(left);                     \
        work;                                                    \
    }

/* Fetch as many rows of W' as a quad's that will be needed. Without it, what is multiplied waits for every quad's. */
INLINE void fetch_ahead(const int quad, const float *w)
{
    for (int q = 0; q < quad; q++)
        for (int v = 0; v < VECTORS; v++)
            __builtin_prefetch(w + (AHEAD + q) * UNIT + v * LANES, 1);
}

/* Sums += X W' of a group of samples, of WIDE features from `w` on. */
INLINE void add_outputs(const int quad, const uint64_t *bits, const float *x, int64_t width, const float *w,
                        wide_t *sums)
{
    for (int64_t j = 0; j < width; j += quad, w += quad * UNIT) {
        wide_t of_quad[QUAD];
        for (int q = 0; q < quad; q++)
            for (int v = 0; v < VECTORS; v++)
                of_quad[q][v] = *(const vec *)(w + q * UNIT + v * LANES);
        fetch_ahead(quad, w);
        EACH_SAMPLE(i, bits[j / quad], {
            const float *x_ij = x + i * width + j;
            wide_t sum;
            memcpy(sum, sums[i], sizeof sum);
            for (int q = 0; q < quad; q++)
                for (int v = 0; v < VECTORS; v++)
                    sum[v] += x_ij[q] * of_quad[q][v];
            memcpy(sums[i], sum, sizeof sum);
        })
    }
}

PART void sum_outputs(int64_t quad, const uint64_t *bits, const float *x, int64_t width, const float *w,
                      wide_t *sums)
{
    memset(sums, 0, GROUP * sizeof *sums);
    if (quad == QUAD)
        add_outputs(QUAD, bits, x, width, w, sums);
    else
        add_outputs(1, bits, x, width, w, sums);
}

/* The bits and the samples of a group. */
static inline const uint64_t *bits_of(const sparse_part_t *p, int64_t group)
{
    return p->s->bits + group * (p->l->fan_in / p->s->quad);
}

static inline const float *samples_of(const sparse_part_t *p, int64_t group)
{
    return p->x + group * GROUP * p->l->fan_in;
}

static inline int64_t rows_of(const sparse_part_t *p, int64_t group)
{
    return minimum(GROUP, p->rows - group * GROUP);
}

/* Z + b of a thread's features, and nothing below `bound`. NaN stays. */
static void sparse_forward(const sparse_part_t *p, float bound)
{
    const layer_t *l = p->l;
    wide_t sums[GROUP];
    for (int64_t group = 0; group * GROUP < p->rows; group++)
        for (int64_t f = p->first; f < p->last; f += WIDE) {
            sum_outputs(p->s->quad, bits_of(p, group), samples_of(p, group), l->fan_in, transposed_of(p, f), sums);
            for (int64_t i = 0; i < rows_of(p, group); i++) {
                const float *sum = (const float *)sums[i];
                float *z = l->z + (group * GROUP + i) * l->fan_out + f;
                for (int64_t h = 0; h < minimum(WIDE, p->last - f); h++) {
                    const float z_ih = sum[h] + l->bias[f + h];
                    z[h] = z_ih < bound ? bound : z_ih;
                }
            }
        }
}

/* The sum of all lanes. */
INLINE float sum_of(const vec *v)
{
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)*v);
#else
    float sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += (*v)[i];
    return sum;
#endif
}

/* Sums += the products of a block of features, of dZ and of W'. */
INLINE void add_unit(vec *sums, const float *dz, const float *w)
{
    for (int v = 0; v < UNIT / LANES; v++)
        sums[v] += *(const vec_anywhere *)(dz + v * LANES) * *(const vec *)(w + v * LANES);
}

/* Some columns of dX = dZ W of a group, where X is not 0; its quads are of one feature. `rest` is what dZ has beyond whole
   blocks of features. */
PART void put_deltas(const sparse_part_t *p, int64_t group, int64_t first, int64_t last, const unit_t *rest, float *dx)
{
    const int64_t width = p->l->fan_in, features = p->l->fan_out, blocks = features / UNIT, next = width * UNIT;
    const uint64_t *bits = bits_of(p, group);
    const float *dz = p->l->dz + group * GROUP * features, *w = transposed_of(p, 0) + first * UNIT;
    dx += group * GROUP * width;
    for (int64_t j = first; j < last; j++, w += UNIT)
        EACH_SAMPLE(i, bits[j], {
            const float *dz_i = dz + i * features;
            const float *w_j = w;
            unit_t sums = {0};
            for (int64_t block = 0; block < blocks; block++, dz_i += UNIT, w_j += next)
                add_unit(sums, dz_i, w_j);
            if (rest != NULL)
                add_unit(sums, (const float *)rest[i], w_j);
            for (int v = 1; v < UNIT / LANES; v++)
                sums[0] += sums[v];
            dx[i * width + j] = sum_of(sums);
        })
}

/* dX where X is not 0, which is 0 elsewhere, of some features of the input. */
static void sparse_deltas(const sparse_part_t *p, float *dx, int64_t first, int64_t last)
{
    const int64_t width = p->l->fan_in, features = p->l->fan_out, beyond = features % UNIT;
    unit_t rest[GROUP] = {0};
    for (int64_t i = 0; i < p->rows; i++)
        memset(dx + i * width + first, 0, (last - first) * sizeof(float));
    for (int64_t group = 0; group * GROUP < p->rows; group++) {
        for (int64_t i = 0; i < rows_of(p, group); i++)
            memcpy(rest[i], p->l->dz + (group * GROUP + i + 1) * features - beyond, beyond * sizeof(float));
        put_deltas(p, group, first, last, beyond > 0 ? rest : NULL, dx);
    }
}

/* Some rows of W' or of memory like it: W' <- beta W' + X' dZ of a group of samples, of WIDE features. */
INLINE void add_gradient(const int quad, const uint64_t *bits, const float *x, int64_t width, int64_t rows,
                         const wide_t *dz, float beta, float *w)
{
    for (int64_t j = 0; j < rows; j += quad, w += quad * UNIT) {
        if (bits[j / quad] == 0 && beta == 1)
            continue;
        wide_t sums[QUAD];
        for (int q = 0; q < quad; q++)
            for (int v = 0; v < VECTORS; v++)
                sums[q][v] = (vec){0};
        fetch_ahead(quad, w);
        EACH_SAMPLE(i, bits[j / quad], {
            const float *x_ij = x + i * width + j;
            for (int q = 0; q < quad; q++)
                for (int v = 0; v < VECTORS; v++)
                    sums[q][v] += x_ij[q] * dz[i][v];
        })
        for (int q = 0; q < quad; q++)
            for (int v = 0; v < VECTORS; v++) {
                vec *to = (vec *)(w + q * UNIT + v * LANES);
                if (beta == 0) /* what is there may be anything, NaN too */
                    *to = sums[q][v];
                else
                    *to = beta * *to + sums[q][v];
            }
    }
}

PART void add_to_rows(int64_t quad, const uint64_t *bits, const float *x, int64_t width, int64_t rows,
                      const wide_t *dz, float beta, float *w)
{
    if (quad == QUAD)
        add_gradient(QUAD, bits, x, width, rows, dz, beta, w);
    else
        add_gradient(1, bits, x, width, rows, dz, beta, w);
}

/* beta W or beta dW, and the transpose of what is added. */
PART void add_transposed(const float (*added)[UNIT], int64_t rows, int64_t features, float beta, float *weight,
                         int64_t width)
{
    if (beta == 0) {
        transpose_matrix(added[0], UNIT, rows, features, weight, width);
        return;
    }
    __attribute__((aligned(64))) float transposed[WIDE][SIDE];
    transpose_matrix(added[0], UNIT, rows, features, transposed[0], SIDE);
    for (int64_t h = 0; h < features; h++)
        for (int64_t j = 0; j < rows; j++)
            weight[h * width + j] = beta * weight[h * width + j] + transposed[h][j];
}

/* alpha dZ of a group, of WIDE features from f on; those that there are not are 0. */
PART void copy_dz(const sparse_part_t *p, int64_t group, int64_t f, float alpha, wide_t *dz)
{
    const int64_t width = p->l->fan_out, features = minimum(WIDE, width - f);
    for (int64_t i = 0; i < rows_of(p, group); i++) {
        const float *from = p->l->dz + (group * GROUP + i) * width + f;
        if (features < WIDE)
            memset(dz[i], 0, sizeof dz[i]);
        for (int64_t h = 0; h < features; h++)
            ((float *)dz[i])[h] = alpha * from[h];
    }
}

/* beta times what is there, and alpha dW of a thread's features: in W' where `weight` is NULL, else in it, W or dW. */
static void sparse_backward(const sparse_part_t *p, float *weight, float alpha, float beta)
{
    const int64_t width = p->l->fan_in, quad = p->s->quad;
    wide_t dz[GROUP];
    __attribute__((aligned(64))) float sums[SIDE][UNIT];
    for (int64_t f = p->first; f < p->last; f += WIDE)
        for (int64_t group = 0; group * GROUP < p->rows; group++) {
            const uint64_t *bits = bits_of(p, group);
            const float *x = samples_of(p, group), kept = group == 0 ? beta : 1;
            copy_dz(p, group, f, alpha, dz);
            if (weight == NULL)
                add_to_rows(quad, bits, x, width, width, dz, kept, transposed_of(p, f));
            else
                for (int64_t j = 0; j < width; j += SIDE) {
                    const int64_t rows = minimum(SIDE, width - j);
                    add_to_rows(quad, bits + j / quad, x + j, width, rows, dz, 0, sums[0]);
                    add_transposed(sums, rows, minimum(WIDE, p->last - f), kept, weight + f * width + j, width);
                }
        }
}
