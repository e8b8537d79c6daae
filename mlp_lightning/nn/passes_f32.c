/* The passes in float32: operands are the floats themselves. */
typedef float operand;

#define FORWARD_PASS forward_pass
#define BACKWARD_PASS backward_pass

static inline operand operand_of(float value)
{
    return value;
}

static inline int is_above_0(operand value)
{
    return value > 0;
}

#include "passes.h"
