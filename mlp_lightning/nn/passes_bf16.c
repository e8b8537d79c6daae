/* The passes in mixed precision, for processors that multiply bfloat16 in hardware: operands are rounded to bfloat16, and
   products are summed up in float. */
#ifdef __AMX_BF16__
#include <stdint.h>
#include <string.h>

typedef uint16_t operand; /* the upper half of a float */

#define FORWARD_PASS forward_pass_bf16
#define BACKWARD_PASS backward_pass_bf16

/* MKL's, of matrices column by column: C <- alpha A B + beta C. */
typedef void gemm_bf16_t(const char *transa, const char *transb, const int64_t *m, const int64_t *n, const int64_t *k,
                         const float *alpha, const operand *a, const int64_t *lda, const operand *b, const int64_t *ldb,
                         const float *beta, float *c, const int64_t *ldc);

/* As that of blas.h. */
static void product(const void *gemm, const operand *a, int a_transposed, int64_t lda, const operand *b,
                    int b_transposed, int64_t ldb, float *c, int64_t ldc, int64_t m, int64_t n, int64_t k, float alpha,
                    float beta)
{
    if (m > 0 && n > 0)
        ((gemm_bf16_t *)gemm)(b_transposed ? "T" : "N", a_transposed ? "T" : "N", &n, &m, &k, &alpha, b, &ldb, a, &lda,
                              &beta, c, &ldc);
}

/* To the nearest, and to the even one of two; NaN stays. */
static inline operand operand_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, nan = bits >> 16 | 0x40;
    return (operand)((bits & 0x7fffffff) > 0x7f800000 ? nan : nearest);
}

/* No sign, and not all bits 0. */
static inline int is_above_0(operand value)
{
    return (int16_t)value > 0;
}

#include "passes.h"
#endif
