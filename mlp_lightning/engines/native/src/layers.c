/* The linear layer of linear.py around the products of torch's own BLAS, with what comes before and after each product
   in one pass over memory that is still in the cache. All matrices are row by row. */
#include <math.h>

#include "native.h"

#include "blas.h"

#define PARALLEL 8192 /* entries from which on a second thread pays */
#define COLUMNS 64    /* summed side by side */

PART void add_bias(float *restrict z, const float *restrict bias, int64_t start, int64_t stop, int64_t width,
                     float minimum)
{
    for (int64_t i = start; i < stop; i++)
        for (int64_t j = 0; j < width; j++) {
            const float z_ij = z[i * width + j] + bias[j];
            z[i * width + j] = z_ij < minimum ? minimum : z_ij; /* NaN stays */
        }
}

/* Z (B, H) = X (B, D) W' + b with W (H, D), and nothing below `minimum`: 0 makes it relu(Z), minus infinity leaves it. */
void linear_forward(const void *sgemm, const float *x, const float *weight, const float *bias, float *z, int64_t rows,
                    int64_t fan_in, int64_t fan_out, float minimum, int threads)
{
    product(sgemm, x, 0, fan_in, weight, 1, fan_in, z, fan_out, rows, fan_out, fan_in, 1, 0);
    SHARE(rows, threads, rows * fan_out >= PARALLEL, add_bias(z, bias, start, stop, fan_out, minimum));
}

/* dX (B, D) = dZ (B, H) W. */
void linear_backward_input(const void *sgemm, const float *dz, const float *weight, float *dx, int64_t rows,
                           int64_t fan_in, int64_t fan_out)
{
    product(sgemm, dz, 0, fan_out, weight, 0, fan_in, dx, fan_in, rows, fan_in, fan_out, 1, 0);
}

/* b <- beta b + alpha times the sum of dZ's rows, for the columns from first to last: each is summed from the first row
   to the last, whatever the number of threads. */
void sum_rows(const float *restrict dz, float *restrict bias, int64_t first, int64_t last, int64_t rows, int64_t width,
              float alpha, float beta)
{
    for (; first < last; first += COLUMNS) {
        const int64_t count = last - first < COLUMNS ? last - first : COLUMNS;
        float sums[COLUMNS] = {0};
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < count; j++)
                sums[j] += dz[i * width + first + j];
        for (int64_t j = 0; j < count; j++) /* what is not kept may be anything, NaN too */
            bias[first + j] = (beta == 0 ? 0 : beta * bias[first + j]) + alpha * sums[j];
    }
}

/* W <- beta W + alpha dW and b <- bias_beta b + alpha db, with dW = dZ' X and db the sum of dZ's rows. */
void linear_backward(const void *sgemm, const float *dz, const float *x, float *weight, float *bias, int64_t rows,
                     int64_t fan_in, int64_t fan_out, float alpha, float beta, float bias_beta, int threads)
{
    product(sgemm, dz, 1, fan_out, x, 0, fan_in, weight, fan_in, fan_out, fan_in, rows, alpha, beta);
    SHARE(fan_out, threads, rows * fan_out >= PARALLEL,
          sum_rows(dz, bias, start, stop, rows, fan_out, alpha, bias_beta));
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
