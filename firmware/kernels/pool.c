/* average_pool and max_pool over NHWC. Padding is not counted: each window is cut to the image. Bit-identical to
 * TensorFlow Lite Micro (reference/integer_ops/pooling.h): the mean of raw values, halves away from zero. */
#include "dsp.h"
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

/* Mean of `count` values, halves away from zero; `reciprocal` is that of count. */
static inline int32_t mean(int32_t sum, uint32_t half, uint32_t reciprocal)
{
    int32_t sign = sum >> 31;
    int32_t quotient = (int32_t)(((uint32_t)((sum ^ sign) - sign) + half) * reciprocal >> 24);

    return (quotient ^ sign) - sign;
}

/* The same of any count. */
static int32_t exact_mean(int32_t sum, uint32_t count)
{
    uint32_t quotient = divide((uint32_t)(sum < 0 ? -sum : sum) + count / 2, count);

    return sum < 0 ? -(int32_t)quotient : (int32_t)quotient;
}

/* Four channels of a window's pixels, even and odd ones as pairs of 16 bits. With the DSP extension signed: 256 times -128
 * fits. Else from 0 on (value + 128), which 16 bits hold as well. */
struct sums {
    uint32_t even, odd;
};

#if BF_WITH_DSP
#define CENTRE 0
static inline struct sums add_word(struct sums sums, uint32_t word)
{
    return (struct sums){bf_sxtab16(sums.even, word), bf_sxtab16_ror8(sums.odd, word)};
}
#else
#define CENTRE 128
static inline struct sums add_word(struct sums sums, uint32_t word)
{
    word ^= 0x80808080u;
    return (struct sums){sums.even + (word & 0x00ff00ffu), sums.odd + (word >> 8 & 0x00ff00ffu)};
}
#endif

static inline int32_t lane(uint32_t pair)
{
    return CENTRE ? (int32_t)(pair & 0xffffu) : (int16_t)pair;
}

static void average_words(const struct bf_window *op, struct cut cut, uint32_t reciprocal, int8_t *output)
{
    uint32_t pitch = op->in_c / 4u, count = cut.rows * cut.columns, half = count / 2, group;
    int32_t centre = (int32_t)count * CENTRE;
    const uint32_t *first = (const uint32_t *)(const void *)cut.first;

    if (cut.columns == op->in_w) { /* rows follow each other: one long one */
        cut.columns = count;
        cut.rows = 1;
    }
    for (group = 0; group < pitch; group++, output += 4) {
        const uint32_t *row = first + group;
        struct sums sums = {0, 0};
        uint32_t rows, columns;

        for (rows = cut.rows; rows > 0; rows--, row += op->in_w * pitch) {
            const uint32_t *at = row;

            for (columns = cut.columns; columns >= 4; columns -= 4, at += 4 * pitch) {
                uint32_t a = at[0], b = at[pitch], c = at[2 * pitch], d = at[3 * pitch];
                sums = add_word(add_word(add_word(add_word(sums, a), b), c), d);
            }
            for (; columns > 0; columns--, at += pitch)
                sums = add_word(sums, *at);
        }
        output[0] = (int8_t)mean(lane(sums.even) - centre, half, reciprocal);
        output[1] = (int8_t)mean(lane(sums.odd) - centre, half, reciprocal);
        output[2] = (int8_t)mean(lane(sums.even >> 16) - centre, half, reciprocal);
        output[3] = (int8_t)mean(lane(sums.odd >> 16) - centre, half, reciprocal);
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
        *output++ = (int8_t)(reciprocal ? mean(sum, count / 2, reciprocal) : exact_mean(sum, count));
    }
}

void bf_average_pool(const struct bf_window *op, const int8_t *input, int8_t *output)
{
    uint32_t y, x, counted = 0, reciprocal = 0;
    int8_t *all = output;

    for (y = 0; y < op->out_h; y++)
        for (x = 0; x < op->out_w; x++, output += op->in_c) {
            struct cut cut = cut_window(op, input, y, x);
            uint32_t count = cut.rows * cut.columns;

            if (count != counted) { /* differs at the borders only */
                counted = count;
                reciprocal = count <= MOST_BY_RECIPROCAL ? divide(1u << 24, count) + 1 : 0;
            }
            if (op->in_c % 4 == 0 && reciprocal) /* at most 256 pixels */
                average_words(op, cut, reciprocal, output);
            else
                average_bytes(op, cut, reciprocal, output);
        }
    bf_clamp_all(all, (uint32_t)(output - all), op->least, op->greatest);
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
