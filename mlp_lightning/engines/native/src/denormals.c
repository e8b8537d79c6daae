/* Numbers below 1.2e-38 in the operations of torch and its BLAS. */
#include "native.h"

/* Let the first threads of a process, which are torch's as well, take them for 0, or no longer. */
void flush_denormals(int flushes, int threads)
{
#ifdef __SSE__
#pragma omp parallel num_threads(threads)
    _mm_setcsr(flushes ? _mm_getcsr() | FLUSH : _mm_getcsr() & ~FLUSH);
#else
    (void)flushes, (void)threads;
#endif
}
