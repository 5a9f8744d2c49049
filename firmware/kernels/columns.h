/* Windows of an int8 image as columns of int16 for the DSP forms. Four taps t0..t3 become the two words (t0, t2) and
 * (t1, t3), as SXTB16 makes them; consecutive words of one column are `stride` words apart. Where the image has a
 * multiple of four channels its bytes are expanded where they lie; else a window is first copied to `stage`, and taps
 * that fill the last word there are zero. */
#ifndef BF_COLUMNS_H
#define BF_COLUMNS_H
#include "dsp.h"
#include "kernels.h"

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
static inline uint32_t *bf_pack_value(uint32_t *to, int32_t value, uint32_t words, uint32_t stride)
{
    uint32_t pair = ((uint32_t)value & 0xffffu) | ((uint32_t)value << 16);
    for (; words > 0; words--) {
        to[0] = pair;
        to[stride] = pair;
        to += 2 * stride;
    }
    return to;
}

static inline int8_t *bf_copy_run(int8_t *to, const int8_t *from, uint32_t count)
{
    for (; count >= 4; count -= 4, to += 4, from += 4) {
        bf_store32(to, bf_load32(from));
    }
    for (; count > 0; count--) {
        *to++ = *from++;
    }
    return to;
}

static inline int8_t *bf_fill_run(int8_t *to, int8_t value, uint32_t count)
{
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

/* The window at (y, x), its upper left corner, which may lie outside the image. `stage` holds 2 x steps bytes; it is not
 * used where in_c is a multiple of four. */
static inline __attribute__((always_inline)) void bf_pack_window(const struct bf_window *op, const int8_t *input, int32_t y,
                                                                 int32_t x, uint32_t *to, uint32_t stride, int8_t *stage)
{
    uint32_t channels = op->in_c, pitch = op->in_w * channels, row = op->kernel_w * channels;
    const int8_t *from = input + (y * op->in_w + x) * (int32_t)channels;
    int32_t end = y + op->kernel_h;
    int whole = y >= 0 && end <= op->in_h && x >= 0 && x + op->kernel_w <= op->in_w;
    if ((channels & 3) == 0) {
        if (whole) {
            for (; y < end; y++, from += pitch) {
                to = bf_pack(to, from, row / 4, stride);
            }
            return;
        }
        struct bf_edges edges = bf_edges_of(op, x);
        for (; y < end; y++, from += pitch) {
            if (y < 0 || y >= op->in_h) {
                to = bf_pack_value(to, op->in_zero, row / 4, stride);
            } else {
                to = bf_pack_value(to, op->in_zero, edges.left * channels / 4, stride);
                to = bf_pack(to, from + edges.left * channels, edges.inside * channels / 4, stride);
                to = bf_pack_value(to, op->in_zero, edges.right * channels / 4, stride);
            }
        }
        return;
    }
    int8_t *at = stage;
    if (whole) {
        for (; y < end; y++, from += pitch) {
            at = bf_copy_run(at, from, row);
        }
    } else {
        struct bf_edges edges = bf_edges_of(op, x);
        for (; y < end; y++, from += pitch) {
            if (y < 0 || y >= op->in_h) {
                at = bf_fill_run(at, op->in_zero, row);
            } else {
                at = bf_fill_run(at, op->in_zero, edges.left * channels);
                at = bf_copy_run(at, from + edges.left * channels, edges.inside * channels);
                at = bf_fill_run(at, op->in_zero, edges.right * channels);
            }
        }
    }
    bf_fill_run(at, 0, (uint32_t)(stage + 2 * op->steps - at));
    bf_pack(to, stage, op->steps / 2u, stride);
}
#endif
