/* Training steps one after another, without Python between them. */
#include <math.h>
#include <stddef.h>

#include "../native.h"

/* Make up to n steps, each on a minibatch of as many rows, and return how many were made. A step adds -lr times the
   gradient to the weights within the products, or is Adam's where `adam` is not NULL; numbers are (share, keep, keep_bias)
   or (rate, eps, -) of each step. One whose loss or gradient is not finite is left to the caller, unmade, but that SGD
   finds a gradient out when it has been added; then that step is the last one made, and *biases, the sum over the biases
   after it, is not finite. */
int64_t make_steps(forward_t *forward, backward_t *backward, const void *product, const void *chain, int count,
                   uint16_t *x16, int64_t n, const float *const *x, const int64_t *const *y, int64_t rows,
                   int64_t classes, float dloss, const adam_t *adam, const float *numbers, double *losses,
                   float *losses_of_rows, float *dlogits, double *biases, int threads)
{
    for (int64_t i = 0; i < n; i++) {
        const float *step = numbers + 3 * i;
        const float *logits = forward(product, chain, count, x[i], x16, rows, threads);
        if (softmax_cross_entropy(logits, y[i], losses_of_rows, dlogits, &losses[i], rows, classes, threads) != 0)
            return i;
        if (!isfinite(losses[i]))
            return i;
        scale_dlogits(dlogits, rows * classes, dloss);
        const descent_t descent = adam ? (descent_t){0, 1, 0, 0, adam, step[0], step[1]}
                                       : (descent_t){1, step[0], step[1], step[2], NULL, 0, 0};
        *biases = backward(product, chain, count, x[i], x16, dlogits, rows, &descent, threads);
        if (!isfinite(*biases))
            return adam ? i : i + 1;
    }
    return n;
}
