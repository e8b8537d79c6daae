/* What the C sources share. */
#include <omp.h>
#include <stdint.h>

/* The passes of a whole network, each precision's with layers of its own kind; described where they are defined. The
   forward pass returns the logits, in memory of the layers. */
typedef const float *forward_t(const void *product, const void *chain, int count, const float *x, uint16_t *x16,
                               int64_t rows, int threads);
typedef double backward_t(const void *product, const void *chain, int count, const float *x, const uint16_t *x16,
                          float *dlogits, int64_t rows, int descends, float share, float keep, float keep_bias,
                          int threads);

int softmax_cross_entropy(const float *logits, const int64_t *targets, float *losses, float *dlogits, double *loss_sum,
                          int64_t rows, int64_t classes, int threads);
void scale_dlogits(float *dlogits, int64_t numel, float dloss);
void adam(float *theta, const float *grad, float *m, float *v, int64_t n, float share1, float beta2, float share2,
          float rate, float grad_rate, float eps, int threads);

/* What SHARE calls: not to be compiled into each of its two branches. */
#define PART static __attribute__((noinline))

/* Runs the statement `work` for the part [start, stop) of 0 ... n - 1 that falls to each of some threads; with one, or
   where more do not pay, without OpenMP: a team of one ends the idle threads of the last team, torch's and BLAS's, which
   it takes longer to start again than a layer takes; and a forked process whose parent has used OpenMP would hang. */
#define SHARE(n, threads, pays, work)                                                  \
    do {                                                                               \
        if ((threads) == 1 || !(pays)) {                                               \
            const int64_t start = 0, stop = (n);                                       \
            work;                                                                      \
        } else {                                                                       \
            _Pragma("omp parallel num_threads(threads)")                               \
            {                                                                          \
                const int64_t me = omp_get_thread_num(), all = omp_get_num_threads();  \
                const int64_t start = (n)*me / all, stop = (n) * (me + 1) / all;       \
                work;                                                                  \
            }                                                                          \
        }                                                                              \
    } while (0)
