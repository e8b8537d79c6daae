/* Where the input of a layer is not 0, and the weights as the products over that alone need them (sparse_products.h). Most
   pixels of a digit are 0, and most of what ReLU leaves: 0 times a weight need not be computed.

   The input X is taken by quads: four features side by side of pixels, which are 0 together, and else one. Bits tell the
   samples in which a quad is not all 0. The weights are transposed, W' (D, H), in blocks of UNIT features: each of D rows,
   one after the other. Steps of plain SGD that follow each other keep them so. A thread's own parts of W' and of W become
   each other without waiting. */
#include <string.h>

#include "passes.h"
#include "transpose.h"

#define QUAD 4         /* of pixels */
#define GROUP 64       /* samples that a word has bits of, and whose Z or dZ stay in the first cache */
#define SEEN 8         /* so many samples, or few more, tell how many quads are all 0 */
#define MOST_QUADS 0.5 /* that are not all 0, for it to pay */
#define MOST_ONES 0.25 /* the same of quads of one feature */

#ifdef __AVX512F__
#define LANES 16
#define VECTORS 4
#else
#define LANES 8
#define VECTORS 2
#endif
#define WIDE (LANES * VECTORS) /* features at a time */
#define WORDS 8                /* of bits on a line of the cache, which threads do not write both */
#define UNIT 64                /* features of a block of W', which are dealt out so to the threads */
#define AHEAD 8                /* rows of W' from which one is fetched that is not yet needed */

typedef float vec __attribute__((vector_size(4 * LANES), may_alias));
typedef vec vec_anywhere __attribute__((aligned(4)));

/* W', from one pass to the next. */
typedef struct {
    float *weight; /* (H / UNIT, rounded up, D, UNIT) */
    int stays;     /* whether W changes in these passes alone: then they may leave it in W' */
    enum { W, BOTH, TRANSPOSED } newest;
} transposed_t;

/* A layer's memory for minibatches of one size. */
typedef struct sparse {
    transposed_t *own, *transposed; /* the network's, and what is in use: within steps, an evaluation has the training's */
    uint64_t *bits;      /* of each group and quad: bit i is 1 where it is not all 0 in sample i of the group */
    int64_t quad;        /* features of a quad: QUAD, 1, or 0 where all of the input is always multiplied */
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
static inline float *transposed_of(const sparse_part_t *p, int64_t feature)
{
    return p->s->transposed->weight + feature / UNIT * p->l->fan_in * UNIT + feature % UNIT;
}

/* Whether not all of a quad is 0. */
INLINE uint64_t is_quad(const int quad, const float *x)
{
    uint64_t found = 0;
    for (int q = 0; q < quad; q++)
        found |= x[q] != 0;
    return found;
}

/* Let bit i be 1 where a quad of a sample is not all 0. */
INLINE void set_bits(const int quad, uint64_t *restrict bits, const float *restrict x, int64_t quads, int i)
{
    for (int64_t q = 0; q < quads; q++)
        bits[q] |= is_quad(quad, x + q * quad) << i;
}

INLINE int64_t count_quads(const int quad, const float *x, int64_t width)
{
    int64_t count = 0;
    for (int64_t j = 0; j < width; j += quad)
        count += is_quad(quad, x + j);
    return count;
}

/* For each size of a quad a loop of its own. */
PART void set_quads(int64_t quad, uint64_t *restrict bits, const float *restrict x, int64_t quads, int i)
{
    if (quad == QUAD)
        set_bits(QUAD, bits, x, quads, i);
    else
        set_bits(1, bits, x, quads, i);
}

/* Whether it depends on the minibatch, of so many rows, if zeros are multiplied. */
static inline int may_be_sparse(const sparse_t *s, int64_t rows)
{
    return s->quad > 0 && rows >= s->enough_rows;
}

/* Whether few of a minibatch's quads are not all 0, by what some of its samples say. */
static int is_sparse(const sparse_part_t *p)
{
    const int64_t width = p->l->fan_in, quad = p->s->quad;
    int64_t count = 0, all = 0;
    if (!may_be_sparse(p->s, p->rows))
        return 0;
    for (int64_t i = 0; i < p->rows; i += p->rows < SEEN ? 1 : p->rows / SEEN, all += width / quad)
        count += quad == QUAD ? count_quads(QUAD, p->x + i * width, width) : count_quads(1, p->x + i * width, width);
    return count < all * (quad == QUAD ? MOST_QUADS : MOST_ONES);
}

/* The bits of a thread's part of the quads. */
static void find_quads(const sparse_part_t *p, int64_t me, int64_t all)
{
    const int64_t width = p->l->fan_in, quad = p->s->quad, quads = width / quad;
    const int64_t first = first_of(quads, WORDS, me, all), last = first_of(quads, WORDS, me + 1, all);
    for (int64_t i = 0; i < p->rows; i++) {
        uint64_t *bits = p->s->bits + i / GROUP * quads;
        if (i % GROUP == 0)
            memset(bits + first, 0, (last - first) * sizeof *bits);
        set_quads(quad, bits + first, p->x + i * width + first * quad, last - first, i % GROUP);
    }
}

/* W' of a thread's features from W, or W from it. */
static void move_weights(const sparse_part_t *p, int back)
{
    const int64_t width = p->l->fan_in;
    for (int64_t f = p->first; f < p->last; f += UNIT) {
        const int64_t features = minimum(UNIT, p->last - f);
        float *weight = p->l->weight + f * width, *transposed = transposed_of(p, f);
        if (back) {
            transpose_matrix(transposed, UNIT, width, features, weight, width);
            continue;
        }
        if (features < UNIT)
            memset(transposed, 0, width * UNIT * sizeof(float));
        transpose_matrix(weight, width, features, width, transposed, UNIT);
    }
}
