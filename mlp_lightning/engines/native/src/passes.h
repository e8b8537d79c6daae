/* What the passes of a ReLU network have in common. Each precision's are one parallel region a pass. A thread has some features of
   every layer, in all passes the same, whose weights so stay in its cache; where work is divided (shares.h), a thread
   that has done its own makes some of another's. */
#include <math.h>

#include "native.h"

/* One layer of a network and the memory of its minibatch. */
typedef struct layer {
    float *weight, *bias;    /* W (H, D), b (H) */
    float *dweight, *dbias;  /* of the same shapes */
    float *z, *dz;           /* Z and dZ, as each precision keeps them, but for the logits: (B, K), the z of the last */
    uint32_t *input, *dz_rows, *dz_columns; /* operands of products in bfloat16 */
    int64_t fan_in, fan_out;                /* D, H */
} layer_t;

static inline int64_t minimum(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The first of n entries that thread `me` of `all` has; they are dealt out `unit` by `unit`. */
static inline int64_t first_of(int64_t n, int64_t unit, int64_t me, int64_t all)
{
    return minimum(n, (n + unit - 1) / unit * me / all * unit);
}

static inline void wait_for_all(int64_t all)
{
    if (all > 1) {
#pragma omp barrier
    }
}

/* The sum over all biases, or over their gradients. */
static inline double sum_of_biases(const layer_t *layers, int count, int updates)
{
    double sum = 0;
    for (int k = 0; k < count; k++)
        for (int64_t j = 0; j < layers[k].fan_out; j++)
            sum += (updates ? layers[k].bias : layers[k].dbias)[j];
    return sum;
}

/* Adam's step of some entries, whose gradient is there. */
static inline void adam_step(const update_t *how, const float *theta, int64_t count)
{
    const int64_t start = theta - how->adam->theta;
    adam_range(how->adam, start, start + count, how->rate, how->eps);
}
