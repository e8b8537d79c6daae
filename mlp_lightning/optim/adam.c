/* Adam's update of optim/adam.py in one pass over memory, where tensor operations need six.
   share1 = 1 - beta1 and share2 = 1 - beta2 are given: taken from a rounded beta2, the latter would be off by 1e-5. */
#include <math.h>
#include <stdint.h>

#define BLOCK 4096 /* entries a thread takes at a time */

void adam(float *restrict theta, const float *restrict grad, float *restrict m, float *restrict v, int64_t n,
          float share1, float beta2, float share2, float rate, float eps, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t start = 0; start < n; start += BLOCK) {
        const int64_t stop = start + BLOCK < n ? start + BLOCK : n;
        for (int64_t i = start; i < stop; i++) {
            const float g = grad[i];
            const float m_i = m[i] + share1 * (g - m[i]);
            const float v_i = beta2 * v[i] + share2 * g * g;
            m[i] = m_i;
            v[i] = v_i;
            theta[i] -= rate * m_i / (sqrtf(v_i) + eps);
        }
    }
}
