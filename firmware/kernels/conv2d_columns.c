/* conv2d with the DSP extension: blocks of 2 channels x 4 pixels, whose eight sums stay in registers.
 *
 * Four windows at a time are expanded to columns of int16 that lie word by word side by side: [step][pixel], a step being
 * two taps (columns.h). Weights stay int8, two channels interleaved: [pair of channels][step][c0 ta, c1 ta, c0 tb, c1 tb],
 * so that one load and two SXTB16 give both channels' pairs of taps. A step is 5 loads, 2 SXTB16 and 8 SMLAD for 16
 * products. An odd last channel is done together with the one before it, once more; so are pixels that do not fill a
 * group of four.
 *
 * The blocks are written in assembly, because compilers spill eight sums; the same algorithm stands below in C, for other
 * machines and as the reference of the assembly. */
#include "columns.h"
#include "requantize.h"

#if BF_WITH_DSP

/* What the block kernel reads, in this order. */
struct blocks {
    const uint32_t *columns;
    const uint8_t *weights;
    uint32_t steps;
    int8_t *output;          /* or int32_t[8], where a shift is 0 */
    uint32_t groups;         /* of four pixels */
    const uint8_t *weights_end;
    uint32_t steps_to_skip;  /* so that steps + steps_to_skip is a multiple of 12 */
    uint32_t out_c;
    int32_t bias[2], multiplier[2], rounding[2];
    int32_t shift[2]; /* right shifts, at least 1; or both 0: store the sums of one group as they are, [channel][pixel] */
};

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP) && !defined(BF_NO_ASSEMBLY)
/* s0-s15 hold the arguments. r0 columns, r1 weights, r2-r5 working registers, sums of channel 0 in r6-r9, of channel 1
 * in r10-r12 and r14. Twelve steps a turn: many more would not stay in a 1 KiB instruction cache. The first turn is entered
 * behind the steps to skip, with pointers moved back by as much. */
#define STEP(u)                                     \
    "ldr r2, [r1, #4*" #u "]\n"                     \
    "ldr.w r4, [r0, #16*" #u "]\n"                    \
    "ldr.w r5, [r0, #16*" #u "+4]\n"                  \
    "sxtb16 r3, r2\n"                               \
    "sxtb16 r2, r2, ror #8\n"                       \
    "smlad r6, r4, r3, r6\n"                        \
    "smlad r7, r5, r3, r7\n"                        \
    "smlad r10, r4, r2, r10\n"                      \
    "smlad r11, r5, r2, r11\n"                      \
    "ldr.w r4, [r0, #16*" #u "+8]\n"                  \
    "ldr.w r5, [r0, #16*" #u "+12]\n"                 \
    "smlad r8, r4, r3, r8\n"                        \
    "smlad r9, r5, r3, r9\n"                        \
    "smlad r12, r4, r2, r12\n"                      \
    "smlad r14, r5, r2, r14\n"
#define STEP_BYTES "58" /* a load of 16 bits, fourteen instructions of 32 */

#if BF_MUTATE == 1
#define SIGN(sum) ""
#else
#define SIGN(sum) "add r4, r4, " #sum ", asr #31\n"
#endif
#define REQUANTIZE(sum) \
    "lsl r4, " #sum ", #1\n" \
    "smmlar r4, r4, r1, r2\n" \
    SIGN(sum) \
    "asr r4, r4, r3\n" \
    "ssat r4, #8, r4\n"
#define CHANNEL(s0, s1, s2, s3)            \
    REQUANTIZE(s0) "strb r4, [r0]\n"       \
    REQUANTIZE(s1) "strb r4, [r0, r5]\n"   \
    REQUANTIZE(s2) "strb r4, [r0, r5, lsl #1]\n" \
    "add r0, r0, r5\n"                     \
    REQUANTIZE(s3) "strb r4, [r0, r5, lsl #1]\n"

__attribute__((naked, noinline)) static void run_blocks(__attribute__((unused)) const struct blocks *blocks)
{
    __asm volatile(
        ".syntax unified\n"
        "push {r4-r11, lr}\n"
        "vldm r0, {s0-s15}\n"
        /* Entry of a group's first turn; pointers back by the steps to skip. */
        "vmov r1, s6\n"
        "mov r2, #" STEP_BYTES "\n"
        "adr r3, 3f\n"
        "mla r2, r1, r2, r3\n"
        "orr r2, r2, #1\n"
        "vmov r3, s1\n"
        "sub r3, r3, r1, lsl #2\n"
        "vmov s1, r3\n"
        "lsl r1, r1, #4\n"
        "vmov s6, r2\n"
        "vmov s2, r1\n"
        "vmov r0, s0\n"
        "2:\n"
        "vmov r2, s2\n"
        "vmov r3, s6\n"
        "vmov r1, s1\n"
        "vmov r6, s8\n"
        "vmov r10, s9\n"
        "sub r0, r0, r2\n"
        "mov r7, r6\n"
        "mov r8, r6\n"
        "mov r9, r6\n"
        "mov r11, r10\n"
        "mov r12, r10\n"
        "mov r14, r10\n"
        "bx r3\n"
        ".balign 4\n"
        "3:\n"
        STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5)
        STEP(6) STEP(7) STEP(8) STEP(9) STEP(10) STEP(11)
        "vmov r2, s5\n"
        "adds r1, r1, #48\n"
        "adds r0, r0, #192\n"
        "cmp r1, r2\n"
        "bne 3b\n"
        "vmov s0, r0\n"
        "vmov r3, s14\n"
        "vmov r0, s3\n"
        "cmp r3, #0\n"
        "beq 4f\n"
        "vmov r1, s10\n"
        "vmov r2, s12\n"
        "vmov r5, s7\n"
        CHANNEL(r6, r7, r8, r9)
        "vmov r0, s3\n"
        "vmov r1, s11\n"
        "vmov r2, s13\n"
        "vmov r3, s15\n"
        "adds r0, r0, #1\n"
        CHANNEL(r10, r11, r12, r14)
        "vmov r1, s4\n"
        "add r0, r0, r5, lsl #1\n"
        "add r0, r0, r5\n"
        "subs r0, r0, #1\n"
        "vmov s3, r0\n"
        "vmov r0, s0\n"
        "subs r1, r1, #1\n"
        "vmov s4, r1\n"
        "bne 2b\n"
        "pop {r4-r11, pc}\n"
        "4:\n"
        "stm r0, {r6-r12, r14}\n"
        "pop {r4-r11, pc}\n");
}

#else
static void run_blocks(const struct blocks *b)
{
    const uint32_t *column = b->columns;
    int8_t *output = b->output;
    for (uint32_t group = 0; group < b->groups; group++) {
        int32_t sums[2][4];
        for (uint32_t p = 0; p < 4; p++) {
            sums[0][p] = b->bias[0];
            sums[1][p] = b->bias[1];
        }
        const uint8_t *weights = b->weights;
        for (; weights < b->weights_end; weights += 4, column += 4) {
            uint32_t word = bf_load32(weights), w0 = bf_sxtb16(word), w1 = bf_sxtb16_ror8(word);
            for (uint32_t p = 0; p < 4; p++) {
                sums[0][p] = bf_smlad(column[p], w0, sums[0][p]);
                sums[1][p] = bf_smlad(column[p], w1, sums[1][p]);
            }
        }
        for (uint32_t c = 0; c < 2; c++) {
            for (uint32_t p = 0; p < 4; p++) {
                if (b->shift[0] == 0) {
                    bf_store32(output + 16 * c + 4 * p, (uint32_t)sums[c][p]);
                } else {
                    output[p * b->out_c + c] =
                        (int8_t)bf_requantize_dsp(sums[c][p], b->multiplier[c], b->rounding[c], b->shift[c]);
                }
            }
        }
        output += 4 * b->out_c;
    }
}
#endif

/* One row of four neighbouring windows of three columns with stride 1: six columns of the image, each expanded once and
 * stored for all windows that it is in. `from` is the second of them, `words` a pixel's channels / 4. The first and the
 * last may lie outside the image, where each of their words is `zeros`. */
static inline __attribute__((always_inline)) void pack_row(uint32_t *to, const int8_t *from, uint32_t words,
                                                           int has_first, int has_last, uint32_t zeros)
{
    uint32_t channels = 4 * words;
    uint32_t *t0 = to, *t1 = t0 + 8 * words, *t2 = t1 + 8 * words;
    const int8_t *more = from + 2 * channels;
    for (; words > 0; words--, from += 4, more += 4, t0 += 8, t1 += 8, t2 += 8) {
        uint32_t a = has_first ? bf_load32(from - channels) : zeros, b = bf_load32(from);
        uint32_t c = bf_load32(from + channels), x, y;
        x = bf_sxtb16(a), y = bf_sxtb16_ror8(a);
        t0[0] = x, t0[4] = y;
        x = bf_sxtb16(b), y = bf_sxtb16_ror8(b);
        t0[1] = x, t0[5] = y, t1[0] = x, t1[4] = y;
        x = bf_sxtb16(c), y = bf_sxtb16_ror8(c);
        t0[2] = x, t0[6] = y, t1[1] = x, t1[5] = y, t2[0] = x, t2[4] = y;
        a = bf_load32(more), b = bf_load32(more + channels), c = has_last ? bf_load32(more + 2 * channels) : zeros;
        x = bf_sxtb16(a), y = bf_sxtb16_ror8(a);
        t0[3] = x, t0[7] = y, t1[2] = x, t1[6] = y, t2[1] = x, t2[5] = y;
        x = bf_sxtb16(b), y = bf_sxtb16_ror8(b);
        t1[3] = x, t1[7] = y, t2[2] = x, t2[6] = y;
        x = bf_sxtb16(c), y = bf_sxtb16_ror8(c);
        t2[3] = x, t2[7] = y;
    }
}

static __attribute__((noinline)) void pack_row_inside(uint32_t *to, const int8_t *from, uint32_t words)
{
    pack_row(to, from, words, 1, 1, 0);
}

static __attribute__((noinline)) void pack_row_at_edge(uint32_t *to, const int8_t *from, uint32_t words, int has_first,
                                                       int has_last, uint32_t zeros)
{
    pack_row(to, from, words, has_first, has_last, zeros);
}

/* The windows at (y, x) to (y, x + 3), where they are three columns wide and reach at most one column outside. */
static void pack_four(const struct bf_window *op, const int8_t *input, int32_t y, int32_t x, uint32_t *to)
{
    uint32_t zeros = (uint8_t)op->in_zero * 0x01010101u, channels = op->in_c;
    const int8_t *from = input + (y * op->in_w + x + 1) * (int32_t)channels;
    int has_first = x >= 0, has_last = x + 6 <= op->in_w;
    for (int32_t end = y + op->kernel_h; y < end; y++, from += op->in_w * channels, to += 6 * channels) {
        if (y < 0 || y >= op->in_h) {
            bf_pack_value(to, op->in_zero, 3 * channels, 1);
        } else if (has_first && has_last) {
            pack_row_inside(to, from, channels / 4);
        } else {
            pack_row_at_edge(to, from, channels / 4, has_first, has_last, zeros);
        }
    }
}

/* Channels c and, one further, c1, for `groups` groups of columns. */
static void run_pair(struct blocks *b, const struct bf_window *op, const struct bf_channel *c0, const struct bf_channel *c1)
{
    b->bias[0] = c0->bias, b->bias[1] = c1->bias;
    if (c0->rounding != 0 && c1->rounding != 0 && c0 != c1) {
        b->multiplier[0] = c0->multiplier, b->multiplier[1] = c1->multiplier;
        b->rounding[0] = c0->rounding, b->rounding[1] = c1->rounding;
        b->shift[0] = -c0->shift, b->shift[1] = -c1->shift;
        run_blocks(b);
        return;
    }
    /* Group by group, requantised here. */
    const struct bf_channel *channels[2] = {c0, c1};
    struct blocks one = *b;
    one.shift[0] = one.shift[1] = 0;
    one.groups = 1;
    for (uint32_t group = 0; group < b->groups; group++) {
        int32_t sums[2][4];
        one.columns = b->columns + group * 4 * b->steps;
        one.output = (int8_t *)sums;
        run_blocks(&one);
        for (uint32_t c = 0; c < (c0 == c1 ? 1u : 2u); c++) {
            for (uint32_t p = 0; p < 4; p++) {
                b->output[(4 * group + p) * op->out_c + c] =
                    (int8_t)bf_ssat8(bf_requantize(sums[c][p], channels[c], op->out_zero));
            }
        }
    }
}

void bf_conv2d_columns(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                       void *scratch)
{
    const struct bf_channel *channels = (const struct bf_channel *)(program + op->channels);
    uint32_t pixels = (uint32_t)op->out_h * op->out_w; /* at least 4 */
    int neighbours = op->kernel_w == 3 && op->stride_w == 1 && op->in_c % 4 == 0;
    struct blocks b;
    b.steps = op->steps;
    b.steps_to_skip = 11 - (b.steps + 11) % 12;
    b.out_c = op->out_c;
    int8_t *stage = (int8_t *)((uint32_t *)scratch + op->chunk * b.steps);
    for (uint32_t first = 0; first < pixels;) {
        uint32_t count = pixels - first < op->chunk ? pixels - first : op->chunk;
        if (count < 4) {
            first = pixels - 4; /* pixels that were done already fill the last group */
            count = 4;
        }
        count &= ~3u;
        uint32_t row = first / op->out_w, at = first % op->out_w;
        int32_t y = (int32_t)(row * op->stride_h) - op->pad_top, x = (int32_t)(at * op->stride_w) - op->pad_left;
        uint32_t *column = scratch;
        for (uint32_t i = 0; i < count; i++) {
            if (neighbours && (i & 3) == 0 && at + 4 <= op->out_w && x >= -1 && x + 5 <= op->in_w) {
                pack_four(op, input, y, x, column);
                column += 4 * b.steps;
                i += 3;
                at += 4;
                x += 4;
                if (at == op->out_w) {
                    at = 0;
                    x = -(int32_t)op->pad_left;
                    y += op->stride_h;
                }
                continue;
            }
            bf_pack_window(op, input, y, x, column, 4, stage);
            column += (i & 3) == 3 ? 4 * b.steps - 3 : 1;
            x += op->stride_w;
            if (++at == op->out_w) {
                at = 0;
                x = -(int32_t)op->pad_left;
                y += op->stride_h;
            }
        }
        b.columns = scratch;
        b.weights = program + op->weights;
        b.groups = count / 4;
        for (uint32_t c = 0; c < op->out_c; c += 2) {
            uint32_t from = c + 1 < op->out_c || c == 0 ? c : c - 1;
            b.weights_end = b.weights + 4 * b.steps;
            b.output = output + first * op->out_c + from;
            run_pair(&b, op, channels + from, channels + from + (op->out_c > 1));
            b.weights = b.weights_end;
        }
        first += count;
    }
    bf_clamp_all(output, pixels * op->out_c, op->least, op->greatest);
}
#endif
