/* Work shared out over threads. */
#include <omp.h>
#include <stdint.h>

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
