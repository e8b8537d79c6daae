/* The passes of a ReLU network in float32, around products of BLAS, which does not divide them. All matrices are row by
   row. Of outputs and deltas a thread has some samples where there are enough for all threads, who then wait for each
   other less, and else the features that belong to its rows of the weights. The features of a first layer whose input has
   zeros are shared out, both its outputs and the steps of its weights. */
#include "blas.h"
#include "shares.h"
#include "sparse_input.h"

#define ENOUGH_SAMPLES 64 /* for each thread */
#define ROWS_AT_ONCE 64   /* of a gradient, which Adam then finds in the cache */
#define LINE 16           /* floats of a line of the cache, which threads do not share */

/* A pass, as one of its threads knows it. */
typedef struct {
    const void *gemm;
    const layer_t *layers;
    int count;
    sparse_t *sparse;
    const float *x;
    int64_t rows, me, all;
    shares_t shares; /* of the first layer's features */
} part_t;

/* The samples and the features that a thread makes of a matrix (B, n). */
typedef struct {
    int64_t row, rows, column, columns;
} block_t;

static int has_samples(const part_t *p)
{
    return p->rows >= ENOUGH_SAMPLES * p->all;
}

static block_t block_of(const part_t *p, int64_t n)
{
    if (has_samples(p)) {
        const int64_t row = p->rows * p->me / p->all;
        return (block_t){row, p->rows * (p->me + 1) / p->all - row, 0, n};
    }
    const int64_t column = first_of(n, LINE, p->me, p->all);
    return (block_t){0, p->rows, column, first_of(n, LINE, p->me + 1, p->all) - column};
}

static int is_sparse_part(const part_t *p)
{
    return p->sparse != NULL && p->sparse->is_sparse;
}

/* The first layer, for passes over what is not 0 of X, and the features that the thread has. */
static sparse_part_t first_layer(const part_t *p)
{
    const layer_t *l = p->layers;
    return (sparse_part_t){p->sparse, l, p->x, p->rows, first_of(l->fan_out, UNIT, p->me, p->all),
                           first_of(l->fan_out, UNIT, p->me + 1, p->all)};
}

static const float *input_of(const part_t *p, int k)
{
    return k > 0 ? p->layers[k - 1].z : p->x;
}

/* Z + b of some rows and columns, and nothing below `bound`. NaN stays. */
PART void finish_output(float *z, const float *bias, block_t b, int64_t width, float bound)
{
    for (int64_t i = 0; i < b.rows; i++)
#pragma GCC ivdep
        for (int64_t j = 0; j < b.columns; j++) {
            const float z_ij = z[i * width + j] + bias[j];
            z[i * width + j] = z_ij < bound ? bound : z_ij;
        }
}

/* dZ = dA where A > 0, else 0, of some rows and columns; dZ = dA where A is NULL. */
PART void finish_delta(const float *da, const float *a, float *dz, block_t b, int64_t width)
{
    for (int64_t i = 0; i < b.rows; i++)
#pragma GCC ivdep
        for (int64_t j = 0; j < b.columns; j++) {
            const int64_t ij = i * width + j;
            dz[ij] = a == NULL || a[ij] > 0 ? da[ij] : 0;
        }
}

static void turn_part(const part_t *p, int back)
{
    const sparse_part_t first = first_layer(p);
    turn(&first, back);
}

/* Bring the weights of the first layer to where the pass reads them, and find what is not 0 of X. */
static void prepare_part(const part_t *p)
{
    const sparse_t *s = p->sparse;
    const int moves = s->turned->newest == (s->is_sparse ? W : TURNED);
    if (s->is_sparse)
        find_quads(s, p->x, p->rows, p->layers->fan_in, p->me, p->all);
    if (moves)
        turn_part(p, !s->is_sparse);
    if (moves || s->is_sparse)
        wait_for_all(p->all);
}

/* The next features of the first layer that the thread makes; whether there are any. */
static int take_features(const part_t *p, sparse_part_t *some)
{
    const int64_t unit = take(&p->shares, 0, p->me);
    some->first = unit * UNIT;
    some->last = least(some->first + UNIT, some->l->fan_out);
    return unit >= 0;
}

static void forward_part(const part_t *p)
{
    if (p->sparse != NULL)
        prepare_part(p);
    for (int k = 0; k < p->count; k++) {
        const layer_t l = p->layers[k];
        const float bound = k < p->count - 1 ? 0 : -INFINITY;
        if (k == 0 && is_sparse_part(p)) {
            for (sparse_part_t some = first_layer(p); take_features(p, &some);)
                sparse_forward(&some, bound);
            wait_for_all(p->all);
            continue;
        }
        const block_t b = block_of(p, l.fan_out);
        const int64_t first = b.row * l.fan_out + b.column;
        product(p->gemm, input_of(p, k) + b.row * l.fan_in, 0, l.fan_in, l.weight + b.column * l.fan_in, 1, l.fan_in,
                l.z + first, l.fan_out, b.rows, b.columns, l.fan_in, 1, 0);
        finish_output(l.z + first, l.bias + b.column, b, l.fan_out, bound);
        if (!has_samples(p) && k < p->count - 1)
            wait_for_all(p->all);
    }
}

/* dZ of all layers. A layer's weights have served once the layer before has its dA. */
static void delta_part(const part_t *p, const float *dlogits)
{
    const layer_t l = p->layers[p->count - 1];
    const block_t b = block_of(p, l.fan_out);
    const int64_t first = b.row * l.fan_out + b.column;
    finish_delta(dlogits + first, NULL, l.dz + first, b, l.fan_out);
    for (int k = p->count - 1; k > 0; k--) {
        const layer_t l = p->layers[k], before = p->layers[k - 1];
        const block_t b = block_of(p, l.fan_in);
        const int64_t first = b.row * l.fan_in + b.column;
        if (!has_samples(p))
            wait_for_all(p->all);
        product(p->gemm, l.dz + b.row * l.fan_out, 0, l.fan_out, l.weight + b.column, 0, l.fan_in, before.dz + first,
                l.fan_in, b.rows, b.columns, l.fan_out, 1, 0);
        finish_delta(before.dz + first, before.z + first, before.dz + first, b, l.fan_in);
    }
    wait_for_all(p->all);
}

/* dW of the first layer over what is not 0 of X, and its step. */
static void sparse_weight_part(const part_t *p, const descent_t *how)
{
    sparse_part_t some = first_layer(p);
    const layer_t *l = some.l;
    float *weight = !how->descends ? l->dweight : some.s->turned->stays ? NULL : l->weight;
    while (take_features(p, &some)) {
        sparse_backward(&some, weight, how->share, how->keep);
        if (how->adam)
            adam_step(how, l->weight + some.first * l->fan_in, (some.last - some.first) * l->fan_in);
    }
}

/* dW of a thread's rows of a layer, and their step. */
static void weight_part(const part_t *p, int k, const descent_t *how)
{
    const layer_t l = p->layers[k];
    const int64_t first = first_of(l.fan_out, LINE, p->me, p->all), last = first_of(l.fan_out, LINE, p->me + 1, p->all);
    const int64_t rows = how->descends ? last - first : ROWS_AT_ONCE;
    float *weight = how->descends ? l.weight : l.dweight;
    for (int64_t i = first; i < last; i += rows) {
        const int64_t count = least(rows, last - i);
        product(p->gemm, l.dz + i, 1, l.fan_out, input_of(p, k), 0, l.fan_in, weight + i * l.fan_in, l.fan_in, count,
                l.fan_in, p->rows, how->share, how->keep);
        if (how->adam)
            adam_step(how, l.weight + i * l.fan_in, count * l.fan_in);
    }
}

static void backward_part(const part_t *p, const float *dlogits, const descent_t *how)
{
    const int is_sparse = is_sparse_part(p);
    delta_part(p, dlogits);
    for (int k = 0; k < p->count; k++) {
        const layer_t l = p->layers[k];
        sum_rows(l.dz, how->descends ? l.bias : l.dbias, first_of(l.fan_out, LINE, p->me, p->all),
                 first_of(l.fan_out, LINE, p->me + 1, p->all), p->rows, l.fan_out, how->share, how->keep_bias);
    }
    if (how->adam) {
        wait_for_all(p->all);
        if (!isfinite(sum_of_biases(p->layers, p->count, 0)))
            return;
    }
    for (int k = is_sparse; k < p->count; k++)
        weight_part(p, k, how);
    for (int k = 0; how->adam && k < p->count; k++) {
        const layer_t l = p->layers[k];
        const int64_t first = first_of(l.fan_out, LINE, p->me, p->all);
        adam_step(how, l.bias + first, first_of(l.fan_out, LINE, p->me + 1, p->all) - first);
    }
    if (is_sparse) /* last, for what is shared out to even out all that came before */
        sparse_weight_part(p, how);
}

/* Z of all layers from X (B, D), with relu between them; the last one's is the logits. */
const float *forward_pass(const chain_t *c, const float *x, int64_t rows, int threads)
{
    sparse_t *s = c->sparse;
    if (s != NULL) {
        s->is_sparse = rows >= s->enough_rows && is_sparse(x, rows, c->layers->fan_in);
        if (!s->turned->stays)
            s->turned->newest = W;
    }
    part_left_t parts[threads];
    const shares_t shares = {parts, threads};
    deal(&shares, 0, c->layers->fan_out, UNIT);
    IN_TEAM(threads, forward_part(&(part_t){c->product, c->layers, c->count, s, x, rows, me, all, shares}));
    if (s != NULL && s->turned->newest == (s->is_sparse ? W : TURNED))
        s->turned->newest = BOTH;
    return c->layers[c->count - 1].z;
}

/* After the forward pass, from dlogits (B, K): the gradient of all layers, or a step along it. Returns the sum over all
   biases, or over their gradients, which is not finite where a delta was not. */
double backward_pass(const chain_t *c, const float *x, const float *dlogits, int64_t rows, const descent_t *how,
                     int threads)
{
    sparse_t *s = c->sparse;
    part_left_t parts[threads];
    const shares_t shares = {parts, threads};
    deal(&shares, 0, c->layers->fan_out, UNIT);
    IN_TEAM(threads, backward_part(&(part_t){c->product, c->layers, c->count, s, x, rows, me, all, shares}, dlogits, how));
    if (s != NULL && (how->descends || how->adam))
        s->turned->newest = how->descends && s->is_sparse && s->turned->stays ? TURNED : W;
    return sum_of_biases(c->layers, c->count, how->descends);
}

void begin_steps(const chain_t *c, const chain_t *other)
{
    if (c->sparse == NULL)
        return;
    c->sparse->turned->newest = W;
    c->sparse->turned->stays = 1;
    if (other != NULL && other->sparse != NULL)
        other->sparse->turned = c->sparse->turned;
}

void end_steps(const chain_t *c, const chain_t *other, int threads)
{
    if (c->sparse == NULL)
        return;
    if (c->sparse->turned->newest == TURNED)
        IN_TEAM(threads, turn_part(&(part_t){c->product, c->layers, c->count, c->sparse, NULL, 0, me, all, {0}}, 1));
    c->sparse->turned->stays = 0;
    if (other != NULL && other->sparse != NULL)
        other->sparse->turned = other->sparse->own;
}
