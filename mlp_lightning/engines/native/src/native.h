/* What the C sources have in common. */
#include <omp.h>
#include <stdint.h>

/* Adam's memory, and the coefficients that every step has. */
typedef struct {
    float *theta, *m, *v;
    const float *grad;
    float one_minus_beta1, beta2, one_minus_beta2;
} adam_t;

/* What a backward pass does with the gradient: W <- beta W + alpha dW and b <- bias_beta b + alpha db where it
   `updates`, else the same with the memory of the gradients in the place of W and b; and where `adam` is given, a step
   of it after that, if the sum over the gradients of the biases is finite. */
typedef struct {
    int updates;
    float alpha, beta, bias_beta;
    const adam_t *adam;
    float rate, eps;
} update_t;

/* A network, with memory for minibatches of one size; described where its passes are, one pair for each precision. */
typedef struct {
    const void *product;
    const struct layer *layers;
    int count;
    struct sparse *sparse; /* of each layer; NULL where zeros are always multiplied */
} chain_t;

/* The forward pass returns the logits, in memory of the layers. */
typedef const float *forward_t(const chain_t *chain, const float *x, int64_t rows, int threads);
typedef double backward_t(const chain_t *chain, const float *x, const float *dlogits, int64_t rows,
                          const update_t *how, int threads);

/* Between these two the weights change in the passes of the chain alone, and are read in those of the other, if there is
   one. */
void begin_steps(const chain_t *chain, const chain_t *other);
void end_steps(const chain_t *chain, const chain_t *other, int threads);

void sum_rows(const float *dz, float *bias, int64_t first, int64_t last, int64_t rows, int64_t width, float alpha,
              float beta);
int softmax_cross_entropy(const float *logits, const int64_t *targets, float *losses, float *dlogits, double *loss_sum,
                          int64_t rows, int64_t classes, int threads);
void scale_dlogits(float *dlogits, int64_t numel, float dloss);
void adam_range(const adam_t *adam, int64_t start, int64_t stop, float rate, float eps);

/* What SHARE calls: not to be compiled into each of its two branches. */
#define PART static __attribute__((noinline))

/* Runs the statement `work` with numbers below 1.2e-38 taken for 0, as JAX does. A processor computes with them some
   hundred cycles each, and a training is full of them: Adam's means of gradients that have become 0, and whatever a sure
   answer's softmax is multiplied with. */
#ifdef __SSE__
#include <xmmintrin.h>
#define FLUSH 0x8040u /* of results and of operands */
#define WITHOUT_DENORMALS(work)                   \
    do {                                          \
        const unsigned mode = _mm_getcsr();       \
        _mm_setcsr(mode | FLUSH);                 \
        work;                                     \
        _mm_setcsr(mode);                         \
    } while (0)
#else
#define WITHOUT_DENORMALS(work) work
#endif

/* Runs the statement `work` in each of some threads, which is number `me` of `all`; with one thread without OpenMP: a team
   of one ends the idle threads of the last team, torch's and BLAS's, which it takes longer to start again than a layer
   takes; and a forked process whose parent has used OpenMP would hang. */
#define IN_TEAM(threads, work)                                                        \
    do {                                                                              \
        if ((threads) == 1) {                                                         \
            const int64_t me = 0, all = 1;                                            \
            WITHOUT_DENORMALS(work);                                                  \
        } else {                                                                      \
            _Pragma("omp parallel num_threads(threads)")                              \
            {                                                                         \
                const int64_t me = omp_get_thread_num(), all = omp_get_num_threads(); \
                WITHOUT_DENORMALS(work);                                              \
            }                                                                         \
        }                                                                             \
    } while (0)

/* Runs `work` for the part [start, stop) of 0 ... n - 1 that falls to each of some threads, or to one where more do not
   pay. */
#define SHARE(n, threads, pays, work)                         \
    do {                                                      \
        const int team = (pays) ? (threads) : 1;              \
        IN_TEAM(team, {                                       \
            const int64_t start = (n) * me / all;             \
            const int64_t stop = (n) * (me + 1) / all;        \
            work;                                             \
        });                                                   \
    } while (0)
