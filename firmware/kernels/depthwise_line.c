/* depthwise_conv2d of three taps along a line with the DSP extension: 1x3 on an image of one row, or 3x1 on one of one
 * column, which is the same in memory; stride 1 or 2.
 *
 * Four channels at a time become planes (planes.h) of one row: words (x, x + 1) that follow each other. With stride 1 two
 * words give two outputs, with stride 2 one, in both cases by two multiplications each; every word is loaded once.
 * Weights are int16, [channel][w0, w1 | w2, 0 | 0, w0 | w1, w2]: for windows that start at the first column of a pair, and
 * at the second. Weights and bias are scaled as in depthwise_3x3.c. */
#include "planes.h"

#if BF_WITH_DSP

/* Outputs `from` to `to` - 1, one after the other. */
__attribute__((noinline)) static void run_plain(const struct bf_window *op, const uint32_t *plane,
                                                const uint32_t *weights, uint32_t from, uint32_t to,
                                                const struct bf_channel *channel, int8_t *output)
{
    for (uint32_t x = from; x < to; x++) {
        uint32_t column = x * op->stride_w;
        const uint32_t *w = weights + 2 * (column & 1), *pair = plane + column / 2;
        int32_t sum = bf_smlad(pair[1], w[1], bf_smlad(pair[0], w[0], channel->bias));
        output[x * op->out_c] = (int8_t)bf_requantize_scaled(sum, channel, op->out_zero);
    }
}

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP) && !defined(BF_NO_ASSEMBLY)
/* What the assembly reads, in this order. */
struct line {
    const uint32_t *plane, *end; /* of two words a turn */
    int8_t *output;
    uint32_t pixel;
};

/* r0 plane, r1 output, r2-r5 weights, r6 the word that the turn before loaded last, r7 and r12 the next two, r8 multiplier,
 * r9 rounding, r10 pixel, r11 a sum, r14 bias; s0 the plane's end, s4-s7 the channel. */
#if BF_MUTATE == 1
#define SIGN(y) "mov r14, r9\n"
#else
#define SIGN(y) "add r14, r9, " #y ", asr #31\n"
#endif
#if BF_MUTATE == 2
#define HIGH "smmlar "
#else
#define HIGH "smmla "
#endif
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define SCALED_PART(y) HIGH #y ", " #y ", r8, r9\n" "ssat " #y ", #8, " #y ", asr #" TEXT(BF_PRESCALED_SHIFT) "\n"
#define SCALED(y, z) SCALED_PART(y) SCALED_PART(z)
#define SIGNED(y, z)                                   \
    SIGN(y) "smmlar " #y ", " #y ", r8, r14\n"          \
    SIGN(z) "smmlar " #z ", " #z ", r8, r14\n"          \
    "vmov r14, s7\n"                                   \
    "asr " #y ", " #y ", r14\n"                        \
    "asr " #z ", " #z ", r14\n"                        \
    "vmov r14, s4\n"                                   \
    "ssat " #y ", #8, " #y "\n"                        \
    "ssat " #z ", #8, " #z "\n"
#define STORE(y, z) "strb " #y ", [r1]\n" "strb " #z ", [r1, r10]\n" "add r1, r1, r10, lsl #1\n"
#define BOTH(x, next, finish)                 \
    "smlad r11, " #x ", r2, r14\n"            \
    "smlad " #x ", " #x ", r4, r14\n"         \
    "smlad r11, " #next ", r3, r11\n"         \
    "smlad " #x ", " #next ", r5, " #x "\n"   \
    finish(r11, x) STORE(r11, x)
#define STRIDE_1(finish) BOTH(r6, r7, finish) BOTH(r7, r12, finish)
#define STRIDE_2(finish)            \
    "smlad r11, r6, r2, r14\n"      \
    "smlad r11, r7, r3, r11\n"      \
    "smlad r7, r7, r2, r14\n"       \
    "smlad r7, r12, r3, r7\n"       \
    finish(r11, r7) STORE(r11, r7)
#define RUN(name, sums, finish)                                                                                        \
    __attribute__((naked, noinline)) static void name(__attribute__((unused)) const struct line *line,                 \
                                                      __attribute__((unused)) const uint32_t *weights,                 \
                                                      __attribute__((unused)) const struct bf_channel *channel)        \
    {                                                                                                                  \
        __asm volatile(                                                                                                \
            ".syntax unified\n"                                                                                        \
            "push {r4-r11, lr}\n"                                                                                      \
            "vldm r2, {s4-s7}\n"                                                                                       \
            "vmov r12, s7\n"                                                                                           \
            "rsb r12, r12, #0\n"                                                                                       \
            "vmov s7, r12\n"                                                                                           \
            "mov r14, r1\n"                                                                                            \
            "ldr r11, [r0, #4]\n"                                                                                      \
            "ldr r1, [r0, #8]\n"                                                                                       \
            "ldr r10, [r0, #12]\n"                                                                                     \
            "ldr r0, [r0]\n"                                                                                           \
            "vmov s0, r11\n"                                                                                           \
            "ldm r14, {r2-r5}\n"                                                                                       \
            "vmov r14, s4\n"                                                                                           \
            "vmov r8, s5\n"                                                                                            \
            "vmov r9, s6\n"                                                                                            \
            "ldr r6, [r0]\n"                                                                                           \
            "1:\n"                                                                                                     \
            "ldr r7, [r0, #4]\n"                                                                                       \
            "ldr r12, [r0, #8]!\n"                                                                                     \
            sums(finish)                                                                                               \
            "vmov r11, s0\n"                                                                                           \
            "mov r6, r12\n"                                                                                            \
            "cmp r0, r11\n"                                                                                            \
            "bne 1b\n"                                                                                                 \
            "pop {r4-r11, pc}\n");                                                                                     \
    }
RUN(line_1_scaled, STRIDE_1, SCALED)
RUN(line_1_signed, STRIDE_1, SIGNED)
RUN(line_2_scaled, STRIDE_2, SCALED)
RUN(line_2_signed, STRIDE_2, SIGNED)

static void run_channel(const struct bf_window *op, const uint32_t *plane, const uint32_t *weights,
                        const struct bf_channel *channel, int8_t *output)
{
    uint32_t block = 4u / op->stride_w, done = channel->rounding == 0 ? 0 : op->out_w / block * block;
    if (done > 0) {
        struct line line = {plane, plane + 2 * (done / block), output, op->out_c};
        if (op->stride_w == 1) {
            (channel->shift == 0 ? line_1_scaled : line_1_signed)(&line, weights, channel);
        } else {
            (channel->shift == 0 ? line_2_scaled : line_2_signed)(&line, weights, channel);
        }
    }
    if (done < op->out_w) {
        run_plain(op, plane, weights, done, op->out_w, channel, output);
    }
}
#else
static void run_channel(const struct bf_window *op, const uint32_t *plane, const uint32_t *weights,
                        const struct bf_channel *channel, int8_t *output)
{
    run_plain(op, plane, weights, 0, op->out_w, channel, output);
}
#endif

void bf_depthwise_line(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                       void *scratch)
{
    struct bf_window row = *op;
    if (op->kernel_w == 1) { /* a column is a row in memory */
        row.in_w = op->in_h, row.out_w = op->out_h, row.stride_w = op->stride_h, row.pad_left = op->pad_top;
        row.in_h = 1, row.pad_top = 0;
    }
    const struct bf_channel *channel = (const struct bf_channel *)(program + op->channels);
    const uint32_t *weights = (const uint32_t *)(program + op->weights);
    uint32_t copies = op->out_c / op->in_c; /* the channel multiplier */
    uint32_t columns = ((row.out_w - 1u) * row.stride_w + 4) / 2;
    int8_t *to = output;
    struct bf_gather gather = bf_gather_of(&row, 0, 0, columns, 1, scratch);
    for (uint32_t in_c = 0; in_c < op->in_c; in_c += 4) {
        uint32_t planes = op->in_c - in_c < 4 ? op->in_c - in_c : 4;
        const uint32_t *plane = scratch;
        bf_gather_channels(&gather, input + in_c, planes, in_c == 0);
        for (; planes > 0; planes--, plane += columns) {
            for (uint32_t copy = 0; copy < copies; copy++, channel++, weights += 4, to++) {
                run_channel(&row, plane, weights, channel, to);
            }
        }
    }
    bf_clamp_all(output, (uint32_t)row.out_w * op->out_c, op->least, op->greatest);
}
#endif
