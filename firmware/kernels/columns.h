/* Windows of an int8 image as columns of int16 for the DSP forms. Each row of a window takes a multiple of four taps, so
 * that rows start at a word; the weights of the surplus taps are zero. Four taps t0..t3 become the two words (t0, t2)
 * and (t1, t3), as SXTB16 makes them; consecutive words of one column are `stride` words apart. */
#ifndef BF_COLUMNS_H
#define BF_COLUMNS_H
#include "dsp.h"
#include "kernels.h"

#define BF_INLINE static inline __attribute__((always_inline))

BF_INLINE uint32_t *bf_pack4(uint32_t *to, uint32_t bytes, uint32_t stride)
{
    to[0] = bf_sxtb16(bytes);
    to[stride] = bf_sxtb16_ror8(bytes);
    return to + 2 * stride;
}

/* `count` bytes that lie in a row; surplus taps of the last word are zero. */
BF_INLINE uint32_t *bf_pack_run(uint32_t *to, const int8_t *from, uint32_t count, uint32_t stride)
{
    for (; count >= 16; count -= 16, from += 16) {
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
    for (; count >= 4; count -= 4, from += 4) {
        to = bf_pack4(to, bf_load32(from), stride);
    }
    if (count > 0) {
        uint32_t bytes = (uint8_t)from[0];
        if (count > 1) {
            bytes |= (uint32_t)(uint8_t)from[1] << 8;
        }
        if (count > 2) {
            bytes |= (uint32_t)(uint8_t)from[2] << 16;
        }
        to = bf_pack4(to, bytes, stride);
    }
    return to;
}

BF_INLINE uint32_t *bf_pack_zeros(uint32_t *to, int32_t zero, uint32_t count, uint32_t stride)
{
    uint32_t pair = ((uint32_t)zero & 0xffffu) | ((uint32_t)zero << 16);
    for (uint32_t words = (count + 3) / 4; words > 0; words--) {
        to[0] = pair;
        to[stride] = pair;
        to += 2 * stride;
    }
    return to;
}

/* One row of a window of which `before` and `after` bytes lie outside the image. `from` is its first byte inside. */
BF_INLINE uint32_t *bf_pack_edge(uint32_t *to, const int8_t *from, int32_t zero, uint32_t count, uint32_t before,
                                 uint32_t after, uint32_t stride)
{
    uint32_t inside = count - before - after;
    if (((before | inside) & 3) == 0) {
        to = bf_pack_zeros(to, zero, before, stride);
        to = bf_pack_run(to, from, inside, stride);
        return bf_pack_zeros(to, zero, after, stride);
    }
    for (uint32_t i = 0; i < count; i += 4) {
        uint32_t bytes = 0;
        for (uint32_t j = i; j < i + 4; j++) {
            int32_t value = j - before < inside ? from[j - before] : zero; /* unsigned: also where j < before */
            bytes |= ((uint32_t)value & 0xffu) << (8 * (j - i));
        }
        to = bf_pack4(to, bytes, stride);
    }
    return to;
}

/* The window whose upper left corner is at (y, x) of the image, which may lie outside. */
BF_INLINE void bf_pack_window(const struct bf_window *op, const int8_t *input, int32_t y, int32_t x, uint32_t *to,
                              uint32_t stride)
{
    int32_t width = op->kernel_w, left = x < 0 ? -x : 0, right = x + width > op->in_w ? x + width - op->in_w : 0;
    left = left > width ? width : left;
    right = right > width - left ? width - left : right;
    uint32_t count = (uint32_t)(width * op->in_c), before = (uint32_t)(left * op->in_c);
    uint32_t after = (uint32_t)(right * op->in_c), pitch = (uint32_t)op->in_w * op->in_c;
    const int8_t *from = input + (y * op->in_w + x + left) * op->in_c;
    for (int32_t end = y + op->kernel_h; y < end; y++, from += pitch) {
        if (y < 0 || y >= op->in_h) {
            to = bf_pack_zeros(to, op->in_zero, count, stride);
        } else if (before + after == 0) {
            to = bf_pack_run(to, from, count, stride);
        } else {
            to = bf_pack_edge(to, from, op->in_zero, count, before, after, stride);
        }
    }
}
#endif
