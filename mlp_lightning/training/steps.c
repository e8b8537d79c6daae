/* Training steps one after another, without Python between them. */
#include <math.h>
#include <stddef.h>

#include "../native.h"

/* How a step changes the weights: by -lr times the gradient within the products, or by Adam's rule after the backward
   pass; numbers are (share, keep, keep_bias) or (rate, eps, -) of each step. */
typedef struct {
    float *theta, *m, *v; /* Adam's, else NULL */
    const float *grad;
    int64_t numel;
    float share1, beta2, share2;
} rule_t;

/* Make up to n steps, each on a minibatch of as many rows, and return how many were made: a step whose loss or gradient
   is not finite is left to the caller, unmade, but that SGD finds a gradient out when it has been added; then that step
   is the last one made, and *biases, the sum over the biases after it, is not finite. */
int64_t make_steps(forward_t *forward, backward_t *backward, const void *product, const void *chain, int count,
                   uint16_t *x16, int64_t n, const float *const *x, const int64_t *const *y, int64_t rows,
                   int64_t classes, float dloss, const rule_t *rule, const float *numbers, double *losses,
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
        if (rule->m == NULL) {
            *biases = backward(product, chain, count, x[i], x16, dlogits, rows, 1, step[0], step[1], step[2], threads);
            if (!isfinite(*biases))
                return i + 1;
        } else {
            if (!isfinite(backward(product, chain, count, x[i], x16, dlogits, rows, 0, 1, 0, 0, threads)))
                return i;
            adam(rule->theta, rule->grad, rule->m, rule->v, rule->numel, rule->share1, rule->beta2, rule->share2,
                 step[0], 0, step[1], threads);
        }
    }
    return n;
}
