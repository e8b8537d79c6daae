/* The passes of layers.c in mixed precision, for processors that multiply bfloat16 in hardware: operands are rounded to
   bfloat16, products are summed up in float, and all that is not a product is float. */
#ifdef __AMX_BF16__
#include <math.h>
#include <string.h>

#include "../native.h"

#define PARALLEL 8192 /* entries from which on a second thread pays */
#define COLUMNS 64    /* summed side by side */

typedef uint16_t bf16; /* the upper half of a float */

/* MKL's, of matrices column by column: C <- alpha A B + beta C. */
typedef void gemm_bf16_t(const char *transa, const char *transb, const int64_t *m, const int64_t *n, const int64_t *k,
                         const float *alpha, const bf16 *a, const int64_t *lda, const bf16 *b, const int64_t *ldb,
                         const float *beta, float *c, const int64_t *ldc);

/* As `product` of layers.c. */
static void product(gemm_bf16_t *gemm, const bf16 *a, int a_transposed, const bf16 *b, int b_transposed, float *c,
                    int64_t m, int64_t n, int64_t k, float alpha, float beta)
{
    const int64_t lda = a_transposed ? m : k, ldb = b_transposed ? k : n;
    gemm(b_transposed ? "T" : "N", a_transposed ? "T" : "N", &n, &m, &k, &alpha, b, &ldb, a, &lda, &beta, c, &n);
}

/* To the nearest, and to the even one of two; NaN stays. */
static inline bf16 rounded(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, nan = bits >> 16 | 0x40;
    return (bf16)((bits & 0x7fffffff) > 0x7f800000 ? nan : nearest);
}

PART void round_range(const float *restrict from, bf16 *restrict to, int64_t start, int64_t stop)
{
    for (int64_t i = start; i < stop; i++)
        to[i] = rounded(from[i]);
}

static void round_all(const float *from, bf16 *to, int64_t numel, int threads)
{
    SHARE(numel, threads, numel >= PARALLEL, round_range(from, to, start, stop));
}

/* One layer of a network and the memory of its minibatch. */
typedef struct {
    float *weight, *bias;    /* W (H, D), b (H) */
    float *dweight, *dbias;  /* of the same shapes */
    float *z;                /* Z (B, H); after the forward pass the place of dA and dZ, but for the last layer */
    bf16 *weight16;          /* W rounded */
    bf16 *a16, *dz16;        /* relu(Z) and dZ (B, H), rounded */
    int64_t fan_in, fan_out; /* D, H */
} layer_t;

PART void add_bias(float *restrict z, const float *restrict bias, int64_t start, int64_t stop, int64_t width)
{
    for (int64_t i = start; i < stop; i++)
        for (int64_t j = 0; j < width; j++)
            z[i * width + j] += bias[j];
}

PART void add_bias_relu(const float *restrict z, const float *restrict bias, bf16 *restrict a, int64_t start,
                          int64_t stop, int64_t width)
{
    for (int64_t i = start; i < stop; i++)
        for (int64_t j = 0; j < width; j++) {
            const float z_ij = z[i * width + j] + bias[j];
            a[i * width + j] = rounded(z_ij < 0 ? 0 : z_ij); /* NaN stays */
        }
}

/* The logits, the last layer's z, from X (B, D), whose rounded form takes the place x16. */
const float *forward_pass_bf16(const void *product_, const void *chain, int count, const float *x, bf16 *x16,
                               int64_t rows, int threads)
{
    gemm_bf16_t *gemm = (gemm_bf16_t *)product_;
    const layer_t *layers = chain;
    round_all(x, x16, rows * layers[0].fan_in, threads);
    for (int k = 0; k < count; k++) {
        const layer_t l = layers[k];
        round_all(l.weight, l.weight16, l.fan_in * l.fan_out, threads);
        product(gemm, k > 0 ? layers[k - 1].a16 : x16, 0, l.weight16, 1, l.z, rows, l.fan_out, l.fan_in, 1, 0);
        const int pays = rows * l.fan_out >= PARALLEL;
        if (k < count - 1)
            SHARE(rows, threads, pays, add_bias_relu(l.z, l.bias, l.a16, start, stop, l.fan_out));
        else
            SHARE(rows, threads, pays, add_bias(l.z, l.bias, start, stop, l.fan_out));
    }
    return layers[count - 1].z;
}

/* As `finish_delta` of layers.c; dZ is rounded as well. */
PART void finish_delta(float *restrict dz, const bf16 *restrict a, bf16 *restrict dz16, float *restrict bias,
                         int64_t start, int64_t stop, int64_t rows, int64_t width, float share, float keep)
{
    for (int64_t first = start * COLUMNS; first < stop * COLUMNS; first += COLUMNS) {
        const int64_t count = width - first < COLUMNS ? width - first : COLUMNS;
        float sums[COLUMNS] = {0};
        for (int64_t i = 0; i < rows; i++) {
            float *restrict d = dz + i * width + first;
            if (a)
                for (int64_t j = 0; j < count; j++) /* bfloat16 above 0: no sign, and not all bits 0 */
                    d[j] = (int16_t)a[i * width + first + j] > 0 ? d[j] : 0;
            for (int64_t j = 0; j < count; j++) {
                dz16[i * width + first + j] = rounded(d[j]);
                sums[j] += d[j];
            }
        }
        for (int64_t j = 0; j < count; j++) /* what is not kept may be anything, NaN too */
            bias[first + j] = (keep == 0 ? 0 : keep * bias[first + j]) + share * sums[j];
    }
}

/* As `backward_pass` of layers.c; dlogits (B, K) stay as they are. */
double backward_pass_bf16(const void *product_, const void *chain, int count, const float *x, const bf16 *x16,
                          float *dlogits, int64_t rows, int descends, float share, float keep, float keep_bias,
                          int threads)
{
    (void)x;
    gemm_bf16_t *gemm = (gemm_bf16_t *)product_;
    const layer_t *layers = chain;
    double sum = 0;
    for (int k = count - 1; k >= 0; k--) {
        const layer_t l = layers[k];
        float *weight = descends ? l.weight : l.dweight, *bias = descends ? l.bias : l.dbias;
        float *dz = k < count - 1 ? l.z : dlogits;
        const bf16 *a16 = k < count - 1 ? l.a16 : 0;
        SHARE((l.fan_out + COLUMNS - 1) / COLUMNS, threads, rows * l.fan_out >= PARALLEL,
              finish_delta(dz, a16, l.dz16, bias, start, stop, rows, l.fan_out, share, keep_bias));
        if (k > 0)
            product(gemm, l.dz16, 0, l.weight16, 0, layers[k - 1].z, rows, l.fan_in, l.fan_out, 1, 0);
        product(gemm, l.dz16, 1, k > 0 ? layers[k - 1].a16 : x16, 0, weight, l.fan_out, l.fan_in, rows, share, keep);
        for (int64_t j = 0; j < l.fan_out; j++)
            sum += bias[j];
    }
    return sum;
}
#endif
