/* The passes of a ReLU network, around products of BLAS whose operands are of the type `operand`; what is not an operand
   is float, and all matrices are row by row. Each precision's source says, before it includes this, what an operand is,
   how a float becomes one (`operand_of`), and which of them are above 0 (`is_above_0`).

   All of a pass is one parallel region, in which BLAS does not divide its products. A thread has some rows of every
   weight matrix, in all passes the same, which so stay in its cache: it makes their outputs and their step. Of outputs
   and deltas it has some samples instead where there are enough for all threads, who then wait for each other less. */
#include <math.h>

#include "../native.h"
#include "blas.h"

#define ENOUGH_SAMPLES 64 /* for each thread */
#define ROWS_AT_ONCE 64   /* of a gradient, which Adam then finds in the cache */
#define LINE 16           /* floats of a line of the cache, which threads do not share */

/* One layer of a network and the memory of its minibatch. */
typedef struct {
    float *weight, *bias;    /* W (H, D), b (H) */
    float *dweight, *dbias;  /* of the same shapes */
    float *z, *dz;           /* Z and dZ (B, H) */
    operand *w, *a, *d;      /* W, relu(Z) and dZ as operands: the very memory of weight, z and dz where those are such */
    int64_t fan_in, fan_out; /* D, H */
} layer_t;

/* A pass, as one of its threads knows it. */
typedef struct {
    const void *gemm;
    const layer_t *layers;
    int count;
    const float *x;
    const operand *x_operand;
    int64_t rows, me, all;
} part_t;

/* The samples and the features that a thread makes of a matrix (B, n). */
typedef struct {
    int64_t row, rows, column, columns;
} block_t;

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The first of n entries that thread `me` has. */
static int64_t first_of(int64_t n, int64_t me, int64_t all)
{
    return least(n, (n + LINE - 1) / LINE * me / all * LINE);
}

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
    const int64_t column = first_of(n, p->me, p->all);
    return (block_t){0, p->rows, column, first_of(n, p->me + 1, p->all) - column};
}

static void wait_for_all(const part_t *p)
{
    if (p->all > 1) {
#pragma omp barrier
    }
}

static const operand *input_of(const part_t *p, int k)
{
    return k > 0 ? p->layers[k - 1].a : p->x_operand;
}

PART void to_operands(const float *restrict from, operand *restrict to, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = operand_of(from[i]);
}

/* Z + b of some rows and columns, and relu of it as operand. NaN stays. */
PART void finish_output(float *z, operand *a, const float *bias, block_t b, int64_t width, int is_last)
{
    for (int64_t i = 0; i < b.rows; i++)
#pragma GCC ivdep
        for (int64_t j = 0; j < b.columns; j++) {
            const float z_ij = z[i * width + j] + bias[j];
            if (is_last)
                z[i * width + j] = z_ij;
            else
                a[i * width + j] = operand_of(z_ij < 0 ? 0 : z_ij);
        }
}

/* dZ = dA where A > 0, else 0, of some rows and columns, and as operand. */
PART void finish_delta(const float *da, const operand *a, float *dz, operand *d, block_t b, int64_t width)
{
    for (int64_t i = 0; i < b.rows; i++)
#pragma GCC ivdep
        for (int64_t j = 0; j < b.columns; j++) {
            const int64_t ij = i * width + j;
            const float dz_ij = a == 0 || is_above_0(a[ij]) ? da[ij] : 0;
            dz[ij] = dz_ij;
            d[ij] = operand_of(dz_ij);
        }
}

/* Operands of what comes from outside: a thread's samples of X and rows of each W, where they are no operands yet. */
static void take_operands(const part_t *p)
{
    if ((const void *)p->x_operand == p->x)
        return;
    const int64_t row = p->rows * p->me / p->all, depth = p->layers[0].fan_in;
    to_operands(p->x + row * depth, (operand *)p->x_operand + row * depth,
                (p->rows * (p->me + 1) / p->all - row) * depth);
    for (int k = 0; k < p->count; k++) {
        const layer_t l = p->layers[k];
        const int64_t first = first_of(l.fan_out, p->me, p->all) * l.fan_in;
        to_operands(l.weight + first, l.w + first, first_of(l.fan_out, p->me + 1, p->all) * l.fan_in - first);
    }
    wait_for_all(p);
}

static void forward_part(const part_t *p)
{
    take_operands(p);
    for (int k = 0; k < p->count; k++) {
        const layer_t l = p->layers[k];
        const block_t b = block_of(p, l.fan_out);
        const int64_t first = b.row * l.fan_out + b.column;
        product(p->gemm, input_of(p, k) + b.row * l.fan_in, 0, l.fan_in, l.w + b.column * l.fan_in, 1, l.fan_in,
                l.z + first, l.fan_out, b.rows, b.columns, l.fan_in, 1, 0);
        finish_output(l.z + first, l.a + first, l.bias + b.column, b, l.fan_out, k == p->count - 1);
        if (!has_samples(p) && k < p->count - 1)
            wait_for_all(p);
    }
}

/* dZ of all layers. A layer's weights have served once the layer before has its dA. */
static void delta_part(const part_t *p, const float *dlogits)
{
    const layer_t l = p->layers[p->count - 1];
    const block_t b = block_of(p, l.fan_out);
    const int64_t first = b.row * l.fan_out + b.column;
    finish_delta(dlogits + first, 0, l.dz + first, l.d + first, b, l.fan_out);
    for (int k = p->count - 1; k > 0; k--) {
        const layer_t l = p->layers[k], before = p->layers[k - 1];
        const block_t b = block_of(p, l.fan_in);
        const int64_t first = b.row * l.fan_in + b.column;
        if (!has_samples(p))
            wait_for_all(p);
        product(p->gemm, l.d + b.row * l.fan_out, 0, l.fan_out, l.w + b.column, 0, l.fan_in, before.dz + first,
                l.fan_in, b.rows, b.columns, l.fan_out, 1, 0);
        finish_delta(before.dz + first, before.a + first, before.dz + first, before.d + first, b, l.fan_in);
    }
    wait_for_all(p);
}

/* The sum over all biases, or over their gradients. */
static double sum_of_biases(const layer_t *layers, int count, int descends)
{
    double sum = 0;
    for (int k = 0; k < count; k++)
        for (int64_t j = 0; j < layers[k].fan_out; j++)
            sum += (descends ? layers[k].bias : layers[k].dbias)[j];
    return sum;
}

/* Adam's step of some entries, whose gradient is there. */
static void adam_step(const descent_t *how, const float *theta, int64_t count)
{
    const int64_t start = theta - how->adam->theta;
    adam_range(how->adam, start, start + count, how->rate, how->eps);
}

/* dW of a thread's rows of a layer, and their step. */
static void weight_part(const part_t *p, int k, const descent_t *how)
{
    const layer_t l = p->layers[k];
    const int64_t first = first_of(l.fan_out, p->me, p->all), last = first_of(l.fan_out, p->me + 1, p->all);
    const int64_t rows = how->descends ? last - first : ROWS_AT_ONCE;
    float *weight = how->descends ? l.weight : l.dweight;
    for (int64_t i = first; i < last; i += rows) {
        const int64_t count = least(rows, last - i);
        product(p->gemm, l.d + i, 1, l.fan_out, input_of(p, k), 0, l.fan_in, weight + i * l.fan_in, l.fan_in, count,
                l.fan_in, p->rows, how->share, how->keep);
        if (how->adam)
            adam_step(how, l.weight + i * l.fan_in, count * l.fan_in);
    }
    if (how->adam)
        adam_step(how, l.bias + first, last - first);
}

static void backward_part(const part_t *p, const float *dlogits, const descent_t *how)
{
    delta_part(p, dlogits);
    for (int k = 0; k < p->count; k++) {
        const layer_t l = p->layers[k];
        sum_rows(l.dz, how->descends ? l.bias : l.dbias, first_of(l.fan_out, p->me, p->all),
                 first_of(l.fan_out, p->me + 1, p->all), p->rows, l.fan_out, how->share, how->keep_bias);
    }
    if (how->adam) {
        wait_for_all(p);
        if (!isfinite(sum_of_biases(p->layers, p->count, 0)))
            return;
    }
    for (int k = 0; k < p->count; k++)
        weight_part(p, k, how);
}

/* What all threads know of a pass, and one of them of itself. */
#define PART_OF_PASS {gemm, chain, count, x, x16 ? (const operand *)x16 : (const operand *)x, rows, me, all}

/* Z of all layers from X (B, D), with relu between them; the last one's is the logits. */
const float *FORWARD_PASS(const void *gemm, const void *chain, int count, const float *x, uint16_t *x16, int64_t rows,
                          int threads)
{
    IN_TEAM(threads, forward_part(&(part_t)PART_OF_PASS));
    return ((const layer_t *)chain)[count - 1].z;
}

/* After the forward pass, from dlogits (B, K): the gradient of all layers, or a step along it. Returns the sum over all
   biases, or over their gradients, which is not finite where a delta was not. */
double BACKWARD_PASS(const void *gemm, const void *chain, int count, const float *x, const uint16_t *x16,
                     const float *dlogits, int64_t rows, const descent_t *how, int threads)
{
    IN_TEAM(threads, backward_part(&(part_t)PART_OF_PASS, dlogits, how));
    return sum_of_biases(chain, count, how->descends);
}
