/* average_pool and max_pool over NHWC. Padding is not counted: each window is cut to the image. Bit-identical to
 * TensorFlow Lite Micro (reference/integer_ops/pooling.h): the mean of raw values, halves away from zero.
 *
 * With the DSP extension and channels by fours, a row of windows at once: pixels come by fours, each taken at its place
 * in all windows, four channels a word. The largest of more than four pixels is found in several passes, each with the
 * result so far as its first pixel. The mean of one, two or four pixels is that of four, where each may come again. */
#include "dsp.h"
#include "kernels.h"

/* To divide sums of `count` values: a sum and `bias` are n / 2 above 128 n more, and so not negative; ties of negative sums
 * round down, which -1 does where n is even. */
struct divisor {
    uint32_t count, reciprocal; /* 0: too many for one */
    uint32_t bias;
    uint32_t tie; /* all ones or 0 */
};

/* Windows of a row that are cut alike. */
struct windows {
    const int8_t *first; /* channel 0 of the first pixel inside the image, of the first window */
    uint32_t rows, columns;
    uint32_t count;
    uint32_t step; /* bytes from a window to the next one */
    struct divisor divisor; /* of the last mean */
};

/* `count` places from `at` on that are inside 0 .. size - 1; `at` moves to the first of them. */
static inline uint32_t inside(int32_t *at, uint32_t count, uint32_t size)
{
    int32_t end = *at + (int32_t)count;

    *at = *at < 0 ? 0 : *at;
    return (uint32_t)((end > (int32_t)size ? (int32_t)size : end) - *at);
}

typedef void pool(const struct bf_window *op, struct windows *windows, int8_t *output);

static __attribute__((noinline)) void run_rows(const struct bf_window *op, const int8_t *input, int8_t *output,
                                               pool *run)
{
    uint32_t pixel = op->in_c, x, y;
    int8_t *all = output;
    struct windows windows;

    windows.step = op->stride_w * pixel;
    windows.divisor.count = 0;
    for (y = 0; y < op->out_h; y++) {
        int32_t top = (int32_t)(y * op->stride_h) - op->pad_top;

        windows.rows = inside(&top, op->kernel_h, op->in_h);
        for (x = 0; x < op->out_w; x += windows.count, output += windows.count * pixel) {
            int32_t left = (int32_t)(x * op->stride_w) - op->pad_left, end = left + op->kernel_w;

            windows.count = 1;
            if (BF_WITH_DSP && left >= 0)
                while (x + windows.count < op->out_w && (end += op->stride_w) <= op->in_w)
                    windows.count++;
            windows.columns = inside(&left, op->kernel_w, op->in_w);
            windows.first = input + ((uint32_t)top * op->in_w + (uint32_t)left) * pixel;
            run(op, &windows, output);
        }
    }
    bf_clamp_all(all, (uint32_t)(output - all), op->least, op->greatest);
}

#if BF_WITH_DSP
/* Four pixels of each window, in the order in which the assembly reads them. */
struct quads {
    const int8_t *at[4]; /* of the first window */
    int8_t *output;
    uint32_t windows, words;
    uint32_t next_first, next; /* bytes from the end of a pixel to the next window's: of the first one, of the others */
};

#if defined(__ARM_FEATURE_DSP) && !defined(BF_NO_ASSEMBLY)
/* r0-r3 pixels, r4 output, r5 windows, r6 words, r9-r12 and r14 work. */
#define RUN_QUADS(name, constants, combine)                                                          \
    __attribute__((naked, noinline)) static void name(__attribute__((unused)) const struct quads *quads) \
    {                                                                                                \
        __asm volatile(                                                                              \
            ".syntax unified\n"                                                                      \
            "push {r0, r4-r11, lr}\n"                                                                \
            constants                                                                                \
            "ldm r0, {r0-r6}\n"                                                                      \
            "1:\n"                                                                                   \
            "ldr r9, [r0], #4\n"                                                                     \
            "ldr r10, [r1], #4\n"                                                                    \
            "ldr r11, [r2], #4\n"                                                                    \
            "ldr r12, [r3], #4\n"                                                                    \
            combine                                                                                  \
            "subs r6, r6, #1\n"                                                                      \
            "str r9, [r4], #4\n"                                                                     \
            "bne 1b\n"                                                                               \
            "ldr r9, [sp]\n"                                                                         \
            "ldr r6, [r9, #24]\n"                                                                    \
            "ldr r10, [r9, #28]\n"                                                                   \
            "ldr r11, [r9, #32]\n"                                                                   \
            "add r0, r0, r10\n"                                                                      \
            "add r1, r1, r11\n"                                                                      \
            "add r2, r2, r11\n"                                                                      \
            "add r3, r3, r11\n"                                                                      \
            "subs r5, r5, #1\n"                                                                      \
            "bne 1b\n"                                                                               \
            "pop {r0, r4-r11, pc}\n");                                                               \
    }
/* SSUB8 sets the flags that SEL reads. */
#define LARGER(a, b) "ssub8 r14, " #a ", " #b "\nsel " #a ", " #a ", " #b "\n"
RUN_QUADS(largest_of_four, "", LARGER(r9, r10) LARGER(r11, r12) LARGER(r9, r11))
/* Even and odd channels as pairs of 16 bits, 2 added or, to negative sums, 1: SADD16 sets the flags that SEL reads. */
#define ROUND(sums) "sadd16 r10, " #sums ", " #sums "\nsel r10, r7, r8\nsadd16 " #sums ", " #sums ", r10\n"
RUN_QUADS(mean_of_four, "mov r7, #0x00020002\nmov r8, #0x00010001\n",
          "sxtb16 r14, r9, ror #8\n"
          "sxtb16 r9, r9\n"
          "sxtab16 r14, r14, r10, ror #8\n"
          "sxtab16 r9, r9, r10\n"
          "sxtab16 r14, r14, r11, ror #8\n"
          "sxtab16 r9, r9, r11\n"
          "sxtab16 r14, r14, r12, ror #8\n"
          "sxtab16 r9, r9, r12\n"
          ROUND(r14) ROUND(r9)
          "lsl r14, r14, #6\n"
          "lsr r9, r9, #2\n"
          "and r14, r14, #0xff00ff00\n"
          "uxtb16 r9, r9\n"
          "orr r9, r9, r14\n")
#else
static inline __attribute__((always_inline)) void run_quads(const struct quads *quads, int mean)
{
    struct quads q = *quads;

    for (; q.windows > 0; q.windows--) {
        for (uint32_t i = 0; i < 4 * q.words; i++) {
            int32_t a = *q.at[0]++, b = *q.at[1]++, c = *q.at[2]++, d = *q.at[3]++, sum = a + b + c + d;
            int32_t left = a > b ? a : b, right = c > d ? c : d;

            *q.output++ = (int8_t)(mean ? (sum + 2 + (sum >> 31)) >> 2 : left > right ? left : right);
        }
        for (uint32_t i = 0; i < 4; i++)
            q.at[i] += i == 0 ? q.next_first : q.next;
    }
}

static void largest_of_four(const struct quads *quads)
{
    run_quads(quads, 0);
}

static void mean_of_four(const struct quads *quads)
{
    run_quads(quads, 1);
}
#endif

/* Four pixels at a time; at the end they begin anew. */
static __attribute__((noinline)) void run_by_fours(const struct bf_window *op, const struct windows *windows,
                                                   int8_t *output, void (*run)(const struct quads *quads))
{
    uint32_t pixel = op->in_c, down = (op->in_w - windows->columns) * pixel, count = windows->rows * windows->columns;
    uint32_t taken = 0, column = 0, n = 0;
    const int8_t *next = windows->first;
    struct quads quads = {
        .output = output, .windows = windows->count, .words = pixel / 4, .next_first = windows->step - pixel,
        .next = windows->step - pixel,
    };

    while (taken < count) {
        for (; n < 4; n++) {
            quads.at[n] = next;
            next += pixel;
            if (++column == windows->columns) {
                column = 0;
                next += down;
            }
            if (++taken % count == 0)
                next = windows->first;
        }
        run(&quads);
        quads.at[0] = output; /* the result so far */
        quads.next_first = 0;
        n = 1;
    }
}
#endif

/* floor(dividend / divisor) below 2^25, without the division that a Cortex-M0+ lacks. */
static __attribute__((noinline)) uint32_t divide(uint32_t dividend, uint32_t divisor)
{
    uint32_t quotient = 0, bit;

    for (bit = 25; bit-- > 0;)
        if (dividend >> bit >= divisor) {
            dividend -= divisor << bit;
            quotient |= 1u << bit;
        }
    return quotient;
}

/* Up to here one multiplication by 2^24 / n, rounded up, gives v / n exactly for v <= 255.5 n: the error, less than v, stays
 * below 2^24 / n (there is none at n = 256), and the product below 2^32. */
#define MOST_BY_RECIPROCAL 256u

static void divide_by(struct divisor *d, uint32_t count)
{
    d->count = count;
    d->reciprocal = count <= MOST_BY_RECIPROCAL ? divide((1u << 24) + count - 1, count) : 0;
    d->bias = 128 * count + count / 2;
    d->tie = (count & 1) - 1;
}

/* Mean, halves away from zero. */
static inline int32_t mean(int32_t sum, const struct divisor *d)
{
    uint32_t shifted = (uint32_t)sum + d->bias + ((uint32_t)(sum >> 31) & d->tie);

    return (int32_t)(shifted * d->reciprocal >> 24) - 128;
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
static inline struct sums add_word(struct sums sums, uint32_t word)
{
    return (struct sums){bf_sxtab16(sums.even, word), bf_sxtab16_ror8(sums.odd, word)};
}
#else
static inline struct sums add_word(struct sums sums, uint32_t word)
{
    word ^= 0x80808080u;
    return (struct sums){sums.even + (word & 0x00ff00ffu), sums.odd + (word >> 8 & 0x00ff00ffu)};
}
#endif

#if BF_WITH_DSP
/* x + a or, where negative, x + b, of each half: SADD16 sets the flags that SEL reads. */
static inline uint32_t add_by_sign(uint32_t x, uint32_t a, uint32_t b)
{
    uint32_t result;
#if defined(__ARM_FEATURE_DSP)
    __asm__("sadd16 %0, %1, %1\n\tsel %0, %2, %3\n\tsadd16 %0, %0, %1" : "=&r"(result) : "r"(x), "r"(a), "r"(b) : "cc");
#else
    result = ((x + (x & 0x8000u ? b : a)) & 0xffffu) | ((x >> 16) + (x >> 31 ? b : a)) << 16;
#endif
    return result;
}

static inline uint32_t four_means(struct sums sums, const struct divisor *d)
{
    uint32_t a = d->bias * 0x00010001u, b = a + d->tie * 0x00010001u, reciprocal = d->reciprocal;
    uint32_t even = add_by_sign(sums.even, a, b), odd = add_by_sign(sums.odd, a, b);

    even = bf_pkhtb_asr16((even >> 16) * reciprocal, (even & 0xffffu) * reciprocal);
    odd = bf_pkhtb_asr16((odd >> 16) * reciprocal, (odd & 0xffffu) * reciprocal);
    return ((even >> 8 & 0x00ff00ffu) | (odd & 0xff00ff00u)) ^ 0x80808080u;
}
#else
static inline uint32_t lane(uint32_t sum, const struct divisor *d)
{
    return (uint32_t)mean((int32_t)(sum - 128 * d->count), d) & 0xffu;
}

static inline uint32_t four_means(struct sums sums, const struct divisor *d)
{
    return lane(sums.even & 0xffffu, d) | lane(sums.odd & 0xffffu, d) << 8 | lane(sums.even >> 16, d) << 16 |
           lane(sums.odd >> 16, d) << 24;
}
#endif

static __attribute__((noinline)) void average_words(const struct bf_window *op, const struct windows *windows,
                                                    int8_t *output)
{
    uint32_t pitch = op->in_c / 4u, down = op->in_w * pitch, high = windows->rows, wide = windows->columns, group;
    const uint32_t *first = (const uint32_t *)(const void *)windows->first;
    const struct divisor d = windows->divisor;
    uint32_t *to = (uint32_t *)(void *)output;

    if (wide == op->in_w) { /* rows follow each other: one long one */
        wide = d.count;
        high = 1;
    }
    for (group = pitch; group > 0; group--, first++) {
        const uint32_t *row = first;
        struct sums sums = {0, 0};
        uint32_t rows, columns;

        for (rows = high; rows > 0; rows--, row += down) {
            const uint32_t *at = row;

            for (columns = wide; columns >= 4; columns -= 4, at += 4 * pitch) {
                uint32_t a = at[0], b = at[pitch], c = at[2 * pitch], e = at[3 * pitch];
                sums = add_word(add_word(add_word(add_word(sums, a), b), c), e);
            }
            if (columns & 2) {
                uint32_t a = at[0], b = at[pitch];
                sums = add_word(add_word(sums, a), b);
                at += 2 * pitch;
            }
            if (columns & 1)
                sums = add_word(sums, *at);
        }
        *to++ = four_means(sums, &d);
    }
}

static __attribute__((noinline)) void average_bytes(const struct bf_window *op, const struct windows *windows,
                                                    int8_t *output)
{
    uint32_t pitch = op->in_c, high = windows->rows, wide = windows->columns, down = (op->in_w - wide) * pitch;
    uint32_t channel, row, column;
    const int8_t *first = windows->first;
    const struct divisor d = windows->divisor;

    for (channel = pitch; channel > 0; channel--) {
        const int8_t *at = first++;
        int32_t sum = 0;

        for (row = high; row > 0; row--, at += down)
            for (column = wide; column > 0; column--, at += pitch)
                sum += *at;
        *output++ = (int8_t)(d.reciprocal ? mean(sum, &d) : exact_mean(sum, d.count));
    }
}

static void average(const struct bf_window *op, struct windows *windows, int8_t *output)
{
    uint32_t left, count = windows->rows * windows->columns;

#if BF_WITH_DSP
    if (op->in_c % 4 == 0 && (count == 1 || count == 2 || count == 4)) {
        run_by_fours(op, windows, output, mean_of_four);
        return;
    }
#endif
    if (count != windows->divisor.count)
        divide_by(&windows->divisor, count);
    for (left = windows->count; left > 0; left--, windows->first += windows->step, output += op->in_c) {
        if (op->in_c % 4 == 0 && windows->divisor.reciprocal)
            average_words(op, windows, output);
        else
            average_bytes(op, windows, output);
    }
}

void bf_average_pool(const struct bf_window *op, const int8_t *input, int8_t *output)
{
    run_rows(op, input, output, average);
}

static __attribute__((noinline)) void largest_bytes(const struct bf_window *op, const struct windows *windows,
                                                    int8_t *output)
{
    uint32_t pitch = op->in_c, high = windows->rows, wide = windows->columns, down = (op->in_w - wide) * pitch;
    uint32_t channel, row, column;
    const int8_t *first = windows->first;

    for (channel = pitch; channel > 0; channel--) {
        const int8_t *at = first++;
        int32_t best = -128;

        for (row = high; row > 0; row--, at += down)
            for (column = wide; column > 0; column--, at += pitch)
                best = *at > best ? *at : best;
        *output++ = (int8_t)best;
    }
}

static void largest(const struct bf_window *op, struct windows *windows, int8_t *output)
{
    uint32_t left;

#if BF_WITH_DSP
    if (op->in_c % 4 == 0) {
        run_by_fours(op, windows, output, largest_of_four);
        return;
    }
#endif
    for (left = windows->count; left > 0; left--, windows->first += windows->step, output += op->in_c)
        largest_bytes(op, windows, output);
}

void bf_max_pool(const struct bf_window *op, const int8_t *input, int8_t *output)
{
    run_rows(op, input, output, largest);
}
