/* average_pool and max_pool over NHWC. Padding is not counted: each window is cut to the image. Bit-identical to
 * TensorFlow Lite Micro (reference/integer_ops/pooling.h): the mean of raw values, halves away from zero. */
#include "kernels.h"

struct cut {
    const int8_t *first; /* channel 0 of the window's first pixel inside the image */
    uint32_t rows, columns;
};

static struct cut cut_window(const struct bf_window *op, const int8_t *input, uint32_t y, uint32_t x)
{
    int32_t top = (int32_t)(y * op->stride_h) - op->pad_top, left = (int32_t)(x * op->stride_w) - op->pad_left;
    int32_t bottom = top + op->kernel_h, right = left + op->kernel_w;
    struct cut cut;

    top = top < 0 ? 0 : top;
    left = left < 0 ? 0 : left;
    bottom = bottom > op->in_h ? op->in_h : bottom;
    right = right > op->in_w ? op->in_w : right;
    cut.rows = (uint32_t)(bottom - top);
    cut.columns = (uint32_t)(right - left);
    cut.first = input + ((uint32_t)top * op->in_w + (uint32_t)left) * op->in_c;
    return cut;
}

static inline int32_t clamp(int32_t value, int32_t least, int32_t greatest)
{
    return value < least ? least : value > greatest ? greatest : value;
}

/* floor(dividend / divisor) below 2^25, without the division that a Cortex-M0+ lacks. */
static uint32_t divide(uint32_t dividend, uint32_t divisor)
{
    uint32_t quotient = 0, bit;

    for (bit = 25; bit-- > 0;)
        if (dividend >> bit >= divisor) {
            dividend -= divisor << bit;
            quotient |= 1u << bit;
        }
    return quotient;
}

/* Up to here one multiplication by 2^24 / n + 1 gives v / n exactly for v <= 128.5 n: the error n * v stays below 2^24. */
#define MOST_BY_RECIPROCAL 256u

/* Mean of `count` values, halves away from zero. `reciprocal` is that of count, or 0 where it would not be exact. */
static inline int32_t mean(int32_t sum, uint32_t count, uint32_t reciprocal)
{
    uint32_t size = (uint32_t)(sum < 0 ? -sum : sum) + count / 2, quotient;

    quotient = reciprocal ? size * reciprocal >> 24 : divide(size, count);
    return sum < 0 ? -(int32_t)quotient : (int32_t)quotient;
}

/* Sums of four channels at once: bytes as unsigned (value + 128) in 16-bit halves, which hold 257 of them. */
static void average_words(const struct bf_window *op, struct cut cut, uint32_t reciprocal, int8_t *output)
{
    uint32_t pitch = op->in_c / 4u, down = (op->in_w - cut.columns) * pitch, count = cut.rows * cut.columns;
    int32_t centre = (int32_t)(count * 128u), least = op->least, greatest = op->greatest;
    const uint32_t *first = (const uint32_t *)(const void *)cut.first;
    uint32_t group, row, column, lane;

    for (group = 0; group < pitch; group++) {
        const uint32_t *at = first + group;
        uint32_t even = 0, odd = 0;
        int32_t sums[4];

        for (row = cut.rows; row > 0; row--, at += down)
            for (column = cut.columns; column > 0; column--, at += pitch) {
                uint32_t word = *at ^ 0x80808080u;
                even += word & 0x00ff00ffu;
                odd += word >> 8 & 0x00ff00ffu;
            }
        sums[0] = (int32_t)(even & 0xffffu);
        sums[1] = (int32_t)(odd & 0xffffu);
        sums[2] = (int32_t)(even >> 16);
        sums[3] = (int32_t)(odd >> 16);
        for (lane = 0; lane < 4; lane++)
            *output++ = (int8_t)clamp(mean(sums[lane] - centre, count, reciprocal), least, greatest);
    }
}

static void average_bytes(const struct bf_window *op, struct cut cut, uint32_t reciprocal, int8_t *output)
{
    uint32_t pitch = op->in_c, down = (op->in_w - cut.columns) * pitch, count = cut.rows * cut.columns;
    uint32_t channel, row, column;

    for (channel = 0; channel < pitch; channel++) {
        const int8_t *at = cut.first + channel;
        int32_t sum = 0;

        for (row = cut.rows; row > 0; row--, at += down)
            for (column = cut.columns; column > 0; column--, at += pitch)
                sum += *at;
        *output++ = (int8_t)clamp(mean(sum, count, reciprocal), op->least, op->greatest);
    }
}

void bf_average_pool(const struct bf_window *op, const int8_t *input, int8_t *output)
{
    uint32_t y, x, counted = 0, reciprocal = 0;

    for (y = 0; y < op->out_h; y++)
        for (x = 0; x < op->out_w; x++, output += op->in_c) {
            struct cut cut = cut_window(op, input, y, x);
            uint32_t count = cut.rows * cut.columns;

            if (count != counted) { /* differs at the borders only */
                counted = count;
                reciprocal = count <= MOST_BY_RECIPROCAL ? divide(1u << 24, count) + 1 : 0;
            }
            if (op->in_c % 4 == 0 && reciprocal)
                average_words(op, cut, reciprocal, output);
            else
                average_bytes(op, cut, reciprocal, output);
        }
}

#if defined(__ARM_FEATURE_DSP)
/* The larger of each of four signed bytes. Two instructions that talk through the GE flags, so in one piece. */
static inline uint32_t larger_bytes(uint32_t a, uint32_t b)
{
    uint32_t result;

    __asm__("ssub8 %0, %1, %2\n\tsel %0, %1, %2" : "=&r"(result) : "r"(a), "r"(b));
    return result;
}
#else
static inline uint32_t larger_bytes(uint32_t a, uint32_t b)
{
    uint32_t result = 0, shift;

    for (shift = 0; shift < 32; shift += 8) {
        uint32_t x = a >> shift & 0xffu, y = b >> shift & 0xffu;
        result |= ((x ^ 0x80u) > (y ^ 0x80u) ? x : y) << shift;
    }
    return result;
}
#endif

static void largest_words(const struct bf_window *op, struct cut cut, int8_t *output)
{
    uint32_t pitch = op->in_c / 4u, down = (op->in_w - cut.columns) * pitch;
    uint32_t least = (uint8_t)op->least * 0x01010101u, greatest = (uint8_t)op->greatest * 0x01010101u;
    const uint32_t *first = (const uint32_t *)(const void *)cut.first;
    uint32_t *to = (uint32_t *)(void *)output;
    uint32_t group, row, column;

    for (group = 0; group < pitch; group++) {
        const uint32_t *at = first + group;
        uint32_t best = least; /* the clamp from below comes for nothing */

        for (row = cut.rows; row > 0; row--, at += down)
            for (column = cut.columns; column > 0; column--, at += pitch)
                best = larger_bytes(best, *at);
        if (op->greatest < 127) /* min(a, b) = ~max(~a, ~b) */
            best = ~larger_bytes(~best, ~greatest);
        *to++ = best;
    }
}

static void largest_bytes(const struct bf_window *op, struct cut cut, int8_t *output)
{
    uint32_t pitch = op->in_c, down = (op->in_w - cut.columns) * pitch, channel, row, column;

    for (channel = 0; channel < pitch; channel++) {
        const int8_t *at = cut.first + channel;
        int32_t best = op->least;

        for (row = cut.rows; row > 0; row--, at += down)
            for (column = cut.columns; column > 0; column--, at += pitch)
                best = *at > best ? *at : best;
        *output++ = (int8_t)(best > op->greatest ? op->greatest : best);
    }
}

void bf_max_pool(const struct bf_window *op, const int8_t *input, int8_t *output)
{
    uint32_t y, x;

    for (y = 0; y < op->out_h; y++)
        for (x = 0; x < op->out_w; x++, output += op->in_c) {
            struct cut cut = cut_window(op, input, y, x);

            if (op->in_c % 4 == 0 && BF_WITH_DSP)
                largest_words(op, cut, output);
            else
                largest_bytes(op, cut, output);
        }
}
