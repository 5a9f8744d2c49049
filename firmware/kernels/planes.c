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


/* The same of four channels, two rows at a time, for several pairs of columns `step` bytes apart: most of an image. */
#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP) && !defined(BF_NO_ASSEMBLY)
/* What the assembly reads, in this order. */
struct columns {
    const int8_t *left, *right;
    uint32_t left_pitch, right_pitch;
    uint32_t *planes[4], *end; /* of the first plane's rows, without an odd one */
    uint32_t count;
    uint32_t left_step, right_step, plane_step, end_step; /* bytes from a column's last row to the next column */
    uint32_t odd;
};

/* r0-r8 hold the first nine, s0-s5 the others. */
#define STORE_TWO(a, b, p, q)               \
    "sxtb16 " #a ", " #b "\n"               \
    "sxtb16 " #b ", " #b ", ror #8\n"       \
    "str " #a ", [" #p "], #4\n"            \
    "str " #b ", [" #q "], #4\n"
#define STORE_ROW(a, b)                             \
    "pkhbt r14, " #a ", " #b ", lsl #16\n"          \
    "pkhtb " #b ", " #b ", " #a ", asr #16\n"       \
    STORE_TWO(a, r14, r4, r5) STORE_TWO(a, b, r6, r7)

__attribute__((naked, noinline)) static void run_columns(__attribute__((unused)) const struct columns *columns)
{
    __asm volatile(
        ".syntax unified\n"
        "push {r4-r11, lr}\n"
        "add r12, r0, #36\n"
        "vldm r12, {s0-s5}\n"
        "ldm r0, {r0-r8}\n"
        "1:\n"
        "cmp r4, r8\n"
        "beq 3f\n"
        "2:\n"
        "ldr r9, [r0]\n"
        "ldr r10, [r1]\n"
        "ldr r11, [r0, r2]\n"
        "ldr r12, [r1, r3]\n"
        "add r0, r0, r2, lsl #1\n"
        "add r1, r1, r3, lsl #1\n"
        STORE_ROW(r9, r10) STORE_ROW(r11, r12)
        "cmp r4, r8\n"
        "bne 2b\n"
        "3:\n"
        "vmov r9, s5\n"
        "cmp r9, #0\n"
        "beq 4f\n"
        "ldr r9, [r0]\n"
        "ldr r10, [r1]\n"
        STORE_ROW(r9, r10)
        "4:\n"
        "vmov r9, s1\n"
        "vmov r10, s2\n"
        "vmov r11, s3\n"
        "vmov r12, s4\n"
        "vmov r14, s0\n"
        "add r0, r0, r9\n"
        "add r1, r1, r10\n"
        "add r4, r4, r11\n"
        "add r5, r5, r11\n"
        "add r6, r6, r11\n"
        "add r7, r7, r11\n"
        "add r8, r8, r12\n"
        "subs r14, r14, #1\n"
        "vmov s0, r14\n"
        "bne 1b\n"
        "pop {r4-r11, pc}\n");
}

static void gather_four(const int8_t *first, uint32_t left_pitch, const int8_t *second, uint32_t right_pitch, uint32_t rows,
                        uint32_t columns, uint32_t step, uint32_t height, uint32_t *to, uint32_t plane)
{
    uint32_t even = rows & ~1u;
    struct columns all = {
        first, second, left_pitch, right_pitch, {to, to + plane, to + 2 * plane, to + 3 * plane}, to + even, columns,
        step - even * left_pitch, step - even * right_pitch, 4 * (height - rows), 4 * height, rows & 1,
    };
    if (columns > 0) {
        run_columns(&all);
    }
}
#else
static void gather_four(const int8_t *first, uint32_t left_pitch, const int8_t *second, uint32_t right_pitch, uint32_t rows,
                        uint32_t columns, uint32_t step, uint32_t height, uint32_t *to, uint32_t plane)
{
    for (; columns > 0; columns--, first += step, second += step, to += height) {
        const int8_t *left = first, *right = second;
        uint32_t *p0 = to, *p1 = p0 + plane, *p2 = p1 + plane, *p3 = p2 + plane, *end = to + (rows & ~1u);
        while (p0 != end) {
            uint32_t a = bf_load32(left), b = bf_load32(right);
            left += left_pitch;
            right += right_pitch;
            uint32_t c = bf_load32(left), d = bf_load32(right);
            left += left_pitch;
            right += right_pitch;
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
#endif

static void gather_any(const int8_t *left, uint32_t left_pitch, const int8_t *right, uint32_t right_pitch, uint32_t count,
                       uint32_t rows, uint32_t *to, uint32_t plane)
{
    if (count == 4) {
        gather_four(left, left_pitch, right, right_pitch, rows, 1, 0, 0, to, plane);
    } else {
        gather_pairs(left, left_pitch, right, right_pitch, count, rows, to, plane);
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
    const int8_t *left = rows + (2 * from - op->pad_left) * op->in_c;
    uint32_t step = 2u * op->in_c;
    if (count != 4 || from > end) {
        from = end = columns;
    } else if (height == 1 && inside == 1) { /* neighbouring pairs are neighbours in the plane as well */
        gather_four(left, step, left + op->in_c, step, end - from, 1, 0, 0, to + from, plane);
    } else {
        gather_four(left, pitch, left + op->in_c, pitch, inside, end - from, step, height, to + from * height + above, plane);
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
