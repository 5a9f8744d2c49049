/* Windows -> columns: see columns.h. Where the rows of a window are whole words, its bytes are expanded where they lie, but
 * for rows that reach outside the image; rows of nine or three bytes (first layers) are joined on the way. Any other window
 * is first copied to `stage`. */
#include "columns.h"

#if BF_WITH_DSP
/* `words` of four bytes each. */
static inline __attribute__((always_inline)) uint32_t *bf_pack(uint32_t *to, const int8_t *from, uint32_t words,
                                                               uint32_t stride)
{
    for (; words >= 4; words -= 4, from += 16) {
        uint32_t a = bf_load32(from), b = bf_load32(from + 4), c = bf_load32(from + 8), d = bf_load32(from + 12);
        to[0] = bf_sxtb16(a);
        to[stride] = bf_sxtb16_ror8(a);
        to[2 * stride] = bf_sxtb16(b);
        to[3 * stride] = bf_sxtb16_ror8(b);
        to[4 * stride] = bf_sxtb16(c);
        to[5 * stride] = bf_sxtb16_ror8(c);
        to[6 * stride] = bf_sxtb16(d);
        to[7 * stride] = bf_sxtb16_ror8(d);
        to += 8 * stride;
    }
    for (; words > 0; words--, from += 4) {
        uint32_t a = bf_load32(from);
        to[0] = bf_sxtb16(a);
        to[stride] = bf_sxtb16_ror8(a);
        to += 2 * stride;
    }
    return to;
}

/* `words` of four times the same value. */
static __attribute__((noinline)) uint32_t *pack_value(uint32_t *to, int32_t value, uint32_t words, uint32_t stride)
{
    uint32_t pair = ((uint32_t)value & 0xffffu) | ((uint32_t)value << 16);
    for (; words > 0; words--) {
        to[0] = pair;
        to[stride] = pair;
        to += 2 * stride;
    }
    return to;
}

static __attribute__((noinline)) int8_t *copy_run(int8_t *to, const int8_t *from, uint32_t count)
{
    return bf_copy_run(to, from, count);
}

static __attribute__((noinline)) int8_t *fill_run(int8_t *to, int8_t value, uint32_t count)
{
    uint32_t word = (uint8_t)value * 0x01010101u;
    for (; count >= 4; count -= 4, to += 4) {
        bf_store32(to, word);
    }
    for (; count > 0; count--) {
        *to++ = value;
    }
    return to;
}

/* How much of a window lies outside the image. */
struct bf_edges {
    uint32_t left, right; /* columns; left + inside + right = kernel_w */
    uint32_t inside;
};

static inline struct bf_edges bf_edges_of(const struct bf_window *op, int32_t x)
{
    uint32_t width = op->kernel_w, left = x < 0 ? (uint32_t)-x : 0;
    uint32_t right = x + (int32_t)width > op->in_w ? (uint32_t)(x + (int32_t)width - op->in_w) : 0;
    struct bf_edges edges;
    edges.left = left > width ? width : left;
    edges.right = right > width - edges.left ? width - edges.left : right;
    edges.inside = width - edges.left - edges.right;
    return edges;
}

static inline __attribute__((always_inline)) uint32_t *bf_pack_word(uint32_t *to, uint32_t word, uint32_t stride)
{
    to[0] = bf_sxtb16(word);
    to[stride] = bf_sxtb16_ror8(word);
    return to + 2 * stride;
}

/* Three rows of nine bytes, which follow each other without a gap: the first layer of most networks for colour images. */
static inline __attribute__((always_inline)) void bf_pack_27(uint32_t *to, const int8_t *from, uint32_t pitch,
                                                             uint32_t stride)
{
    const int8_t *second = from + pitch, *third = second + pitch;
    to = bf_pack_word(to, bf_load32(from), stride);
    to = bf_pack_word(to, bf_load32(from + 4), stride);
    to = bf_pack_word(to, (uint8_t)from[8] | bf_load32(second) << 8, stride);
    to = bf_pack_word(to, bf_load32(second + 3), stride);
    to = bf_pack_word(to, bf_load32(second + 5) >> 16 | bf_load32(third) << 16, stride);
    to = bf_pack_word(to, bf_load32(third + 2), stride);
    bf_pack_word(to, bf_load32(third + 5) >> 8, stride);
}

/* Three rows of three bytes: the same for images in grey. All loads are inside the window's own rows, or between them. */
static inline __attribute__((always_inline)) void bf_pack_9(uint32_t *to, const int8_t *from, uint32_t pitch, uint32_t stride)
{
    uint32_t first = bf_load32(from), second = bf_load32(from + pitch), third = bf_load32(from + 2 * pitch - 1);
    to = bf_pack_word(to, (first & 0xffffffu) | second << 24, stride);
    to = bf_pack_word(to, (second >> 8 & 0xffffu) | (third << 8 & 0xffff0000u), stride);
    bf_pack_word(to, third >> 24, stride);
}

/* The same to words that are `stride` apart, smaller and slower. */
static __attribute__((noinline)) uint32_t *pack_slowly(uint32_t *to, const int8_t *from, uint32_t words, uint32_t stride)
{
    for (; words > 0; words--, from += 4) {
        to = bf_pack_word(to, bf_load32(from), stride);
    }
    return to;
}

/* A row of whole words that begins `left` bytes before the image's or ends `right` behind it: 1 to 3 of the one, 0 of the
 * other. */
static uint32_t *bf_pack_cut(uint32_t *to, const int8_t *from, uint32_t words,
                                                                   uint32_t left, uint32_t right, int8_t zero,
                                                                   uint32_t stride)
{
    uint32_t zeros = (uint8_t)zero * 0x01010101u;
    if (left > 0) {
        to = bf_pack_word(to, bf_load32(from + left) << 8 * left | zeros >> (32 - 8 * left), stride);
        return pack_slowly(to, from + 4, words - 1, stride);
    }
    to = pack_slowly(to, from, words - 1, stride);
    from += 4 * (int32_t)words - 4 - (int32_t)right;
    return bf_pack_word(to, bf_load32(from) >> 8 * right | zeros << (32 - 8 * right), stride);
}

/* Any window, to words that are `stride` apart. */
static __attribute__((noinline)) void pack_window(const struct bf_window *op, const int8_t *input, int32_t y, int32_t x,
                                                  uint32_t *to, uint32_t stride, int8_t *stage)
{
    uint32_t channels = op->in_c, pitch = op->in_w * channels, row = op->kernel_w * channels;
    const int8_t *from = input + (y * op->in_w + x) * (int32_t)channels;
    int32_t end = y + op->kernel_h;
    struct bf_edges edges = bf_edges_of(op, x);
    uint32_t left = edges.left * channels, middle = edges.inside * channels, right = edges.right * channels;
    if ((row & 3) == 0) {
        for (; y < end; y++, from += pitch) {
            if (y < 0 || y >= op->in_h) {
                to = pack_value(to, op->in_zero, row / 4, stride);
            } else if (middle == row) {
                to = pack_slowly(to, from, row / 4, stride);
            } else if ((channels & 3) == 0) {
                to = pack_value(to, op->in_zero, left / 4, stride);
                to = pack_slowly(to, from + left, middle / 4, stride);
                to = pack_value(to, op->in_zero, right / 4, stride);
            } else if (stride > 1 && left < 4 && right < 4 && (left == 0 || right == 0) && pitch >= 4) {
                to = bf_pack_cut(to, from, row / 4, left, right, op->in_zero, stride);
            } else {
                fill_run(copy_run(fill_run(stage, op->in_zero, left), from + left, middle), op->in_zero, right);
                to = pack_slowly(to, stage, row / 4, stride);
            }
        }
        return;
    }
    int8_t *at = stage;
    for (; y < end; y++, from += pitch) {
        if (y < 0 || y >= op->in_h) {
            at = fill_run(at, op->in_zero, row);
        } else {
            at = fill_run(copy_run(fill_run(at, op->in_zero, left), from + left, middle), op->in_zero, right);
        }
    }
    fill_run(at, 0, (uint32_t)(stage + 2 * op->steps - at));
    pack_slowly(to, stage, op->steps / 2u, stride);
}

void bf_pack_pixel(const struct bf_window *op, const int8_t *input, int32_t y, int32_t x, uint32_t *to, int8_t *stage)
{
    if (op->kernel_h == 1 && op->kernel_w == 1 && op->in_c % 4 == 0) { /* fully connected */
        bf_pack(to, input + (y * op->in_w + x) * op->in_c, op->in_c / 4u, 1);
    } else {
        pack_window(op, input, y, x, to, 1, stage);
    }
}

/* Keeps a compiler from making one index of several pointers, each of whose uses would then take an addition. */
#if defined(__GNUC__)
#define KEEP(pointer) __asm("" : "+r"(pointer))
#else
#define KEEP(pointer) (void)(pointer)
#endif

/* Words of three pixels that are `channels` bytes apart: loads that follow each other save a cycle each. */
static inline __attribute__((always_inline)) void load_three(const int8_t *from, uint32_t channels, uint32_t *a, uint32_t *b,
                                                             uint32_t *c)
{
#if defined(__ARM_FEATURE_DSP)
    __asm volatile("ldr %0, [%3]\n\tldr %1, [%3, %4]\n\tldr %2, [%3, %4, lsl #1]"
                   : "=&r"(*a), "=&r"(*b), "=&r"(*c) : "r"(from), "r"(channels) : "memory");
#else
    *a = bf_load32(from), *b = bf_load32(from + channels), *c = bf_load32(from + 2 * channels);
#endif
}

/* `rows` rows, `pitch` bytes apart, of four neighbouring windows of three columns with stride 1: six columns of the image,
 * each expanded once and stored for all windows that it is in. `from` is the first of them, `words` a pixel's channels / 4.
 * The first and the last may lie outside the image, where each of their words is `zeros`. */
static inline __attribute__((always_inline)) uint32_t *pack_rows(uint32_t *to, const int8_t *from, uint32_t words,
                                                                 uint32_t rows, uint32_t pitch, int has_first,
                                                                 int has_last, uint32_t zeros)
{
    uint32_t channels = 4 * words;
    for (; rows > 0; rows--, from += pitch - channels) {
        uint32_t *t0 = to, *t1 = t0 + 8 * words, *t2 = t1 + 8 * words;
        const int8_t *more = from + 3 * channels;
        for (const int8_t *end = from + channels; from != end; from += 4, more += 4, t0 += 8, t1 += 8, t2 += 8) {
            KEEP(more);
            KEEP(t0);
            KEEP(t1);
            KEEP(t2);
            uint32_t a = zeros, b, c, x, y;
            if (has_first) {
                load_three(from, channels, &a, &b, &c);
            } else {
                b = bf_load32(from + channels), c = bf_load32(from + 2 * channels);
            }
            x = bf_sxtb16(a), y = bf_sxtb16_ror8(a);
            t0[0] = x, t0[4] = y;
            x = bf_sxtb16(b), y = bf_sxtb16_ror8(b);
            t0[1] = x, t0[5] = y, t1[0] = x, t1[4] = y;
            x = bf_sxtb16(c), y = bf_sxtb16_ror8(c);
            t0[2] = x, t0[6] = y, t1[1] = x, t1[5] = y, t2[0] = x, t2[4] = y;
            if (has_last) {
                load_three(more, channels, &a, &b, &c);
            } else {
                a = bf_load32(more), b = bf_load32(more + channels), c = zeros;
            }
            x = bf_sxtb16(a), y = bf_sxtb16_ror8(a);
            t0[3] = x, t0[7] = y, t1[2] = x, t1[6] = y, t2[1] = x, t2[5] = y;
            x = bf_sxtb16(b), y = bf_sxtb16_ror8(b);
            t1[3] = x, t1[7] = y, t2[2] = x, t2[6] = y;
            x = bf_sxtb16(c), y = bf_sxtb16_ror8(c);
            t2[3] = x, t2[7] = y;
        }
        to = t2;
    }
    return to;
}

static __attribute__((noinline)) uint32_t *pack_rows_inside(uint32_t *to, const int8_t *from, uint32_t words,
                                                            uint32_t rows, uint32_t pitch)
{
    return pack_rows(to, from, words, rows, pitch, 1, 1, 0);
}

static __attribute__((noinline)) uint32_t *pack_rows_at_edge(uint32_t *to, const int8_t *from, uint32_t words,
                                                             uint32_t rows, uint32_t pitch, int has_first, int has_last,
                                                             uint32_t zeros)
{
    return pack_rows(to, from, words, rows, pitch, has_first, has_last, zeros);
}

/* The windows at (y, x) to (y, x + 3), where they are three columns wide and reach at most one column outside. */
static inline __attribute__((always_inline)) void pack_four(const struct bf_window *op, const int8_t *input, int32_t y,
                                                            int32_t x, uint32_t *to)
{
    uint32_t channels = op->in_c, row = 3 * channels, pitch = op->in_w * channels, rows = op->kernel_h;
    int32_t below = y + (int32_t)rows - op->in_h;
    if (y < 0) {
        uint32_t above = (uint32_t)-y < rows ? (uint32_t)-y : rows;
        to = pack_value(to, op->in_zero, above * row, 1);
        rows -= above;
        y = 0;
    }
    if (below > 0) {
        rows -= (uint32_t)below < rows ? (uint32_t)below : rows;
    }
    const int8_t *from = input + (y * op->in_w + x) * (int32_t)channels;
    int has_first = x >= 0, has_last = x + 6 <= op->in_w;
    if (has_first && has_last) {
        to = pack_rows_inside(to, from, channels / 4, rows, pitch);
    } else {
        to = pack_rows_at_edge(to, from, channels / 4, rows, pitch, has_first, has_last,
                               (uint8_t)op->in_zero * 0x01010101u);
    }
    if (below > 0) {
        pack_value(to, op->in_zero, (below < op->kernel_h ? (uint32_t)below : op->kernel_h) * row, 1);
    }
}

/* How windows that lie in the image are expanded. */
enum inside { BY_WORDS, BY_NINE, BY_THREE, BY_STAGE };

/* `count` windows of a row, all inside, the first at `from`; `place` says which of its four the first is. */
static uint32_t *pack_inside(const struct bf_window *op, const int8_t *from, uint32_t count, enum inside how, uint32_t place,
                             uint32_t *to)
{
    uint32_t channels = op->in_c, pitch = op->in_w * channels, row = op->kernel_w * channels, step = op->stride_w * channels;
    for (; count > 0; count--, from += step) {
        if (how == BY_NINE) {
            bf_pack_27(to, from, pitch, 4);
        } else if (how == BY_THREE) {
            bf_pack_9(to, from, pitch, 4);
        } else {
            uint32_t *at = to;
            const int8_t *bytes = from;
            for (uint32_t rows = op->kernel_h; rows > 0; rows--, bytes += pitch) {
                at = bf_pack(at, bytes, row / 4, 4);
            }
        }
        to += (place & 3) == 3 ? 4 * op->steps - 3u : 1;
        place++;
    }
    return to;
}

void bf_pack_columns(const struct bf_window *op, const int8_t *input, uint32_t first, uint32_t count, uint32_t *to,
                     int8_t *stage)
{
    uint32_t row = op->kernel_w * op->in_c, at = first % op->out_w;
    int32_t y = (int32_t)(first / op->out_w * op->stride_h) - op->pad_top, x = (int32_t)(at * op->stride_w) - op->pad_left;
    int neighbours = op->kernel_w == 3 && op->stride_w == 1 && op->in_c % 4 == 0;
    enum inside how = (row & 3) == 0                     ? BY_WORDS
                      : op->kernel_h == 3 && row == 9 ? BY_NINE
                      : op->kernel_h == 3 && row == 3 ? BY_THREE
                                                      : BY_STAGE;
    int32_t last = op->in_w - op->kernel_w; /* x of the last window inside */
    for (uint32_t i = 0; i < count;) {
        uint32_t run = 1;
        if (neighbours && (i & 3) == 0 && at + 4 <= op->out_w && x >= -1 && x + 5 <= op->in_w) {
            pack_four(op, input, y, x, to);
            to += 4 * op->steps;
            run = 4;
        } else if (how != BY_STAGE && y >= 0 && y + op->kernel_h <= op->in_h && x >= 0 && x <= last) {
            uint32_t most = count - i < op->out_w - at ? count - i : op->out_w - at;
            run = (uint32_t)(last - x) / op->stride_w + 1;
            run = run < most ? run : most;
            to = pack_inside(op, input + (y * op->in_w + x) * op->in_c, neighbours ? 1 : run, how, i, to);
            run = neighbours ? 1 : run;
        } else {
            pack_window(op, input, y, x, to, 4, stage);
            to += (i & 3) == 3 ? 4 * op->steps - 3u : 1;
        }
        i += run;
        at += run;
        x += (int32_t)(run * op->stride_w);
        if (at == op->out_w) {
            at = 0;
            x = -(int32_t)op->pad_left;
            y += op->stride_h;
        }
    }
}
#endif
