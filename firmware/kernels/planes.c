/* Channels of an int8 image -> planes: see planes.h. */
#include "planes.h"

#if BF_WITH_DSP
#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP) && !defined(BF_NO_ASSEMBLY)
/* r0-r7 hold the first eight, s0-s3 the others, r8 the end of a column's pairs of rows. A turn is four rows; an odd pair of
 * rows enters in the middle. A row's columns a and b, a word of four channels each, become four words of two. */
#define STORE_ROW(a, b, high, work) STORE_ROW_(a, b, high, work)
#define STORE_ROW_(a, b, high, work)                     \
    "pkhbt r14, " #a ", " #b ", lsl #16\n"               \
    "pkhtb " #high ", " #b ", " #a ", asr #16\n"         \
    "sxtb16 " #work ", r14\n"                            \
    "sxtb16 r14, r14, ror #8\n"                          \
    "str r14, [r4, r5]\n"                                \
    "str " #work ", [r4], #4\n"                          \
    "sxtb16 " #work ", " #high "\n"                      \
    "sxtb16 " #high ", " #high ", ror #8\n"              \
    "str " #high ", [r6, r5]\n"                          \
    "str " #work ", [r6], #4\n"
#define TWO_ROWS                             \
    "ldr r9, [r0]\n"                         \
    "ldr r10, [r0, r3]\n"                    \
    "ldr r11, [r0, r2]\n"                    \
    "ldr r12, [r0, r1]\n"                    \
    "add r0, r0, r2, lsl #1\n"               \
    STORE_ROW(r9, r10, r10, r9) STORE_ROW(r11, r12, r12, r11)

__attribute__((naked, noinline)) static void run_columns(__attribute__((unused)) const struct bf_columns *columns)
{
    __asm volatile(
        ".syntax unified\n"
        "push {r4-r11, lr}\n"
        "add r12, r0, #32\n"
        "vldm r12, {s0-s3}\n"
        "ldm r0, {r0-r7}\n"
        "1:\n"
        "adds r8, r4, r7\n"
        "cmp r7, #0\n"
        "beq 3f\n"
        "tst r7, #8\n"
        "bne 4f\n"
        "2:\n"
        TWO_ROWS
        "4:\n"
        TWO_ROWS
        "cmp r4, r8\n"
        "bne 2b\n"
        "3:\n"
        "vmov r9, s1\n"
        "cmp r9, #0\n"
        "beq 5f\n"
        "ldr r9, [r0]\n"
        "ldr r10, [r0, r3]\n"
        STORE_ROW(r9, r10, r10, r9)
        "5:\n"
        "vmov r9, s2\n"
        "vmov r10, s3\n"
        "vmov r11, s0\n"
        "add r0, r0, r9\n"
        "add r4, r4, r10\n"
        "add r6, r6, r10\n"
        "subs r11, r11, #1\n"
        "vmov s0, r11\n"
        "bne 1b\n"
        "pop {r4-r11, pc}\n");
}

/* One column whose other half lies outside; r7 is what lies there, r0 the image, r2 its pitch, r3 the rows. */
#define RUN_HALF(name, first, second)                                                                                  \
    __attribute__((naked, noinline)) static void name(                                                                 \
        __attribute__((unused)) const int8_t *from, __attribute__((unused)) const struct bf_columns *columns,          \
        __attribute__((unused)) uint32_t *to, __attribute__((unused)) uint32_t rows, __attribute__((unused)) uint32_t zeros) \
    {                                                                                                                  \
        __asm volatile(                                                                                                \
            ".syntax unified\n"                                                                                        \
            "push {r4-r10, lr}\n"                                                                                      \
            "ldr r7, [sp, #32]\n"                                                                                      \
            "mov r4, r2\n"                                                                                             \
            "ldr r5, [r1, #20]\n"                                                                                      \
            "ldr r2, [r1, #8]\n"                                                                                       \
            "add r6, r4, r5, lsl #1\n"                                                                                 \
            "tst r3, #1\n"                                                                                             \
            "beq 1f\n"                                                                                                 \
            "ldr r9, [r0]\n"                                                                                           \
            "add r0, r0, r2\n"                                                                                         \
            STORE_ROW(first(r9), second(r9), r9, r12)                                                                  \
            "1:\n"                                                                                                     \
            "subs r3, r3, #2\n"                                                                                        \
            "blo 3f\n"                                                                                                 \
            "2:\n"                                                                                                     \
            "ldr r9, [r0]\n"                                                                                           \
            "ldr r10, [r0, r2]\n"                                                                                      \
            "add r0, r0, r2, lsl #1\n"                                                                                 \
            STORE_ROW(first(r9), second(r9), r9, r12) STORE_ROW(first(r10), second(r10), r10, r12)                     \
            "subs r3, r3, #2\n"                                                                                        \
            "bhs 2b\n"                                                                                                 \
            "3:\n"                                                                                                     \
            "pop {r4-r10, pc}\n");                                                                                     \
    }
#define IMAGE(x) x
#define OUTSIDE(x) r7
RUN_HALF(run_right_half, OUTSIDE, IMAGE)
RUN_HALF(run_left_half, IMAGE, OUTSIDE)
#else
static void store_row(uint32_t a, uint32_t b, uint32_t *to, uint32_t plane)
{
    uint32_t low = bf_pkhbt_lsl16(a, b), high = bf_pkhtb_asr16(b, a); /* bytes a0 a1 b0 b1 and a2 a3 b2 b3 */
    to[0] = bf_sxtb16(low);
    to[plane] = bf_sxtb16_ror8(low);
    to[2 * plane] = bf_sxtb16(high);
    to[3 * plane] = bf_sxtb16_ror8(high);
}

static void run_columns(const struct bf_columns *c)
{
    uint32_t even = c->even_bytes / 4;
    const int8_t *from = c->from;
    uint32_t *to = c->to;
    for (uint32_t i = c->count; i > 0; i--) {
        for (uint32_t row = 0; row < even + c->odd; row++) {
            const int8_t *at = from + row * c->pitch;
            store_row(bf_load32(at), bf_load32(at + c->pixel), to++, c->plane_bytes / 4);
        }
        if (i > 1) {
            from += (int32_t)(even * c->pitch + c->step);
            to += c->plane_step / 4;
        }
    }
}

/* One column of which the other half lies outside. */
static void run_right_half(const int8_t *from, const struct bf_columns *columns, uint32_t *to, uint32_t rows, uint32_t zeros)
{
    for (uint32_t row = 0; row < rows; row++) {
        store_row(zeros, bf_load32(from + row * columns->pitch), to + row, columns->plane_bytes / 4);
    }
}

static void run_left_half(const int8_t *from, const struct bf_columns *columns, uint32_t *to, uint32_t rows, uint32_t zeros)
{
    for (uint32_t row = 0; row < rows; row++) {
        store_row(bf_load32(from + row * columns->pitch), zeros, to + row, columns->plane_bytes / 4);
    }
}
#endif

/* The rows of one pair of columns of fewer than four channels; either may be outside, where its pitch is 0. */
static void gather_some(const int8_t *left, uint32_t left_pitch, const int8_t *right, uint32_t right_pitch, uint32_t count,
                        uint32_t rows, uint32_t *to, uint32_t plane)
{
    for (; rows > 0; rows--, left += left_pitch, right += right_pitch, to++) {
        for (uint32_t i = 0; i < count; i++) {
            to[i * plane] = ((uint32_t)left[i] & 0xffffu) | ((uint32_t)right[i] << 16);
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

struct bf_gather bf_gather_of(const struct bf_window *op, int32_t y, uint32_t kept, uint32_t columns, uint32_t height,
                              uint32_t *to)
{
    uint32_t above = y < 0 ? (uint32_t)-y : 0, below = 0, pixel = op->in_c, pitch = op->in_w * pixel;
    above = above > height ? height : above < kept ? kept : above;
    if (y + (int32_t)height > op->in_h) {
        below = (uint32_t)(y + (int32_t)height - op->in_h);
        below = below > height - above ? height - above : below;
    }
    uint32_t end = (op->in_w + (uint32_t)op->pad_left) / 2, from = (op->pad_left + 1u) / 2;
    end = end > columns ? columns : end;
    from = from < end ? from : end;
    uint32_t plane = columns * height, rows = height - above - below, even = rows & ~1u;
    uint32_t *whole = to + from * height + above;
    struct bf_gather g = {
        .op = op, .to = to, .columns = columns, .height = height, .kept = kept, .above = above, .rows = rows, .pairs = end - from,
        .first = (y + (int32_t)above) * (int32_t)pitch + (2 * (int32_t)from - op->pad_left) * (int32_t)pixel,
        .right_half = from > 0 && 2 * from == op->pad_left + 1u,
        .left_half = end < columns && ((op->in_w + op->pad_left) & 1),
        .whole = {0, pitch + pixel, pitch, pixel, whole, 4 * plane, whole + 2 * plane, 4 * even, end - from, rows & 1,
                  2 * pixel - even * pitch, 4 * (height - rows)},
    };
    if (height == 1) { /* neighbouring pairs are neighbours in the plane as well */
        g.whole.both = 3 * pixel, g.whole.pitch = 2 * pixel;
        g.whole.even_bytes = 4 * ((end - from) & ~1u), g.whole.odd = (end - from) & 1, g.whole.count = end > from;
    }
    return g;
}

/* What lies outside the image, of planes of `count` channels. */
static void fill_borders(const struct bf_gather *g, uint32_t count)
{
    uint32_t pair = bf_sxtb16((uint8_t)g->op->in_zero * 0x00010001u), plane = g->columns * g->height;
    uint32_t above = g->kept > 0 ? 0 : g->above, below = g->height - g->above - g->rows, pad = g->op->pad_left;
    uint32_t first = pad / 2, last = (g->op->in_w + pad + 1u) / 2; /* pairs from first to last - 1 meet the image */
    first = g->rows == 0 ? g->columns : first;
    for (uint32_t column = 0; column < g->columns; column++) {
        column = column == first && above + below == 0 ? last : column;
        uint32_t *to = g->to + column * g->height;
        if (column >= first && column < last) {
            fill_rows(pair, count, above, to, plane);
            fill_rows(pair, count, below, to + g->height - below, plane);
        } else if (column < g->columns) {
            fill_rows(pair, count, g->height - g->kept, to + g->kept, plane);
        }
    }
}

void bf_gather_channels(struct bf_gather *g, const int8_t *input, uint32_t count, int borders)
{
    if (borders) {
        fill_borders(g, count);
    }
    if (g->rows == 0) {
        return;
    }
    struct bf_columns *whole = &g->whole;
    uint32_t pixel = whole->pixel, pitch = whole->both - pixel, rows = g->rows;
    const int8_t *first = input + g->first, *last = first + 2 * (g->pairs) * pixel;
    uint32_t *right = whole->to - g->height, *left = whole->to + g->pairs * g->height;
    if (count == 4) {
        uint32_t zeros = (uint8_t)g->op->in_zero * 0x01010101u;
        whole->from = first;
        if (whole->count > 0) {
            run_columns(whole);
        }
        if (g->right_half) {
            run_right_half(first - pixel, whole, right, rows, zeros);
        }
        if (g->left_half) {
            run_left_half(last, whole, left, rows, zeros);
        }
        return;
    }
    const int8_t zero = g->op->in_zero, outside[4] = {zero, zero, zero, zero};
    uint32_t plane = g->columns * g->height, *to = whole->to;
    if (g->right_half) {
        gather_some(outside, 0, first - pixel, pitch, count, rows, right, plane);
    }
    if (g->left_half) {
        gather_some(last, pitch, outside, 0, count, rows, left, plane);
    }
    for (; first != last; first += 2 * pixel, to += g->height) {
        gather_some(first, pitch, first + pixel, pitch, count, rows, to, plane);
    }
}

void bf_keep_rows(const struct bf_gather *g, uint32_t row, uint32_t keep, uint32_t planes, uint32_t height)
{
    uint32_t *to = g->to, columns = planes * g->columns, step = g->height;
    const uint32_t *from = to + row; /* never in front of `to`: what is written was read */
    for (; keep == 1 && columns >= 2; columns -= 2, to += 2 * height, from += 2 * step) {
        uint32_t a = from[0], b = from[step];
        to[0] = a;
        to[height] = b;
    }
    for (; columns > 0; columns--, to += height, from += step) {
        for (uint32_t i = 0; i < keep; i++) {
            to[i] = from[i];
        }
    }
}

void bf_run_lanes(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output, void *scratch,
                  bf_lanes *run)
{
    uint32_t lanes = op->in_c, keep = 0;
    if (input == output && op->chunk < op->out_h && op->stride_h <= op->pad_top) {
        keep = op->pad_top - op->stride_h + 1u; /* rows that a band overwrites and the next one reads */
        lanes = 4;
    }
    for (uint32_t begin = 0; begin < op->in_c; begin += lanes) {
        run(op, program, input, output, scratch, begin, op->in_c - begin < lanes ? op->in_c : begin + lanes, keep);
    }
    bf_clamp_all(output, (uint32_t)op->out_h * op->out_w * op->out_c, op->least, op->greatest);
}
#endif
