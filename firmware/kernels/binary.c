/* add and mul with broadcasting. Bit-identical to TensorFlow Lite Micro (reference/integer_ops/{add,mul}.h): an add
 * takes both operands to half the larger scale, 20 bits to the left; both round twice, when they multiply and when they
 * shift. The short forms do the same in few instructions: rounding constant and zero point enter with the multiply-
 * accumulate (SMMLAR), and the sign that ties away from zero need is that of the product's first factor. */
#include "dsp.h"
#include "kernels.h"
#include "requantize.h"

enum form { ADD_GENERAL, ADD_SHORT, MUL_GENERAL, MUL_SHORT };

/* What a run needs, at hand: the compiler then keeps it in registers. */
struct numbers {
    int32_t zero_a, zero_b, zero_out, least, greatest;
    int32_t multiplier_a, shift_a, multiplier_b, shift_b, multiplier, shift, rounding;
    int32_t left_b, half_b, right_b; /* ADD_SHORT: b's shift before (as a factor), rounding constant, shift behind */
    int32_t right;                   /* -shift of the short forms */
};

static inline int32_t one(const struct numbers *n, enum form form, int32_t a, int32_t b)
{
    int32_t x, y;

    switch (form) {
    case ADD_GENERAL:
        x = bf_multiply((a - n->zero_a) * (1 << 20), n->multiplier_a, n->shift_a);
        y = bf_multiply((b - n->zero_b) * (1 << 20), n->multiplier_b, n->shift_b);
        return bf_multiply(x + y, n->multiplier, n->shift) + n->zero_out;
    case MUL_GENERAL:
        x = bf_multiply((a - n->zero_a) * (b - n->zero_b), n->multiplier, n->shift);
        return (int32_t)((uint32_t)x + (uint32_t)n->zero_out);
    case ADD_SHORT: /* a has the larger scale: its half is exact, one bit less of a shift */
        y = (b - n->zero_b) * (1 << 21) * n->left_b;
        y = (bf_smmlar((uint32_t)y, (uint32_t)n->multiplier_b, n->half_b) + (y >> 31)) >> n->right_b;
        x = (a - n->zero_a) * (1 << 20) + y * 2; /* twice the sum: the doubling of the high product */
        break;
    default:
        x = (a - n->zero_a) * (b - n->zero_b) * 2;
        break;
    }
    return (bf_smmlar((uint32_t)x, (uint32_t)n->multiplier, n->rounding) + (x >> 31)) >> n->right;
}

/* One run along the innermost dimension: the operands step by 0 or 1. */
static inline void run(const struct numbers *numbers, enum form form, const int8_t *a, uint32_t step_a,
                       const int8_t *b, uint32_t step_b, int8_t *output, uint32_t count)
{
    const struct numbers n = *numbers;

    for (; count > 0; count--, a += step_a, b += step_b) {
        int32_t value = one(&n, form, *a, *b);
        *output++ = (int8_t)(value < n.least ? n.least : value > n.greatest ? n.greatest : value);
    }
}

static void run_form(const struct numbers *n, enum form form, const int8_t *a, uint32_t step_a, const int8_t *b,
                     uint32_t step_b, int8_t *output, uint32_t count)
{
    if (form == ADD_SHORT && step_a + step_b == 2)
        run(n, ADD_SHORT, a, 1, b, 1, output, count);
    else if (form == ADD_SHORT)
        run(n, ADD_SHORT, a, step_a, b, step_b, output, count);
    else if (form == MUL_SHORT)
        run(n, MUL_SHORT, a, step_a, b, step_b, output, count);
    else if (form == ADD_GENERAL)
        run(n, ADD_GENERAL, a, step_a, b, step_b, output, count);
    else
        run(n, MUL_GENERAL, a, step_a, b, step_b, output, count);
}

/* Every run: the operands' places where it begins, counted up like the digits of a number. */
static void all_runs(const struct bf_binary *op, enum form form, const int8_t *a, const int8_t *b, int8_t *output)
{
    const struct bf_extent *axes = (const struct bf_extent *)(op + 1), *last = axes + op->rank - 1;
    uint32_t index[BF_MAX_RANK] = {0}, runs = 1, axis;
    int32_t right = -op->shift_b;
    struct numbers n = {
        op->zero_a, op->zero_b, op->out_zero, op->least, op->greatest,
        op->multiplier_a, op->shift_a, op->multiplier_b, op->shift_b, op->multiplier_out, op->shift_out, op->rounding,
        1, 0, right, -op->shift_out,
    };

    if (form == ADD_SHORT && right == 0) { /* b's multiplier is one half too: one more bit before, and behind */
        n.left_b = 2;
        n.right_b = 1;
    }
    if (form == ADD_SHORT)
        n.half_b = 1 << (n.right_b - 1);
    for (axis = 0; axis + 1u < op->rank; axis++)
        runs *= axes[axis].size;
    for (; runs > 0; runs--, output += last->size) {
        run_form(&n, form, a, last->stride_a, b, last->stride_b, output, last->size);
        for (axis = op->rank - 1u; axis-- > 0;) {
            a += axes[axis].stride_a;
            b += axes[axis].stride_b;
            if (++index[axis] < axes[axis].size)
                break;
            a -= axes[axis].stride_a * axes[axis].size;
            b -= axes[axis].stride_b * axes[axis].size;
            index[axis] = 0;
        }
    }
}

void bf_add(const struct bf_binary *op, const int8_t *a, const int8_t *b, int8_t *output)
{
    all_runs(op, op->head.kernel == BF_BINARY_SHORT ? ADD_SHORT : ADD_GENERAL, a, b, output);
}

void bf_mul(const struct bf_binary *op, const int8_t *a, const int8_t *b, int8_t *output)
{
    all_runs(op, op->head.kernel == BF_BINARY_SHORT ? MUL_SHORT : MUL_GENERAL, a, b, output);
}
