/* The passes in mixed precision, for processors that multiply bfloat16 in hardware: operands are rounded to bfloat16, and
   products are summed up in float. */
#ifdef __AMX_BF16__
#include <stdint.h>
#include <string.h>

typedef uint16_t operand; /* the upper half of a float */

#define FORWARD_PASS forward_pass_bf16
#define BACKWARD_PASS backward_pass_bf16

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
