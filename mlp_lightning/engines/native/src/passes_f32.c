/* The passes of a ReLU network in float32, around products of BLAS, which does not divide them. All matrices are row by
   row. Of outputs and deltas a thread has some samples where there are enough for all threads, who then wait for each
   other less, and else the features that belong to its rows of the weights. Of a layer whose input is mostly 0 the features
   are divided, both its outputs and the steps of its weights. */
#include "blas.h"
#include "shares.h"
#include "sparse_products.h"

#define ENOUGH_SAMPLES 64 /* for each thread */
#define ROWS_AT_ONCE 64   /* of a gradient, which Adam then finds in the cache */
#define LINE 16           /* floats of a line of the cache, which threads do not write both */

/* A pass, as one of its threads knows it. */
typedef struct {
    const void *gemm;
    const layer_t *layers;
    int count;
    sparse_t *sparse; /* of each layer */
    const float *x;
    int64_t rows, me, all;
    shares_t shares; /* of each layer's features */
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

static const float *input_of(const part_t *p, int k)
{
    return k > 0 ? p->layers[k - 1].z : p->x;
}

/* A layer, for passes over what is not 0 of its input, and the features that the thread has. */
static sparse_part_t sparse_layer(const part_t *p, int k)
{
    const layer_t *l = p->layers + k;
    return (sparse_part_t){p->sparse + k, l, input_of(p, k), p->rows, first_of(l->fan_out, UNIT, p->me, p->all),
                           first_of(l->fan_out, UNIT, p->me + 1, p->all)};
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

/* Bring the weights of a layer, whose whole input is there, to where the pass reads them, and find what is not 0 of the
   input; whether there is little. All threads come to the same answer. */
static int prepare_layer(const part_t *p, int k)
{
    sparse_t *s = p->sparse + k;
    const sparse_part_t own = sparse_layer(p, k);
    const int sparse = is_sparse(&own), moves = s->transposed->newest == (sparse ? W : TRANSPOSED);
    if (p->me == 0)
        s->is_sparse = sparse;
    if (sparse)
        find_quads(&own, p->me, p->all);
    if (moves)
        move_weights(&own, !sparse);
    if (moves || sparse)
        wait_for_all(p->all);
    return sparse;
}

/* The next features of a layer that the thread makes; whether there are any. */
static int take_features(const part_t *p, int k, sparse_part_t *some)
{
    const int64_t unit = take(&p->shares, k, p->me);
    some->first = unit * UNIT;
    some->last = minimum(some->first + UNIT, some->l->fan_out);
    return unit >= 0;
}

/* Z + b of a thread's part of a layer, and nothing below `bound`, of all of its input. */
static void dense_outputs(const part_t *p, int k, float bound)
{
    const layer_t l = p->layers[k];
    const block_t b = block_of(p, l.fan_out);
    const int64_t first = b.row * l.fan_out + b.column;
    product(p->gemm, input_of(p, k) + b.row * l.fan_in, 0, l.fan_in, l.weight + b.column * l.fan_in, 1, l.fan_in,
            l.z + first, l.fan_out, b.rows, b.columns, l.fan_in, 1, 0);
    finish_output(l.z + first, l.bias + b.column, b, l.fan_out, bound);
}

static void forward_part(const part_t *p)
{
    int is_whole = 1; /* whether all of the input is there */
    for (int k = 0; k < p->count; k++) {
        const float bound = k < p->count - 1 ? 0 : -INFINITY;
        if (!is_whole && (!has_samples(p) || may_be_sparse(p->sparse + k, p->rows))) {
            wait_for_all(p->all);
            is_whole = 1;
        }
        if (!prepare_layer(p, k)) {
            dense_outputs(p, k, bound);
            is_whole = 0;
            continue;
        }
        for (sparse_part_t some = sparse_layer(p, k); take_features(p, k, &some);)
            sparse_forward(&some, bound);
        if (k < p->count - 1)
            wait_for_all(p->all);
    }
}

/* dZ of a thread's part of the layer before, of all of that layer's outputs. */
static void dense_deltas(const part_t *p, int k)
{
    const layer_t l = p->layers[k], before = p->layers[k - 1];
    const block_t b = block_of(p, l.fan_in);
    const int64_t first = b.row * l.fan_in + b.column;
    product(p->gemm, l.dz + b.row * l.fan_out, 0, l.fan_out, l.weight + b.column, 0, l.fan_in, before.dz + first,
            l.fan_in, b.rows, b.columns, l.fan_out, 1, 0);
    finish_delta(before.dz + first, before.z + first, before.dz + first, b, l.fan_in);
}

/* dZ of all layers. A layer's weights have served once the layer before has its dA. */
static void delta_part(const part_t *p, const float *dlogits)
{
    const layer_t l = p->layers[p->count - 1];
    const block_t b = block_of(p, l.fan_out);
    const int64_t first = b.row * l.fan_out + b.column;
    finish_delta(dlogits + first, NULL, l.dz + first, b, l.fan_out);
    int by_samples = has_samples(p); /* whether a thread has all that it needs of some */
    for (int k = p->count - 1; k > 0; k--) {
        const int sparse = p->sparse[k].is_sparse;
        if (!by_samples || sparse)
            wait_for_all(p->all);
        by_samples = has_samples(p) && !sparse;
        if (!sparse) {
            dense_deltas(p, k);
            continue;
        }
        const sparse_part_t layer = sparse_layer(p, k);
        const int64_t width = layer.l->fan_in;
        sparse_deltas(&layer, p->layers[k - 1].dz, first_of(width, LINE, p->me, p->all),
                      first_of(width, LINE, p->me + 1, p->all));
    }
    wait_for_all(p->all);
}

/* dW of the features of a layer that the thread comes to, over what is not 0 of its input, and its step. */
static void sparse_weight_part(const part_t *p, int k, const update_t *how)
{
    sparse_part_t some = sparse_layer(p, k);
    const layer_t *l = some.l;
    float *weight = !how->updates ? l->dweight : some.s->transposed->stays ? NULL : l->weight;
    while (take_features(p, k, &some)) {
        sparse_backward(&some, weight, how->alpha, how->beta);
        if (how->adam)
            adam_step(how, l->weight + some.first * l->fan_in, (some.last - some.first) * l->fan_in);
    }
}

/* dW of a thread's rows of a layer, and their step. */
static void weight_part(const part_t *p, int k, const update_t *how)
{
    const layer_t l = p->layers[k];
    const int64_t first = first_of(l.fan_out, LINE, p->me, p->all), last = first_of(l.fan_out, LINE, p->me + 1, p->all);
    const int64_t rows = how->updates ? last - first : ROWS_AT_ONCE;
    float *weight = how->updates ? l.weight : l.dweight;
    for (int64_t i = first; i < last; i += rows) {
        const int64_t count = minimum(rows, last - i);
        product(p->gemm, l.dz + i, 1, l.fan_out, input_of(p, k), 0, l.fan_in, weight + i * l.fan_in, l.fan_in, count,
                l.fan_in, p->rows, how->alpha, how->beta);
        if (how->adam)
            adam_step(how, l.weight + i * l.fan_in, count * l.fan_in);
    }
}

static void backward_part(const part_t *p, const float *dlogits, const update_t *how)
{
    delta_part(p, dlogits);
    for (int k = 0; k < p->count; k++) {
        const layer_t l = p->layers[k];
        sum_rows(l.dz, how->updates ? l.bias : l.dbias, first_of(l.fan_out, LINE, p->me, p->all),
                 first_of(l.fan_out, LINE, p->me + 1, p->all), p->rows, l.fan_out, how->alpha, how->bias_beta);
    }
    if (how->adam) {
        wait_for_all(p->all);
        if (!isfinite(sum_of_biases(p->layers, p->count, 0)))
            return;
    }
    for (int k = 0; k < p->count; k++)
        if (!p->sparse[k].is_sparse)
            weight_part(p, k, how);
    for (int k = 0; how->adam && k < p->count; k++) {
        const layer_t l = p->layers[k];
        const int64_t first = first_of(l.fan_out, LINE, p->me, p->all);
        adam_step(how, l.bias + first, first_of(l.fan_out, LINE, p->me + 1, p->all) - first);
    }
    for (int k = p->count - 1; k >= 0; k--) /* last, for what is divided to even out all that came before */
        if (p->sparse[k].is_sparse)
            sparse_weight_part(p, k, how);
}

static void deal_features(const chain_t *c, const shares_t *shares)
{
    for (int k = 0; k < c->count; k++)
        deal(shares, k, c->layers[k].fan_out, UNIT);
}

/* Z of all layers from X (B, D), with relu between them; the last one's is the logits. */
const float *forward_pass(const chain_t *c, const float *x, int64_t rows, int threads)
{
    part_left_t parts[c->count * threads];
    const shares_t shares = {parts, threads};
    deal_features(c, &shares);
    for (sparse_t *s = c->sparse; s < c->sparse + c->count; s++)
        if (!s->transposed->stays)
            s->transposed->newest = W;
    IN_TEAM(threads, forward_part(&(part_t){c->product, c->layers, c->count, c->sparse, x, rows, me, all, shares}));
    for (sparse_t *s = c->sparse; s < c->sparse + c->count; s++)
        if (s->transposed->newest == (s->is_sparse ? W : TRANSPOSED))
            s->transposed->newest = BOTH;
    return c->layers[c->count - 1].z;
}

/* After the forward pass, from dlogits (B, K): the gradient of all layers, or a step along it. Returns the sum over all
   biases, or over their gradients, which is not finite where a delta was not. */
double backward_pass(const chain_t *c, const float *x, const float *dlogits, int64_t rows, const update_t *how,
                     int threads)
{
    part_left_t parts[c->count * threads];
    const shares_t shares = {parts, threads};
    deal_features(c, &shares);
    IN_TEAM(threads,
            backward_part(&(part_t){c->product, c->layers, c->count, c->sparse, x, rows, me, all, shares}, dlogits, how));
    for (sparse_t *s = c->sparse; s < c->sparse + c->count; s++)
        if (how->updates || how->adam)
            s->transposed->newest = how->updates && s->is_sparse && s->transposed->stays ? TRANSPOSED : W;
    return sum_of_biases(c->layers, c->count, how->updates);
}

void begin_steps(const chain_t *c, const chain_t *other)
{
    for (int k = 0; c->sparse != NULL && k < c->count; k++) {
        c->sparse[k].transposed->newest = W;
        c->sparse[k].transposed->stays = 1;
        if (other != NULL && other->sparse != NULL)
            other->sparse[k].transposed = c->sparse[k].transposed;
    }
}

static void turn_back(const part_t *p)
{
    for (int k = 0; k < p->count; k++) {
        const sparse_part_t own = sparse_layer(p, k);
        if (own.s->transposed->newest == TRANSPOSED)
            move_weights(&own, 1);
    }
}

void end_steps(const chain_t *c, const chain_t *other, int threads)
{
    if (c->sparse == NULL)
        return;
    IN_TEAM(threads, turn_back(&(part_t){c->product, c->layers, c->count, c->sparse, NULL, 0, me, all, {0}}));
    for (int k = 0; k < c->count; k++) {
        c->sparse[k].transposed->stays = 0;
        if (other != NULL && other->sparse != NULL)
            other->sparse[k].transposed = other->sparse[k].own;
    }
}
