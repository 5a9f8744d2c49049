/* conv2d without the DSP extension. Windows are copied to columns of int8 (with the zero point outside the image, which
 * the folded bias expects), then two channels meet two pixels: four loads for four products. A Cortex-M0+ has no registers
 * for that: there one channel meets four pixels, whose sums lie in the high registers that only additions can reach. */
#include "kernels.h"
#include "requantize.h"
#include "thumb1.h"

#if BF_WITH_PLAIN
static void copy_bytes(int8_t *to, const int8_t *from, uint32_t count)
{
    for (; count > 0; count--) {
        *to++ = *from++;
    }
}

static void fill_bytes(int8_t *to, int8_t value, uint32_t count)
{
    for (; count > 0; count--) {
        *to++ = value;
    }
}

/* The window of one output pixel, row by row. */
static void copy_window(const struct bf_window *op, const int8_t *input, int32_t y, int32_t x, int8_t *column)
{
    int32_t row_bytes = op->kernel_w * op->in_c;
    int32_t left = x < 0 ? -x : 0;
    int32_t right = x + op->kernel_w > op->in_w ? x + op->kernel_w - op->in_w : 0;
    if (left > op->kernel_w) {
        left = op->kernel_w;
    }
    if (right > op->kernel_w - left) {
        right = op->kernel_w - left;
    }
    for (int32_t end = y + op->kernel_h; y < end; y++, column += row_bytes) {
        if (y < 0 || y >= op->in_h) {
            fill_bytes(column, op->in_zero, (uint32_t)row_bytes);
            continue;
        }
        uint32_t before = (uint32_t)(left * op->in_c), after = (uint32_t)(right * op->in_c);
        uint32_t inside = (uint32_t)row_bytes - before - after;
        fill_bytes(column, op->in_zero, before);
        copy_bytes(column + before, input + (y * op->in_w + x + left) * op->in_c, inside);
        fill_bytes(column + before + inside, op->in_zero, after);
    }
}

/* Two channels (weights w0, w1) for two pixels (columns p0, p1). Sums wrap, as everywhere. */
static inline void dot_2x2(const int8_t *w0, const int8_t *w1, const int8_t *p0, const int8_t *p1, uint32_t taps,
                           int32_t sums[4])
{
    uint32_t s00 = (uint32_t)sums[0], s01 = (uint32_t)sums[1], s10 = (uint32_t)sums[2], s11 = (uint32_t)sums[3];
    for (uint32_t t = 0; t < taps; t++) {
        int32_t a = p0[t], b = p1[t], v = w0[t], w = w1[t];
        s00 += (uint32_t)(a * v);
        s01 += (uint32_t)(b * v);
        s10 += (uint32_t)(a * w);
        s11 += (uint32_t)(b * w);
    }
    sums[0] = (int32_t)s00, sums[1] = (int32_t)s01, sums[2] = (int32_t)s10, sums[3] = (int32_t)s11;
}

#if defined(__ARM_ARCH_6M__) && !defined(BF_NO_ASSEMBLY)
#define FOURS 1
#define TAP                                        \
    "ldrsb r6, [r1, r0]\n"                         \
    "ldrsb r7, [r2, r0]\n" "muls r7, r6\n" "add r8, r7\n"  \
    "ldrsb r7, [r3, r0]\n" "muls r7, r6\n" "add r9, r7\n"  \
    "ldrsb r7, [r4, r0]\n" "muls r7, r6\n" "add r10, r7\n" \
    "ldrsb r7, [r5, r0]\n" "muls r7, r6\n" "add r11, r7\n" \
    "adds r0, #1\n"

/* sums[0..3] = sums[0] + products of one channel with four columns that follow each other. r1-r5 point behind the weights and
 * the columns, r0 counts up to 0. */
__attribute__((naked, noinline)) static void dot_1x4(__attribute__((unused)) const int8_t *weights,
                                                     __attribute__((unused)) const int8_t *columns,
                                                     __attribute__((unused)) uint32_t taps,
                                                     __attribute__((unused)) int32_t sums[4])
{
    __asm volatile(
        BF_FOUR_SUMS
        "adds r0, r0, r2\n" /* the weights' end */
        "mov r7, r0\n"
        "rsbs r0, r2, #0\n"
        "mov r6, r2\n"
        "adds r2, r1, r6\n"
        "adds r3, r2, r6\n"
        "adds r4, r3, r6\n"
        "adds r5, r4, r6\n"
        "mov r1, r7\n"
        "lsrs r6, r6, #1\n"
        "bcs 2f\n"
        "1:\n"
        TAP
        "2:\n"
        TAP
        "bne 1b\n"
        BF_RETURN_SUMS);
}

/* One channel after the other, four columns at a time; the last four overlap those before. `output` is the first pixel's. */
static void run_fours(const struct bf_window *op, const int8_t *weights, const struct bf_channel *channel,
                      const int8_t *columns, uint32_t taps, uint32_t count, int8_t *output)
{
    for (uint32_t c = op->out_c; c > 0; c--, weights += taps, channel++, output++) {
        for (uint32_t i = 0; i < count; i += 4) {
            i = i + 4 > count ? count - 4 : i;
            int32_t sums[4];
            int8_t *to = output + i * op->out_c;
            sums[0] = channel->bias;
            dot_1x4(weights, columns + i * taps, taps, sums);
            for (uint32_t k = 0; k < 4; k++, to += op->out_c) {
                *to = (int8_t)bf_clamp(bf_requantize(sums[k], channel, op->out_zero), op->least, op->greatest);
            }
        }
    }
}
#else
#define FOURS 0
static void run_fours(const struct bf_window *op, const int8_t *weights, const struct bf_channel *channel,
                      const int8_t *columns, uint32_t taps, uint32_t count, int8_t *output)
{
    (void)op, (void)weights, (void)channel, (void)columns, (void)taps, (void)count, (void)output;
}
#endif

static void plain(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                  int8_t *scratch)
{
    const int8_t *weights = (const int8_t *)(program + op->weights);
    const struct bf_channel *channels = (const struct bf_channel *)(program + op->channels);
    uint32_t taps = (uint32_t)op->kernel_h * op->kernel_w * op->in_c;
    uint32_t pixels = (uint32_t)op->out_h * op->out_w;
    int32_t y = -(int32_t)op->pad_top, x = -(int32_t)op->pad_left, last_x = x + (op->out_w - 1) * op->stride_w;
    for (uint32_t first = 0; first < pixels; first += op->chunk) {
        uint32_t count = pixels - first < op->chunk ? pixels - first : op->chunk;
        const int8_t *columns = input + first * taps; /* a 1x1 window with stride 1 has its columns already */
        if (op->steps == 0) {
            columns = scratch;
            for (uint32_t i = 0; i < count; i++) {
                copy_window(op, input, y, x, scratch + i * taps);
                x += op->stride_w;
                if (x > last_x) {
                    x = -(int32_t)op->pad_left;
                    y += op->stride_h;
                }
            }
        }
        if (FOURS && count >= 4) {
            run_fours(op, weights, channels, columns, taps, count, output + first * op->out_c);
            continue;
        }
        /* Where a second channel or pixel is missing, the first one is done twice. */
        for (uint32_t c = 0; c < op->out_c; c += 2) {
            uint32_t other_c = c + 1 < op->out_c ? c + 1 : c;
            const struct bf_channel *c0 = channels + c, *c1 = channels + other_c;
            for (uint32_t i = 0; i < count; i += 2) {
                uint32_t other_i = i + 1 < count ? i + 1 : i;
                int32_t sums[4] = {c0->bias, c0->bias, c1->bias, c1->bias};
                dot_2x2(weights + c * taps, weights + other_c * taps, columns + i * taps, columns + other_i * taps,
                        taps, sums);
                int8_t *o0 = output + (first + i) * op->out_c, *o1 = output + (first + other_i) * op->out_c;
                o0[c] = (int8_t)bf_clamp(bf_requantize(sums[0], c0, op->out_zero), op->least, op->greatest);
                o1[c] = (int8_t)bf_clamp(bf_requantize(sums[1], c0, op->out_zero), op->least, op->greatest);
                o0[other_c] = (int8_t)bf_clamp(bf_requantize(sums[2], c1, op->out_zero), op->least, op->greatest);
                o1[other_c] = (int8_t)bf_clamp(bf_requantize(sums[3], c1, op->out_zero), op->least, op->greatest);
            }
        }
    }
}
#endif

void bf_conv2d(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output, void *scratch)
{
#if BF_WITH_PLAIN
    if (op->head.kernel == BF_KERNEL_PLAIN) {
        plain(op, program, input, output, scratch);
    }
#endif
#if BF_WITH_DSP
    if (op->head.kernel == BF_KERNEL_DSP_COLUMNS) {
        bf_conv2d_columns(op, program, input, output, scratch);
    } else if (op->head.kernel == BF_KERNEL_DSP_PIXEL) {
        bf_pixel(op, program, input, output, scratch);
    } else if (op->head.kernel == BF_KERNEL_DSP_WINOGRAD) {
        bf_conv2d_winograd(op, program, input, output, scratch);
    }
#endif
}

int bf_has_weighted(uint8_t kind, uint8_t kernel)
{
    if (kernel == BF_KERNEL_PLAIN) {
        return BF_WITH_PLAIN;
    }
    if (!BF_WITH_DSP) {
        return 0;
    }
    switch (kind) {
    case BF_CONV2D:
        return kernel == BF_KERNEL_DSP_COLUMNS || kernel == BF_KERNEL_DSP_PIXEL || kernel == BF_KERNEL_DSP_WINOGRAD;
    case BF_DEPTHWISE:
        return kernel == BF_KERNEL_DSP_PLANES || kernel == BF_KERNEL_DSP_3X3 || kernel == BF_KERNEL_DSP_LINE;
    case BF_FULLY_CONNECTED:
        return kernel == BF_KERNEL_DSP_PIXEL;
    }
    return 0;
}
