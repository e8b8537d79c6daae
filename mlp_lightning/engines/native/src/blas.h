/* The matrix product of torch's own BLAS. */
#include <stdint.h>

/* C <- alpha A B + beta C, of matrices column by column. BLAS's integers have 32 bits or 64, as it was built: a small
   int64_t, lowest byte first, serves as either. */
typedef void gemm_t(const char *transa, const char *transb, const int64_t *m, const int64_t *n, const int64_t *k,
                    const float *alpha, const float *a, const int64_t *lda, const float *b, const int64_t *ldb,
                    const float *beta, float *c, const int64_t *ldc);

/* C (m, n) <- alpha A B + beta C. A is given as (m, k), or transposed as (k, m); B as (k, n), or transposed as (n, k);
   each may be a part of a matrix whose rows are lda, ldb or ldc apart. Read column by column, each matrix is its own
   transpose: C' = B' A'. */
static void product(const void *gemm, const float *a, int a_transposed, int64_t lda, const float *b,
                    int b_transposed, int64_t ldb, float *c, int64_t ldc, int64_t m, int64_t n, int64_t k, float alpha,
                    float beta)
{
    if (m > 0 && n > 0)
        ((gemm_t *)gemm)(b_transposed ? "T" : "N", a_transposed ? "T" : "N", &n, &m, &k, &alpha, b, &ldb, a, &lda,
                         &beta, c, &ldc);
}
