/* Softmax and cross-entropy of losses.py, forward and backward in one pass. */
#include <float.h>
#include <math.h>

#include "native.h"

#define PARALLEL 4096 /* entries from which on a second thread pays */

/* l_i = log(sum_c exp(z_ic)) - z_iy and dl_i/dz_i = softmax(z_i) - onehot(y_i). The row's maximum is subtracted before
   anything is exponentiated, so nothing overflows. */
PART void softmax_rows(const float *restrict logits, const int64_t *restrict targets, float *restrict losses,
                         float *restrict dlogits, int64_t start, int64_t stop, int64_t classes)
{
    for (int64_t i = start; i < stop; i++) {
        const float *z = logits + i * classes;
        float *d = dlogits + i * classes;
        float largest = z[0], total = 0;
        for (int64_t c = 1; c < classes; c++)
            largest = z[c] > largest ? z[c] : largest;
        for (int64_t c = 0; c < classes; c++)
            total += d[c] = expf(z[c] - largest);
        for (int64_t c = 0; c < classes; c++)
            d[c] /= total;
        d[targets[i]] -= 1;
        losses[i] = logf(total) + (largest - z[targets[i]]);
        if (losses[i] > FLT_MAX && z[targets[i]] > -INFINITY) /* two finite logits that far apart */
            losses[i] = FLT_MAX;
    }
}

/* The losses (B) of logits (B, K) and classes (B), their sum, and dlogits (B, K). Of finite logits the sum ends at the
   largest float; it is infinite where a sample's own class has the logit -INFINITY.
   Returns 0, or 1 where a class is none of 0 ... K - 1 and nothing was done. */
int softmax_cross_entropy(const float *logits, const int64_t *targets, float *losses, float *dlogits, double *loss_sum,
                          int64_t rows, int64_t classes, int threads)
{
    double sum = 0;
    for (int64_t i = 0; i < rows; i++)
        if (targets[i] < 0 || targets[i] >= classes)
            return 1;
    SHARE(rows, threads, rows * classes >= PARALLEL,
          softmax_rows(logits, targets, losses, dlogits, start, stop, classes));
    for (int64_t i = 0; i < rows; i++)
        sum += losses[i];
    *loss_sum = sum > FLT_MAX && sum < INFINITY ? FLT_MAX : sum;
    return 0;
}

/* dlogits times what comes in. */
void scale_dlogits(float *dlogits, int64_t numel, float dloss)
{
    for (int64_t i = 0; i < numel; i++)
        dlogits[i] *= dloss;
}
