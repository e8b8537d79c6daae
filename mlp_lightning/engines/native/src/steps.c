/* Training steps one after another, without Python between them. */
#include <math.h>
#include <stddef.h>

#include "native.h"

/* What is evaluated after each step: minibatches of as many rows, their losses and how many answers were right. */
typedef struct {
    forward_t *forward;
    const chain_t *chain;
    const float *const *x;
    const int64_t *const *y;
    int64_t rows;
    double *losses;
    int64_t *right;
    float *losses_of_rows, *dlogits;
} evaluation_t;

/* The answer is the first of the largest logits; a NaN is larger than all numbers, as in torch. */
static int64_t count_right(const float *logits, const int64_t *y, int64_t rows, int64_t classes)
{
    int64_t right = 0;
    for (int64_t i = 0; i < rows; i++, logits += classes) {
        int64_t answer = 0;
        for (int64_t c = 1; c < classes; c++)
            if (!isnan(logits[answer]) && !(logits[c] <= logits[answer]))
                answer = c;
        right += answer == y[i];
    }
    return right;
}

static void evaluate(const evaluation_t *e, int64_t i, int64_t classes, int threads)
{
    const float *logits = e->forward(e->chain, e->x[i], e->rows, threads);
    if (softmax_cross_entropy(logits, e->y[i], e->losses_of_rows, e->dlogits, &e->losses[i], e->rows, classes, threads))
        e->losses[i] = NAN; /* a class that is none */
    e->right[i] = count_right(logits, e->y[i], e->rows, classes);
}

/* Take up to n steps, each on a minibatch of as many rows, and return how many were taken. A step adds -lr times the
   gradient to the weights within the products, or is Adam's where `adam` is not NULL; coefficients are (alpha, beta, bias_beta)
   or (rate, eps, -) of each step. One whose loss or gradient is not finite is left to the caller, not taken, but that SGD
   finds a gradient out when it has been added; then that step is the last one taken, and *biases, the sum over the biases
   after it, is not finite. */
int64_t make_steps(forward_t *forward, backward_t *backward, const chain_t *chain, int64_t n, const float *const *x,
                   const int64_t *const *y, int64_t rows, int64_t classes, float dloss, const adam_t *adam,
                   const float *coefficients, double *losses, float *losses_of_rows, float *dlogits, double *biases,
                   const evaluation_t *evaluation, int threads)
{
    const chain_t *other = evaluation ? evaluation->chain : NULL;
    int64_t taken = 0;
    begin_steps(chain, other);
    for (; taken < n; taken++) {
        const float *step = coefficients + 3 * taken;
        const float *logits = forward(chain, x[taken], rows, threads);
        if (softmax_cross_entropy(logits, y[taken], losses_of_rows, dlogits, &losses[taken], rows, classes, threads) != 0)
            break;
        if (!isfinite(losses[taken]))
            break;
        scale_dlogits(dlogits, rows * classes, dloss);
        const update_t update = adam ? (update_t){0, 1, 0, 0, adam, step[0], step[1]}
                                     : (update_t){1, step[0], step[1], step[2], NULL, 0, 0};
        *biases = backward(chain, x[taken], dlogits, rows, &update, threads);
        if (!isfinite(*biases)) {
            taken += !adam;
            break;
        }
        if (evaluation)
            evaluate(evaluation, taken, classes, threads);
    }
    end_steps(chain, other, threads);
    return taken;
}
