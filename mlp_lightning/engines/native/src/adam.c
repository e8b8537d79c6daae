/* The update of optim/moments.py in one pass over memory, where tensor operations need six.
   one_minus_beta1 and one_minus_beta2 are given: taken from a rounded beta2, the latter would be off by 1e-5. */
#include <math.h>

#include "native.h"

#define PARALLEL 4096 /* entries from which on a second thread pays */

PART void update(float *restrict theta, const float *restrict grad, float *restrict m, float *restrict v,
                 int64_t start, int64_t stop, float one_minus_beta1, float beta2, float one_minus_beta2, float rate,
                 float grad_rate, float eps)
{
    for (int64_t i = start; i < stop; i++) {
        const float g = grad[i];
        const float m_i = m[i] + one_minus_beta1 * (g - m[i]);
        const float v_i = beta2 * v[i] + one_minus_beta2 * g * g;
        m[i] = m_i;
        v[i] = v_i;
        theta[i] -= (rate * m_i + grad_rate * g) / (sqrtf(v_i) + eps);
    }
}

void adam(float *theta, const float *grad, float *m, float *v, int64_t n, float one_minus_beta1, float beta2,
          float one_minus_beta2, float rate, float grad_rate, float eps, int threads)
{
    SHARE(n, threads, n >= PARALLEL,
          update(theta, grad, m, v, start, stop, one_minus_beta1, beta2, one_minus_beta2, rate, grad_rate, eps));
}

/* The same without decoupled decay, of the entries from start to stop. */
void adam_range(const adam_t *adam, int64_t start, int64_t stop, float rate, float eps)
{
    update(adam->theta, adam->grad, adam->m, adam->v, start, stop, adam->one_minus_beta1, adam->beta2,
           adam->one_minus_beta2, rate, 0, eps);
}
