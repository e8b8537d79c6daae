/* The linear layer of linear.py around the products of torch's own BLAS, with what comes before and after each product
   in one pass over memory that is still in the cache. All matrices are row by row. */
#include <math.h>

#include "../native.h"

#define PARALLEL 8192 /* entries from which on a second thread pays */
#define COLUMNS 64    /* summed side by side */

/* BLAS's sgemm, of matrices column by column. Its integers have 32 bits or 64, as it was built: a small int64_t, lowest
   byte first, serves as either. */
typedef void sgemm_t(const char *transa, const char *transb, const int64_t *m, const int64_t *n, const int64_t *k,
                     const float *alpha, const float *a, const int64_t *lda, const float *b, const int64_t *ldb,
                     const float *beta, float *c, const int64_t *ldc);

/* C (m, n) <- alpha A B + beta C. A is given as (m, k), or transposed as (k, m); B as (k, n), or transposed as (n, k).
   Read column by column, each matrix is its own transpose: C' = B' A'. */
static void product(sgemm_t *sgemm, const float *a, int a_transposed, const float *b, int b_transposed, float *c,
                    int64_t m, int64_t n, int64_t k, float alpha, float beta)
{
    const int64_t lda = a_transposed ? m : k, ldb = b_transposed ? k : n;
    sgemm(b_transposed ? "T" : "N", a_transposed ? "T" : "N", &n, &m, &k, &alpha, b, &ldb, a, &lda, &beta, c, &n);
}

PART void add_bias(float *restrict z, const float *restrict bias, int64_t start, int64_t stop, int64_t width,
                     float least)
{
    for (int64_t i = start; i < stop; i++)
        for (int64_t j = 0; j < width; j++) {
            const float z_ij = z[i * width + j] + bias[j];
            z[i * width + j] = z_ij < least ? least : z_ij; /* NaN stays */
        }
}

/* Z (B, H) = X (B, D) W' + b with W (H, D), and nothing below `least`: 0 makes it relu(Z), minus infinity leaves it. */
void linear_forward(sgemm_t *sgemm, const float *x, const float *weight, const float *bias, float *z, int64_t rows,
                    int64_t fan_in, int64_t fan_out, float least, int threads)
{
    product(sgemm, x, 0, weight, 1, z, rows, fan_out, fan_in, 1, 0);
    SHARE(rows, threads, rows * fan_out >= PARALLEL, add_bias(z, bias, start, stop, fan_out, least));
}

/* dX (B, D) = dZ (B, H) W. */
void linear_backward_input(sgemm_t *sgemm, const float *dz, const float *weight, float *dx, int64_t rows,
                           int64_t fan_in, int64_t fan_out)
{
    product(sgemm, dz, 0, weight, 0, dx, rows, fan_in, fan_out, 1, 0);
}

/* b <- keep b + share times the sum of dZ's rows, for blocks of columns: each column is summed from the first row to
   the last, whatever the number of threads. Where A is given, dZ holds dA and becomes dA where A > 0, else 0. */
PART void finish_delta(float *restrict dz, const float *restrict a, float *restrict bias, int64_t start, int64_t stop,
                       int64_t rows, int64_t width, float share, float keep)
{
    for (int64_t first = start * COLUMNS; first < stop * COLUMNS; first += COLUMNS) {
        const int64_t count = width - first < COLUMNS ? width - first : COLUMNS;
        float sums[COLUMNS] = {0};
        for (int64_t i = 0; i < rows; i++) {
            float *restrict d = dz + i * width + first;
            if (a)
                for (int64_t j = 0; j < count; j++)
                    d[j] = a[i * width + first + j] > 0 ? d[j] : 0;
            for (int64_t j = 0; j < count; j++)
                sums[j] += d[j];
        }
        for (int64_t j = 0; j < count; j++) /* what is not kept may be anything, NaN too */
            bias[first + j] = (keep == 0 ? 0 : keep * bias[first + j]) + share * sums[j];
    }
}

static void finish_deltas(float *dz, const float *a, float *bias, int64_t rows, int64_t width, float share, float keep,
                          int threads)
{
    SHARE((width + COLUMNS - 1) / COLUMNS, threads, rows * width >= PARALLEL,
          finish_delta(dz, a, bias, start, stop, rows, width, share, keep));
}

/* W <- keep W + share dW and b <- keep_bias b + share db, with dW = dZ' X and db the sum of dZ's rows. */
void linear_backward(sgemm_t *sgemm, float *dz, const float *x, float *weight, float *bias, int64_t rows,
                     int64_t fan_in, int64_t fan_out, float share, float keep, float keep_bias, int threads)
{
    product(sgemm, dz, 1, x, 0, weight, fan_out, fan_in, rows, share, keep);
    finish_deltas(dz, 0, bias, rows, fan_out, share, keep_bias, threads);
}

PART void mask(float *restrict da, const float *restrict a, int64_t start, int64_t stop)
{
    for (int64_t i = start; i < stop; i++)
        da[i] = a[i] > 0 ? da[i] : 0;
}

/* dZ = dA where A > 0, else 0, in dA. */
void relu_backward(float *da, const float *a, int64_t numel, int threads)
{
    SHARE(numel, threads, numel >= PARALLEL, mask(da, a, start, stop));
}

/* One layer of a network and the memory of its minibatch. */
typedef struct {
    float *weight, *bias;     /* W (H, D), b (H) */
    float *dweight, *dbias;   /* of the same shapes */
    float *z, *dz;            /* (B, H); relu(Z), of every layer but the last, takes the place of Z, and dZ that of dA */
    int64_t fan_in, fan_out;  /* D, H */
} layer_t;

/* Z of all layers from X (B, D), with relu between them; the last one's is the logits. */
const float *forward_pass(const void *sgemm, const void *chain, int count, const float *x, uint16_t *x16, int64_t rows,
                          int threads)
{
    (void)x16;
    const layer_t *layers = chain;
    for (int k = 0; k < count; k++) {
        const layer_t l = layers[k];
        linear_forward((sgemm_t *)sgemm, k > 0 ? layers[k - 1].z : x, l.weight, l.bias, l.z, rows, l.fan_in, l.fan_out,
                       k < count - 1 ? 0 : -INFINITY, threads);
    }
    return layers[count - 1].z;
}

/* After forward_pass, from dlogits (B, K): the gradient of all layers, or where `descends` one step along it, with the
   numbers of linear_backward; dlogits stay as they are. A layer's weights have served once the layer before has its dA.
   Returns the sum over all biases, or over their gradients, which is not finite where a delta was not. */
double backward_pass(const void *sgemm, const void *chain, int count, const float *x, const uint16_t *x16,
                     float *dlogits, int64_t rows, int descends, float share, float keep, float keep_bias, int threads)
{
    (void)x16;
    const layer_t *layers = chain;
    double sum = 0;
    for (int k = count - 1; k >= 0; k--) {
        const layer_t l = layers[k];
        const int is_last = k == count - 1;
        float *dz = is_last ? dlogits : l.dz, *bias = descends ? l.bias : l.dbias;
        finish_deltas(dz, is_last ? 0 : l.z, bias, rows, l.fan_out, share, keep_bias, threads);
        if (k > 0)
            linear_backward_input((sgemm_t *)sgemm, dz, l.weight, layers[k - 1].dz, rows, l.fan_in, l.fan_out);
        product((sgemm_t *)sgemm, dz, 1, k > 0 ? layers[k - 1].z : x, 0, descends ? l.weight : l.dweight, l.fan_out,
                l.fan_in, rows, share, keep);
        for (int64_t j = 0; j < l.fan_out; j++)
            sum += bias[j];
    }
    return sum;
}
