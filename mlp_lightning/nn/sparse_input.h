/* The products of the first layer over what is not 0 of its input, as most pixels of a digit are: 0 times a weight need
   not be computed.

   X is taken by quads, four features side by side. Bits tell the samples in which a quad is not all 0: then Z is the sum
   over quads of four of X times four rows of W', and four rows of dW' are the sum over such samples, both of them some
   features of the layer at a time, in registers. So the weights are needed transposed, W' (D, H). Steps of plain SGD that
   follow each other keep them so.

   A thread makes the features that it has; its own parts of W' and of W become each other without waiting. */
#include <string.h>

#include "passes.h"
#include "transpose.h"

#define QUAD 4
#define GROUP 64       /* samples that a word has bits of, and whose Z or dZ stay in the first cache */
#define SEEN 8         /* one sample in so many tells how many quads are all 0 */

#ifdef __AVX512F__
#define LANES 16
#define VECTORS 4
#else
#define LANES 8
#define VECTORS 2
#endif
#define WIDE (LANES * VECTORS) /* features at a time */
#define UNIT 64                /* features are dealt out so to the threads; a row of W' has a multiple of it */

typedef float vec __attribute__((vector_size(4 * LANES), may_alias));
typedef vec vec_anywhere __attribute__((aligned(4)));

/* W', from one pass to the next. */
typedef struct {
    float *weight; /* (D, H up to a multiple of UNIT) */
    int stays;     /* whether W changes in these passes alone: then they may leave it in W' */
    enum { W, BOTH, TURNED } newest;
} turned_t;

/* Memory for minibatches of one size. */
typedef struct sparse {
    turned_t *own, *turned; /* the network's, and what is in use: within steps, an evaluation has the training's */
    uint64_t *bits;      /* of each group and quad: bit i is 1 where it is not all 0 in sample i of the group */
    int64_t enough_rows; /* for it to pay */
    int is_sparse;       /* whether the minibatch is: otherwise there are no bits of it */
} sparse_t;

/* A layer and a minibatch, as one of the threads knows them. */
typedef struct {
    const sparse_t *s;
    const layer_t *l;
    const float *x;
    int64_t rows, first, last; /* B, and the features that the thread has */
} sparse_part_t;

static inline int64_t stride_of(const layer_t *l)
{
    return (l->fan_out + UNIT - 1) / UNIT * UNIT;
}

/* Whether not all of a quad is 0. */
static inline uint64_t is_quad(const float *x)
{
    return (x[0] != 0) | (x[1] != 0) | (x[2] != 0) | (x[3] != 0);
}

/* Let bit i be 1 where a quad of a sample is not all 0. */
PART void set_bits(uint64_t *restrict bits, const float *restrict x, int64_t quads, int i)
{
    for (int64_t q = 0; q < quads; q++)
        bits[q] |= is_quad(x + q * QUAD) << i;
}

/* Whether less than half of a minibatch's quads are not all 0, by what every eighth of its samples says. */
static int is_sparse(const float *x, int64_t rows, int64_t width)
{
    int64_t quads = 0, all = 0;
    for (int64_t i = 0; i < rows; i += SEEN, all += width / QUAD)
        for (int64_t j = 0; j < width; j += QUAD)
            quads += is_quad(x + i * width + j);
    return 2 * quads < all;
}

/* The bits of a thread's share of the quads. */
static void find_quads(const sparse_t *s, const float *x, int64_t rows, int64_t width, int64_t me, int64_t all)
{
    const int64_t quads = width / QUAD, first = quads * me / all, last = quads * (me + 1) / all;
    for (int64_t i = 0; i < rows; i++) {
        uint64_t *bits = s->bits + i / GROUP * quads;
        if (i % GROUP == 0)
            memset(bits + first, 0, (last - first) * sizeof *bits);
        set_bits(bits + first, x + i * width + first * QUAD, last - first, i % GROUP);
    }
}

/* W' of a thread's features from W, or W from it. */
static void turn(const sparse_part_t *p, int back)
{
    const layer_t *l = p->l;
    float *weight = l->weight + p->first * l->fan_in, *turned = p->s->turned->weight + p->first;
    if (back)
        transpose_matrix(turned, stride_of(l), l->fan_in, p->last - p->first, weight, l->fan_in);
    else
        transpose_matrix(weight, l->fan_in, p->last - p->first, l->fan_in, turned, stride_of(l));
}

/* Runs `work` for each sample i whose bit is 1. */
#define EACH_SAMPLE(i, bits, work)                               \
    for (uint64_t left = (bits); left != 0; left &= left - 1) {  \
        const int i = __builtin_ctzll(left);                     \
        work;                                                    \
    }

/* Sums += X W' of a group of samples, of WIDE features from `w` on. */
PART void add_outputs(const uint64_t *bits, const float *x, int64_t width, const float *w, int64_t stride,
                      vec (*sums)[VECTORS])
{
    for (int64_t j = 0; j < width; j += QUAD, w += QUAD * stride) {
        vec of_quad[QUAD][VECTORS];
        for (int q = 0; q < QUAD; q++)
            for (int v = 0; v < VECTORS; v++)
                of_quad[q][v] = *(const vec_anywhere *)(w + q * stride + v * LANES);
        EACH_SAMPLE(i, bits[j / QUAD], {
            const float *x_ij = x + i * width + j;
            vec sum[VECTORS];
            memcpy(sum, sums[i], sizeof sum);
            for (int q = 0; q < QUAD; q++)
                for (int v = 0; v < VECTORS; v++)
                    sum[v] += x_ij[q] * of_quad[q][v];
            memcpy(sums[i], sum, sizeof sum);
        })
    }
}

/* Z + b of a thread's features, and nothing below `bound`. NaN stays. */
static void sparse_forward(const sparse_part_t *p, float bound)
{
    const layer_t *l = p->l;
    const int64_t width = l->fan_in, stride = stride_of(l);
    vec sums[GROUP][VECTORS];
    for (int64_t group = 0; group * GROUP < p->rows; group++)
        for (int64_t f = p->first; f < p->last; f += WIDE) {
            memset(sums, 0, sizeof sums);
            add_outputs(p->s->bits + group * width / QUAD, p->x + group * GROUP * width, width,
                        p->s->turned->weight + f, stride, sums);
            for (int64_t i = 0; i < least(GROUP, p->rows - group * GROUP); i++) {
                const float *sum = (const float *)sums[i];
                float *z = l->z + (group * GROUP + i) * l->fan_out + f;
                for (int64_t h = 0; h < least(WIDE, p->last - f); h++) {
                    const float z_ih = sum[h] + l->bias[f + h];
                    z[h] = z_ih < bound ? bound : z_ih;
                }
            }
        }
}

/* Some rows of share dW' of a group of samples: X' dZ, of WIDE features. */
PART void sum_gradient(const uint64_t *bits, const float *x, int64_t width, int64_t rows, const vec (*dz)[VECTORS],
                       float share, float (*to)[WIDE])
{
    for (int64_t j = 0; j < rows; j += QUAD) {
        vec sums[QUAD][VECTORS];
        for (int q = 0; q < QUAD; q++)
            for (int v = 0; v < VECTORS; v++)
                sums[q][v] = (vec){0};
        EACH_SAMPLE(i, bits[j / QUAD], {
            const float *x_ij = x + i * width + j;
            for (int q = 0; q < QUAD; q++)
                for (int v = 0; v < VECTORS; v++)
                    sums[q][v] += x_ij[q] * dz[i][v];
        })
        for (int q = 0; q < QUAD; q++)
            for (int v = 0; v < VECTORS; v++)
                *(vec *)(to[j + q] + v * LANES) = share * sums[q][v];
    }
}

/* W <- keep W + what is added, of some rows and columns, whose rows are `stride` and `next` apart. */
PART void add_to(float *w, int64_t stride, const float *added, int64_t next, int64_t rows, int64_t columns, float keep)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) /* what is not kept may be anything, NaN too */
            w[i * stride + j] = (keep == 0 ? 0 : keep * w[i * stride + j]) + added[i * next + j];
}

/* keep times what is there, and share dW of a thread's features: in W' where `weight` is NULL, else in it, W or dW. */
static void sparse_backward(const sparse_part_t *p, float *weight, float share, float keep)
{
    const layer_t *l = p->l;
    const int64_t width = l->fan_in, stride = stride_of(l);
    vec dz[GROUP][VECTORS];
    __attribute__((aligned(64))) float sums[SIDE][WIDE], turned[WIDE][SIDE];
    for (int64_t f = p->first; f < p->last; f += WIDE)
        for (int64_t group = 0; group * GROUP < p->rows; group++) {
            const int64_t features = least(WIDE, p->last - f);
            const uint64_t *bits = p->s->bits + group * width / QUAD;
            const float kept = group == 0 ? keep : 1;
            for (int64_t i = 0; i < least(GROUP, p->rows - group * GROUP); i++)
                memcpy(dz[i], l->dz + (group * GROUP + i) * l->fan_out + f, features * sizeof(float));
            for (int64_t j = 0; j < width; j += SIDE) {
                const int64_t rows = least(SIDE, width - j);
                uint64_t any = 0;
                for (int64_t q = j / QUAD; q < (j + rows) / QUAD; q++)
                    any |= bits[q];
                if (any == 0 && kept == 1)
                    continue;
                sum_gradient(bits + j / QUAD, p->x + group * GROUP * width + j, width, rows, dz, share, sums);
                if (weight == NULL)
                    add_to(p->s->turned->weight + j * stride + f, stride, sums[0], WIDE, rows, features, kept);
                else {
                    transpose_matrix(sums[0], WIDE, rows, features, turned[0], SIDE);
                    add_to(weight + f * width + j, width, turned[0], SIDE, features, rows, kept);
                }
            }
        }
}
