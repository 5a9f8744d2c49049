/* depthwise_conv2d without the DSP extension. Weights are [channel][tap], so that a channel's taps lie in a row. Rows of
 * windows that reach outside the image take the zero point there, which the folded bias expects. */
#include "kernels.h"
#include "requantize.h"
#include "thumb1.h"

#if BF_WITH_PLAIN
/* Any window; what lies outside the image is the zero point. */
static int32_t window_at_edge(const struct bf_window *op, const int8_t *image, const int8_t *w, int32_t y, int32_t x,
                              int32_t bias)
{
    uint32_t sum = (uint32_t)bias;
    for (int32_t i = y; i < y + op->kernel_h; i++) {
        for (int32_t j = x; j < x + op->kernel_w; j++) {
            int inside = i >= 0 && i < op->in_h && j >= 0 && j < op->in_w;
            sum += (uint32_t)(*w++ * (inside ? image[(i * op->in_w + j) * op->in_c] : op->in_zero));
        }
    }
    return (int32_t)sum;
}

/* Four windows inside the image, `step` bytes apart. */
struct taps {
    uint32_t pixel, row, pitch; /* bytes from tap to tap, of a row of taps, from row to row */
    uint32_t rows, step;
};

/* sums[0..3] = sums[0] + products of the weights with four windows, the first of which begins at `first`. */
#if defined(__ARM_ARCH_6M__) && !defined(BF_NO_ASSEMBLY)
#define PRODUCT(window, sum) "ldrsb r7, [" #window ", r0]\n" "muls r7, r6\n" "add " #sum ", r7\n"
/* r0 the tap's bytes from the window's begin, r1 weights, r2-r5 windows, r6 a weight, r7 work; sums in r8-r11, where only
 * additions reach; r12 pixel, r14 the row's end. */
__attribute__((naked, noinline)) static void window_four(__attribute__((unused)) const struct taps *taps,
                                                         __attribute__((unused)) const int8_t *weights,
                                                         __attribute__((unused)) const int8_t *first,
                                                         __attribute__((unused)) int32_t sums[4])
{
    __asm volatile(
        BF_FOUR_SUMS
        "ldr r3, [r0]\n"
        "ldr r4, [r0, #4]\n"
        "ldr r5, [r0, #8]\n"
        "ldr r6, [r0, #12]\n"
        "ldr r7, [r0, #16]\n"
        "mov r12, r3\n"
        "mov r14, r4\n"
        "subs r4, r5, r4\n" /* from a row's end to the next row */
        "push {r4, r5, r6}\n"
        "movs r0, #0\n"
        "adds r3, r2, r7\n"
        "adds r4, r3, r7\n"
        "adds r5, r4, r7\n"
        "1:\n"
        "ldrb r6, [r1]\n"
        "sxtb r6, r6\n"
        "adds r1, r1, #1\n"
        PRODUCT(r2, r8) PRODUCT(r3, r9) PRODUCT(r4, r10) PRODUCT(r5, r11)
        "add r0, r12\n"
        "cmp r0, r14\n"
        "bne 1b\n"
        "pop {r6, r7}\n"
        "add r0, r6\n"
        "add r14, r7\n"
        "sub sp, #8\n"
        "ldr r7, [sp, #8]\n"
        "subs r7, r7, #1\n"
        "str r7, [sp, #8]\n"
        "bne 1b\n"
        "add sp, #12\n"
        BF_RETURN_SUMS);
}
#else
static void window_four(const struct taps *taps, const int8_t *weights, const int8_t *first, int32_t sums[4])
{
    uint32_t s0 = (uint32_t)sums[0], s1 = s0, s2 = s0, s3 = s0, step = taps->step;
    for (uint32_t row = taps->rows; row > 0; row--, first += taps->pitch) {
        const int8_t *p0 = first, *p1 = p0 + step, *p2 = p1 + step, *p3 = p2 + step;
        for (uint32_t at = 0; at != taps->row; at += taps->pixel) {
            int32_t w = *weights++;
            s0 += (uint32_t)(p0[at] * w);
            s1 += (uint32_t)(p1[at] * w);
            s2 += (uint32_t)(p2[at] * w);
            s3 += (uint32_t)(p3[at] * w);
        }
    }
    sums[0] = (int32_t)s0, sums[1] = (int32_t)s1, sums[2] = (int32_t)s2, sums[3] = (int32_t)s3;
}
#endif

/* A direction of the image. */
struct axis {
    int32_t in, out, kernel, stride, pad;
    uint32_t in_step, out_step; /* bytes between neighbours */
};

/* How many windows from `position` on lie inside. */
static uint32_t inside_from(const struct axis *axis, int32_t position)
{
    int32_t last = axis->in - axis->kernel;
    uint32_t count = 0;
    for (; position >= 0 && position <= last; position += axis->stride) {
        count++;
    }
    return count;
}

/* Four outputs at a time go along the longer side of the image, where all four windows lie inside. */
static void plain(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output)
{
    const int8_t *weights = (const int8_t *)(program + op->weights);
    const struct bf_channel *channels = (const struct bf_channel *)(program + op->channels);
    uint32_t taps = (uint32_t)op->kernel_h * op->kernel_w, pitch = (uint32_t)op->in_w * op->in_c;
    uint32_t copies = op->out_c / op->in_c; /* the channel multiplier */
    struct axis down = {op->in_h, op->out_h, op->kernel_h, op->stride_h, op->pad_top, pitch, (uint32_t)op->out_w * op->out_c};
    struct axis right = {op->in_w, op->out_w, op->kernel_w, op->stride_w, op->pad_left, op->in_c, op->out_c};
    int turned = op->out_h > op->out_w;
    struct axis outer = turned ? right : down, inner = turned ? down : right;
    struct taps four = {op->in_c, (uint32_t)op->kernel_w * op->in_c, pitch, op->kernel_h, (uint32_t)inner.stride * inner.in_step};
    /* The windows that lie inside in the inner direction: `before` are not, then come `middle`. */
    uint32_t before = (uint32_t)((inner.pad + inner.stride - 1) / inner.stride);
    uint32_t middle = inside_from(&inner, (int32_t)before * inner.stride - inner.pad);
    middle = before + middle > (uint32_t)inner.out ? (before < (uint32_t)inner.out ? (uint32_t)inner.out - before : 0) : middle;
    for (uint32_t c = 0, in_c = 0, copy = 0; c < op->out_c; c++) {
        const int8_t *w = weights + c * taps, *image = input + in_c;
        const struct bf_channel *channel = channels + c;
        for (int32_t i = 0, at = -outer.pad; i < outer.out; i++, at += outer.stride) {
            int8_t *line = output + c + (uint32_t)i * outer.out_step;
            int fours = middle >= 4 && at >= 0 && at + outer.kernel <= outer.in;
            for (uint32_t j = 0; j < (uint32_t)inner.out;) {
                int32_t sums[4], position = (int32_t)j * inner.stride - inner.pad;
                uint32_t count = 1;
                sums[0] = channel->bias;
                if (fours && j >= before && j < before + middle) {
                    if (j + 4 > before + middle) { /* the last four overlap those before */
                        j = before + middle - 4;
                        position = (int32_t)j * inner.stride - inner.pad;
                    }
                    count = 4;
                    window_four(&four, w, image + (uint32_t)at * outer.in_step + (uint32_t)position * inner.in_step, sums);
                } else {
                    sums[0] = window_at_edge(op, image, w, turned ? position : at, turned ? at : position, channel->bias);
                }
                int8_t *to = line + j * inner.out_step;
                for (uint32_t k = 0; k < count; k++, to += inner.out_step) {
                    *to = (int8_t)bf_clamp(bf_requantize(sums[k], channel, op->out_zero), op->least, op->greatest);
                }
                j += count;
            }
        }
        if (++copy == copies) {
            copy = 0;
            in_c++;
        }
    }
}
#endif

void bf_depthwise_conv2d(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                         void *scratch)
{
#if BF_WITH_PLAIN
    if (op->head.kernel == BF_KERNEL_PLAIN) {
        plain(op, program, input, output);
    }
#endif
#if BF_WITH_DSP
    if (op->head.kernel == BF_KERNEL_DSP_3X3) {
        bf_depthwise_3x3(op, program, input, output, scratch);
    } else if (op->head.kernel == BF_KERNEL_DSP_LINE) {
        bf_depthwise_line(op, program, input, output, scratch);
    } else if (op->head.kernel == BF_KERNEL_DSP_PLANES) {
        bf_depthwise_planes(op, program, input, output, scratch);
    }
#else
    (void)scratch;
#endif
}
