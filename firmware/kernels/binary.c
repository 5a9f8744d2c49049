/* add and mul with broadcasting. Bit-identical to TensorFlow Lite Micro (reference/integer_ops/{add,mul}.h): an add
 * takes both operands to half the larger scale, 20 bits to the left; both round twice, when they multiply and when they
 * shift. The short forms do the same in few instructions: rounding constant and zero point enter with the multiply-
 * accumulate (SMMLAR), and the sign that ties away from zero need is that of the product's first factor. */
#include "dsp.h"
#include "kernels.h"
#include "requantize.h"

/* One run along the innermost dimension: the operands step by 0 or 1. The clamp comes at the end, for all runs. */
typedef void run_function(const struct bf_binary *op, const int8_t *a, uint32_t step_a, const int8_t *b,
                          uint32_t step_b, int8_t *output, uint32_t count);

#define INLINE static inline __attribute__((always_inline))

/* The compiler would turn (b << n) - (zero << n) back into (b - zero) << n, one instruction more. */
#define OPAQUE(x) __asm("" : "+r"(x))

/* What a short run needs, in registers. */
struct numbers {
    int32_t zero_a, zero_b, half_b, right_b, rounding, right;
    uint32_t multiplier_b, multiplier;
};

typedef int32_t one_function(const struct numbers *n, int32_t a, int32_t b);

INLINE int32_t narrow(const struct numbers *n, int32_t twice)
{
    return bf_ssat8((bf_smmlar((uint32_t)twice, n->multiplier, n->rounding) + (twice >> 31)) >> n->right);
}

/* The operand with the larger scale comes first: its half is exact, one bit less of a shift. Sums are taken twice, which
 * is the doubling of the high product. */
INLINE int32_t add_short(const struct numbers *n, int32_t a, int32_t b)
{
    int32_t y = b * (1 << 21) - n->zero_b;

    y = (bf_smmlar((uint32_t)y, n->multiplier_b, n->half_b) + (y >> 31)) >> n->right_b;
    return narrow(n, a * (1 << 20) - n->zero_a + y * 2);
}

/* Equal scales: both halves are exact. */
INLINE int32_t add_equal(const struct numbers *n, int32_t a, int32_t b)
{
    return narrow(n, (a + b) * (1 << 20) - n->zero_a);
}

INLINE int32_t mul_short(const struct numbers *n, int32_t a, int32_t b)
{
    return narrow(n, (a - n->zero_a) * (b - n->zero_b) * 2);
}

/* Four at a time where both operands step, which is nearly everywhere. */
INLINE void run_short(const struct numbers *n, one_function *one, const int8_t *a, uint32_t step_a, const int8_t *b,
                      uint32_t step_b, int8_t *output, uint32_t count)
{
    if (step_a + step_b == 2)
        for (; count >= 4; count -= 4, a += 4, b += 4, output += 4) {
            output[0] = (int8_t)one(n, a[0], b[0]);
            output[1] = (int8_t)one(n, a[1], b[1]);
            output[2] = (int8_t)one(n, a[2], b[2]);
            output[3] = (int8_t)one(n, a[3], b[3]);
        }
    for (; count > 0; count--, a += step_a, b += step_b)
        *output++ = (int8_t)one(n, *a, *b);
}

static void run_add_short(const struct bf_binary *op, const int8_t *a, uint32_t step_a, const int8_t *b,
                          uint32_t step_b, int8_t *output, uint32_t count)
{
    struct numbers n = {
        .zero_a = op->zero_a * (1 << 20), .zero_b = op->zero_b * (1 << 21), .half_b = 1 << (-op->shift_b - 1),
        .right_b = -op->shift_b, .rounding = op->rounding, .right = -op->shift_out,
        .multiplier_b = (uint32_t)op->multiplier_b, .multiplier = (uint32_t)op->multiplier_out,
    };

    OPAQUE(n.zero_a);
    OPAQUE(n.zero_b);
    run_short(&n, add_short, a, step_a, b, step_b, output, count);
}

static void run_add_equal(const struct bf_binary *op, const int8_t *a, uint32_t step_a, const int8_t *b,
                          uint32_t step_b, int8_t *output, uint32_t count)
{
    struct numbers n = {
        .zero_a = (op->zero_a + op->zero_b) * (1 << 20), .rounding = op->rounding, .right = -op->shift_out,
        .multiplier = (uint32_t)op->multiplier_out,
    };

    OPAQUE(n.zero_a);
    run_short(&n, add_equal, a, step_a, b, step_b, output, count);
}

static void run_mul_short(const struct bf_binary *op, const int8_t *a, uint32_t step_a, const int8_t *b,
                          uint32_t step_b, int8_t *output, uint32_t count)
{
    struct numbers n = {
        .zero_a = op->zero_a, .zero_b = op->zero_b, .rounding = op->rounding, .right = -op->shift_out,
        .multiplier = (uint32_t)op->multiplier_out,
    };

    run_short(&n, mul_short, a, step_a, b, step_b, output, count);
}

static int8_t with_zero(const struct bf_binary *op, int32_t value)
{
    return (int8_t)bf_ssat8((int32_t)((uint32_t)value + (uint32_t)op->out_zero));
}

static void run_add_general(const struct bf_binary *op, const int8_t *a, uint32_t step_a, const int8_t *b,
                            uint32_t step_b, int8_t *output, uint32_t count)
{
    for (; count > 0; count--, a += step_a, b += step_b) {
        int32_t x = bf_multiply((*a - op->zero_a) * (1 << 20), op->multiplier_a, op->shift_a);
        int32_t y = bf_multiply((*b - op->zero_b) * (1 << 20), op->multiplier_b, op->shift_b);
        *output++ = with_zero(op, bf_multiply(x + y, op->multiplier_out, op->shift_out));
    }
}

static void run_mul_general(const struct bf_binary *op, const int8_t *a, uint32_t step_a, const int8_t *b,
                            uint32_t step_b, int8_t *output, uint32_t count)
{
    for (; count > 0; count--, a += step_a, b += step_b) {
        int32_t product = (*a - op->zero_a) * (*b - op->zero_b);
        *output++ = with_zero(op, bf_multiply(product, op->multiplier_out, op->shift_out));
    }
}

/* Every run: the operands' places where it begins, counted up like the digits of a number. */
static void all_runs(const struct bf_binary *op, const int8_t *a, const int8_t *b, int8_t *output, run_function *run)
{
    const struct bf_extent *axes = (const struct bf_extent *)(op + 1), *last = axes + op->rank - 1;
    uint32_t index[BF_MAX_RANK] = {0}, runs = 1, axis;
    int8_t *to = output;

    for (axis = 0; axis + 1u < op->rank; axis++)
        runs *= axes[axis].size;
    for (; runs > 0; runs--, to += last->size) {
        run(op, a, last->stride_a, b, last->stride_b, to, last->size);
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
    bf_clamp_all(output, (uint32_t)(to - output), op->least, op->greatest);
}

void bf_add(const struct bf_binary *op, const int8_t *a, const int8_t *b, int8_t *output)
{
    run_function *run = run_add_general;

    if (op->head.kernel == BF_BINARY_SHORT)
        run = op->shift_b == 0 ? run_add_equal : run_add_short;
    all_runs(op, a, b, output, run);
}

void bf_mul(const struct bf_binary *op, const int8_t *a, const int8_t *b, int8_t *output)
{
    all_runs(op, a, b, output, op->head.kernel == BF_BINARY_SHORT ? run_mul_short : run_mul_general);
}
