/* The products of the first layer over what is not 0 of its input, as most pixels of a digit are: 0 times a weight need
   not be computed.

   X is taken by quads, four features side by side. Bits tell the samples in which a quad is not all 0: then Z is the sum
   over quads of four of X times four rows of W', and four rows of dW' are the sum over such samples, both of them some
   features of the layer at a time, in registers. So the weights are needed transposed, in blocks of UNIT features: each of
   D rows, one after the other. Steps of plain SGD that follow each other keep them so.

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
#define UNIT 64                /* features of a block of W', which are dealt out so to the threads */
#define AHEAD 8                /* rows of W' from which one is fetched that is not yet needed */

typedef float vec __attribute__((vector_size(4 * LANES), may_alias));

/* W', from one pass to the next. */
typedef struct {
    float *weight; /* (H / UNIT, rounded up, D, UNIT) */
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
    int64_t rows, first, last; /* B, and the features that the thread has: a multiple of UNIT, but for the last one */
} sparse_part_t;

/* Where the first row of W' has a feature. */
static inline float *turned_of(const sparse_part_t *p, int64_t feature)
{
    return p->s->turned->weight + feature / UNIT * p->l->fan_in * UNIT + feature % UNIT;
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
    const int64_t width = p->l->fan_in;
    for (int64_t f = p->first; f < p->last; f += UNIT) {
        const int64_t features = least(UNIT, p->last - f);
        float *weight = p->l->weight + f * width, *turned = turned_of(p, f);
        if (back)
            transpose_matrix(turned, UNIT, width, features, weight, width);
        else
            transpose_matrix(weight, width, features, width, turned, UNIT);
    }
}

/* Runs `work` for each sample i whose bit is 1. */
#define EACH_SAMPLE(i, bits, work)                               \
    for (uint64_t left = (bits); left != 0; left &= left - 1) {  \
        const int i = __builtin_ctzll(left);                     \
        work;                                                    \
    }

/* Fetch QUAD rows of W' that will be needed. Without it, what is multiplied waits for every quad's. */
static inline void fetch_ahead(const float *w)
{
    for (int q = 0; q < QUAD; q++)
        for (int v = 0; v < VECTORS; v++)
            __builtin_prefetch(w + (AHEAD + q) * UNIT + v * LANES, 1);
}

/* Sums += X W' of a group of samples, of WIDE features from `w` on. */
PART void add_outputs(const uint64_t *bits, const float *x, int64_t width, const float *w, vec (*sums)[VECTORS])
{
    for (int64_t j = 0; j < width; j += QUAD, w += QUAD * UNIT) {
        vec of_quad[QUAD][VECTORS];
        for (int q = 0; q < QUAD; q++)
            for (int v = 0; v < VECTORS; v++)
                of_quad[q][v] = *(const vec *)(w + q * UNIT + v * LANES);
        fetch_ahead(w);
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
    const int64_t width = l->fan_in;
    vec sums[GROUP][VECTORS];
    for (int64_t group = 0; group * GROUP < p->rows; group++)
        for (int64_t f = p->first; f < p->last; f += WIDE) {
            memset(sums, 0, sizeof sums);
            add_outputs(p->s->bits + group * width / QUAD, p->x + group * GROUP * width, width, turned_of(p, f), sums);
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

/* Some rows of W' or of memory like it: W' <- keep W' + X' dZ of a group of samples, of WIDE features. */
PART void add_gradient(const uint64_t *bits, const float *x, int64_t width, int64_t rows, const vec (*dz)[VECTORS],
                       float keep, float *w)
{
    for (int64_t j = 0; j < rows; j += QUAD, w += QUAD * UNIT) {
        if (bits[j / QUAD] == 0 && keep == 1)
            continue;
        vec sums[QUAD][VECTORS];
        for (int q = 0; q < QUAD; q++)
            for (int v = 0; v < VECTORS; v++)
                sums[q][v] = (vec){0};
        fetch_ahead(w);
        EACH_SAMPLE(i, bits[j / QUAD], {
            const float *x_ij = x + i * width + j;
            for (int q = 0; q < QUAD; q++)
                for (int v = 0; v < VECTORS; v++)
                    sums[q][v] += x_ij[q] * dz[i][v];
        })
        for (int q = 0; q < QUAD; q++)
            for (int v = 0; v < VECTORS; v++) {
                vec *to = (vec *)(w + q * UNIT + v * LANES);
                if (keep == 0) /* what is there may be anything, NaN too */
                    *to = sums[q][v];
                else
                    *to = keep * *to + sums[q][v];
            }
    }
}

/* keep W or keep dW, and the transpose of what is added. */
PART void add_transposed(const float (*added)[UNIT], int64_t rows, int64_t features, float keep, float *weight,
                         int64_t width)
{
    if (keep == 0) {
        transpose_matrix(added[0], UNIT, rows, features, weight, width);
        return;
    }
    __attribute__((aligned(64))) float turned[WIDE][SIDE];
    transpose_matrix(added[0], UNIT, rows, features, turned[0], SIDE);
    for (int64_t h = 0; h < features; h++)
        for (int64_t j = 0; j < rows; j++)
            weight[h * width + j] = keep * weight[h * width + j] + turned[h][j];
}

/* keep times what is there, and share dW of a thread's features: in W' where `weight` is NULL, else in it, W or dW. */
static void sparse_backward(const sparse_part_t *p, float *weight, float share, float keep)
{
    const layer_t *l = p->l;
    const int64_t width = l->fan_in;
    vec dz[GROUP][VECTORS] = {0};
    __attribute__((aligned(64))) float sums[SIDE][UNIT];
    for (int64_t f = p->first; f < p->last; f += WIDE)
        for (int64_t group = 0; group * GROUP < p->rows; group++) {
            const int64_t features = least(WIDE, p->last - f);
            const uint64_t *bits = p->s->bits + group * width / QUAD;
            const float *x = p->x + group * GROUP * width, kept = group == 0 ? keep : 1;
            for (int64_t i = 0; i < least(GROUP, p->rows - group * GROUP); i++)
                for (int64_t h = 0; h < features; h++)
                    ((float *)dz[i])[h] = share * l->dz[(group * GROUP + i) * l->fan_out + f + h];
            if (weight == NULL)
                add_gradient(bits, x, width, width, dz, kept, turned_of(p, f));
            else
                for (int64_t j = 0; j < width; j += SIDE) {
                    const int64_t rows = least(SIDE, width - j);
                    add_gradient(bits + j / QUAD, x + j, width, rows, dz, 0, sums[0]);
                    add_transposed(sums, rows, features, kept, weight + f * width + j, width);
                }
        }
}
