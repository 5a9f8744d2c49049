/* Channels of an int8 image -> planes: see planes.h. */
#include "planes.h"

#if BF_WITH_DSP
/* `count` bytes as the four bytes of a word. */
static inline __attribute__((always_inline)) uint32_t load_some(const int8_t *from, uint32_t count)
{
    if (count == 4) {
        return bf_load32(from);
    }
    uint32_t bytes = (uint8_t)from[0];
    if (count > 1) {
        bytes |= (uint32_t)(uint8_t)from[1] << 8;
    }
    if (count > 2) {
        bytes |= (uint32_t)(uint8_t)from[2] << 16;
    }
    return bytes;
}

/* Two columns of `count` channels as pairs, `rows` words in each plane. */
static inline __attribute__((always_inline)) void gather_pairs(const int8_t *left, uint32_t left_pitch,
                                                               const int8_t *right, uint32_t right_pitch, uint32_t count,
                                                               uint32_t rows, uint32_t *to, uint32_t plane)
{
    uint32_t *p0 = to, *p1 = p0 + plane, *p2 = p1 + plane, *p3 = p2 + plane;
    for (; rows > 0; rows--, left += left_pitch, right += right_pitch) {
        uint32_t a = load_some(left, count), b = load_some(right, count);
        uint32_t low = bf_pkhbt_lsl16(a, b), high = bf_pkhtb_asr16(b, a); /* bytes a0 a1 b0 b1 and a2 a3 b2 b3 */
        *p0++ = bf_sxtb16(low);
        if (count > 1) {
            *p1++ = bf_sxtb16_ror8(low);
        }
        if (count > 2) {
            *p2++ = bf_sxtb16(high);
        }
        if (count > 3) {
            *p3++ = bf_sxtb16_ror8(high);
        }
    }
}

static void gather_any(const int8_t *left, uint32_t left_pitch, const int8_t *right, uint32_t right_pitch, uint32_t count,
                       uint32_t rows, uint32_t *to, uint32_t plane)
{
    if (count == 4) {
        gather_pairs(left, left_pitch, right, right_pitch, 4, rows, to, plane);
    } else {
        gather_pairs(left, left_pitch, right, right_pitch, count, rows, to, plane);
    }
}

/* The same of four channels where `right` is one pixel further than `left`, for several pairs of columns: most of an
 * image. */
static void gather_four(const int8_t *first, uint32_t pixel, uint32_t pitch, uint32_t rows, uint32_t columns,
                        uint32_t height, uint32_t *to, uint32_t plane)
{
    for (; columns > 0; columns--, first += 2 * pixel, to += height) {
        const int8_t *left = first, *right = first + pixel;
        uint32_t *p0 = to, *p1 = p0 + plane, *p2 = p1 + plane, *p3 = p2 + plane, *end = to + (rows & ~1u);
        while (p0 != end) {
            uint32_t a = bf_load32(left), b = bf_load32(right);
            uint32_t c = bf_load32(left + pitch), d = bf_load32(right + pitch);
            left += 2 * pitch;
            right += 2 * pitch;
            uint32_t low = bf_pkhbt_lsl16(a, b), high = bf_pkhtb_asr16(b, a);
            *p0++ = bf_sxtb16(low);
            *p1++ = bf_sxtb16_ror8(low);
            *p2++ = bf_sxtb16(high);
            *p3++ = bf_sxtb16_ror8(high);
            low = bf_pkhbt_lsl16(c, d), high = bf_pkhtb_asr16(d, c);
            *p0++ = bf_sxtb16(low);
            *p1++ = bf_sxtb16_ror8(low);
            *p2++ = bf_sxtb16(high);
            *p3++ = bf_sxtb16_ror8(high);
        }
        if (rows & 1) {
            uint32_t a = bf_load32(left), b = bf_load32(right);
            uint32_t low = bf_pkhbt_lsl16(a, b), high = bf_pkhtb_asr16(b, a);
            *p0 = bf_sxtb16(low);
            *p1 = bf_sxtb16_ror8(low);
            *p2 = bf_sxtb16(high);
            *p3 = bf_sxtb16_ror8(high);
        }
    }
}

static void fill_rows(uint32_t pair, uint32_t count, uint32_t rows, uint32_t *to, uint32_t plane)
{
    for (; rows > 0; rows--, to++) {
        for (uint32_t i = 0; i < count; i++) {
            to[i * plane] = pair;
        }
    }
}

void bf_gather(const struct bf_window *op, const int8_t *input, int32_t y, uint32_t count, uint32_t columns,
               uint32_t height, int borders, uint32_t *to)
{
    uint32_t plane = columns * height, pitch = (uint32_t)op->in_w * op->in_c;
    uint32_t above = y < 0 ? (uint32_t)-y : 0, below = 0;
    above = above > height ? height : above;
    if (y + (int32_t)height > op->in_h) {
        below = (uint32_t)(y + (int32_t)height - op->in_h);
        below = below > height - above ? height - above : below;
    }
    uint32_t zeros = ((uint32_t)op->in_zero & 0xffffu) | ((uint32_t)op->in_zero << 16);
    int8_t outside[4] = {op->in_zero, op->in_zero, op->in_zero, op->in_zero};
    uint32_t inside = height - above - below;
    const int8_t *rows = input + (y + (int32_t)above) * (int32_t)pitch;
    uint32_t from = (op->pad_left + 1u) / 2, end = (op->in_w + (uint32_t)op->pad_left) / 2;
    end = end > columns ? columns : end; /* pairs from .. end - 1 lie in the image */
    if (count != 4 || from > end) {
        from = end = columns;
    } else if (height == 1 && inside == 1) { /* neighbouring pairs are neighbours in the plane as well */
        gather_four(rows + (2 * from - op->pad_left) * op->in_c, op->in_c, 2u * op->in_c, end - from, 1, 1, to + from, plane);
    } else {
        gather_four(rows + (2 * from - op->pad_left) * op->in_c, op->in_c, pitch, inside, end - from, height,
                    to + from * height + above, plane);
    }
    if (borders) {
        for (uint32_t column = 0; column < columns && above + below > 0; column++) {
            fill_rows(zeros, count, above, to + column * height, plane);
            fill_rows(zeros, count, below, to + column * height + above + inside, plane);
        }
    }
    for (uint32_t column = 0; column < columns; column++) {
        if (column == from) { /* done above */
            column = end;
            if (column == columns) {
                break;
            }
        }
        int32_t x = 2 * (int32_t)column - op->pad_left;
        int has_left = x >= 0 && x < op->in_w, has_right = x + 1 >= 0 && x + 1 < op->in_w;
        if (has_left || has_right) { /* a column outside the image stays at one place */
            gather_any(has_left ? rows + x * op->in_c : outside, has_left ? pitch : 0,
                       has_right ? rows + (x + 1) * op->in_c : outside, has_right ? pitch : 0, count, inside,
                       to + column * height + above, plane);
        } else if (borders) {
            fill_rows(zeros, count, inside, to + column * height + above, plane);
        }
    }
}
#endif
