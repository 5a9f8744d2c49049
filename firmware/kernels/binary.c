/* add and mul with broadcasting. Bit-identical to TensorFlow Lite Micro (reference/integer_ops/{add,mul}.h): an add
 * takes both operands to half the larger scale, 20 bits to the left; both round twice, when they multiply and when they
 * shift. The short forms do the same in few instructions: rounding constant and zero point enter with the multiply-
 * accumulate (SMMLAR), and the sign that ties away from zero need is that of the product's first factor. */
#include "dsp.h"
#include "dsp_text.h"
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
#if BF_MUTATE == 1 /* for the test of the tests */
    return bf_ssat8(bf_smmlar((uint32_t)twice, n->multiplier, n->rounding) >> n->right);
#endif
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

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP) && !defined(BF_NO_ASSEMBLY)
/* What the assembly reads, in this order. */
struct quads {
    const int8_t *a, *b;
    int8_t *output;
    int32_t minus_zero_b, multiplier_b, half_b, right_b, multiplier, rounding, right;
    const int8_t *end; /* of a */
};

#define SIGN(to, of) BF_LESS_SIGN(to, to, of)
#define NO_SIGN(to, of) ""
/* r0-r9 hold the first ten, s0 the end; r10 and r11 four values of each operand, r12 and r14 work. `half_b` contains the
 * other operand's zero point, so that what is shifted to the right is y - zero. */
#define ONE(of_a, of_b, sign)             \
    "sxtab r12, r3, r11" of_b "\n"        \
    "lsl r12, r12, #21\n"                 \
    "smmlar r14, r12, r4, r5\n"           \
    SIGN(r14, r12)                        \
    "asr r14, r14, r6\n"                  \
    "sxtb r12, r10" of_a "\n"             \
    "add r14, r14, r12, lsl #19\n"        \
    "lsl r14, r14, #1\n"                  \
    "smmlar r12, r14, r7, r8\n"           \
    sign(r12, r14)                        \
    "asr r12, r12, r9\n"                  \
    "ssat r12, #8, r12\n"                 \
    "strb r12, [r2], #1\n"
#define ADD_QUADS(name, sign)                                                                              \
    __attribute__((naked, noinline)) static void name(__attribute__((unused)) const struct quads *quads)  \
    {                                                                                                      \
        __asm volatile(                                                                                    \
            ".syntax unified\n"                                                                            \
            "push {r4-r11, lr}\n"                                                                          \
            "vldr s0, [r0, #40]\n"                                                                         \
            "ldm r0, {r0-r9}\n"                                                                            \
            "1:\n"                                                                                         \
            "ldr r10, [r0], #4\n"                                                                          \
            "ldr r11, [r1], #4\n"                                                                          \
            ONE("", "", sign)                                                                              \
            ONE(", ror #8", ", ror #8", sign)                                                              \
            ONE(", ror #16", ", ror #16", sign)                                                            \
            ONE(", ror #24", ", ror #24", sign)                                                            \
            "vmov r12, s0\n"                                                                               \
            "cmp r0, r12\n"                                                                                \
            "bne 1b\n"                                                                                     \
            "pop {r4-r11, pc}\n");                                                                         \
    }
ADD_QUADS(quads_signed, SIGN)
ADD_QUADS(quads_unsigned, NO_SIGN) /* an output zero point of -128 is where negative sums end, whatever their rounding */

#define MOST_RIGHT_B 4 /* up to here a zero point behind the shift fits before it */

/* How many sums are done, from the first on. */
static uint32_t add_quads(const struct bf_binary *op, const struct numbers *n, const int8_t *a, const int8_t *b,
                          int8_t *output, uint32_t count)
{
    count &= ~3u;
    if (n->right_b > MOST_RIGHT_B || count == 0) {
        return 0;
    }
    struct quads quads = {
        a, b, output, -op->zero_b, op->multiplier_b, n->half_b - op->zero_a * (1 << (19 + n->right_b)), n->right_b,
        op->multiplier_out, op->rounding, n->right, a + count,
    };
    (op->out_zero == -128 ? quads_unsigned : quads_signed)(&quads);
    return count;
}
#else
static uint32_t add_quads(const struct bf_binary *op, const struct numbers *n, const int8_t *a, const int8_t *b,
                          int8_t *output, uint32_t count)
{
    (void)op, (void)n, (void)a, (void)b, (void)output, (void)count;
    return 0;
}
#endif

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
    uint32_t done = step_a + step_b == 2 ? add_quads(op, &n, a, b, output, count) : 0;
    run_short(&n, add_short, a + done, step_a, b + done, step_b, output + done, count - done);
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
