/* conv2d with the DSP extension: blocks of 2 channels x 4 pixels, whose eight sums stay in registers.
 *
 * Four windows at a time are expanded to columns of int16 that lie word by word side by side: [step][pixel], a step being
 * two taps (columns.h). Weights stay int8, two channels interleaved: [pair of channels][step][c0 ta, c1 ta, c0 tb, c1 tb],
 * so that one load and two SXTB16 give both channels' pairs of taps. A step is 5 loads, 2 SXTB16 and 8 SMLAD for 16
 * products. An odd last channel is done together with the one before it, once more; so are pixels that do not fill a
 * group of four.
 *
 * Where the output's zero point is -128 and the numbers of both channels of a pair allow, their sums are scaled by 2^k, k
 * such that one right shift serves all channels (bf_requantize_prescaled): bf_channel.shift is k. That saves two
 * instructions of five.
 *
 * The blocks are written in assembly, because compilers spill eight sums; the same algorithm stands below in C, for other
 * machines and as the reference of the assembly. */
#include "columns.h"
#include "dsp_text.h"
#include "requantize.h"

#if BF_WITH_DSP

/* What the block kernel reads, in this order. */
struct blocks {
    const uint32_t *columns;
    const uint8_t *weights;
    uint32_t steps;
    int8_t *output;         /* or int32_t[8], where `finished` is 0 */
    int8_t *output_end;     /* of the groups of four pixels */
    const uint8_t *weights_end;
    uint32_t steps_to_skip; /* so that steps + steps_to_skip is a multiple of 12 */
    uint32_t out_c;
    const struct bf_channel *channels; /* two, both prescaled or both with right shifts */
    int32_t finished;       /* -1, or 0: store the sums of the first group as they are, [channel][pixel] */
};

static inline int32_t prescaled(int32_t sum, const struct bf_channel *channel)
{
    return bf_requantize_prescaled((int32_t)((uint32_t)sum << channel->shift), channel->multiplier, channel->rounding,
                                   BF_PRESCALED_SUM_SHIFT);
}

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP) && !defined(BF_NO_ASSEMBLY)
/* s0-s7 hold the arguments, s8-s15 the channels with their shifts negated, or 0 where sums are not finished. r0 columns, r1 weights, r2-r5 working registers, sums of channel 0 in r6-r9, of channel 1
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

#define REQUANTIZE(sum) \
    "lsl r4, " #sum ", #1\n" \
    "smmlar r4, r4, r1, r2\n" \
    BF_LESS_SIGN(r4, r4, sum) \
    "asr r4, r4, r3\n" \
    "ssat r4, #8, r4\n"
#define REQUANTIZE_SCALED(sum)         \
    "lsl r4, " #sum ", r3\n"           \
    BF_HIGH_PART "r4, r4, r1, r2\n"            \
    "ssat r4, #8, r4, asr #" BF_TEXT(BF_PRESCALED_SUM_SHIFT) "\n"
/* The first channel's outputs, then the second one's, the first of them last; r0 ends where it began. */
#define FIRST_CHANNEL(requantize)                  \
    requantize(r6) "strb r4, [r0]\n"               \
    requantize(r7) "strb r4, [r0, r5]\n"           \
    requantize(r8) "strb r4, [r0, r5, lsl #1]\n"   \
    "add r0, r0, r5\n"                             \
    requantize(r9) "strb r4, [r0, r5, lsl #1]\n"
#define SECOND_CHANNEL(requantize)                 \
    "adds r0, r0, #1\n"                            \
    requantize(r11) "strb r4, [r0]\n"              \
    requantize(r12) "strb r4, [r0, r5]\n"          \
    requantize(r14) "strb r4, [r0, r5, lsl #1]\n"  \
    "subs r0, r0, r5\n"                            \
    requantize(r10) "strb r4, [r0], #-1\n"
#define NEXT_GROUP                                 \
    "vmov r1, s4\n"                                \
    "add r0, r0, r5, lsl #2\n"                     \
    "vmov s3, r0\n"                                \
    "cmp r0, r1\n"                                 \
    "vmov r0, s0\n"                                \
    "bne 2b\n"                                     \
    "pop {r4-r11, pc}\n"

__attribute__((naked, noinline)) static void run_blocks(__attribute__((unused)) const struct blocks *blocks)
{
    __asm volatile(
        ".syntax unified\n"
        "push {r4-r11, lr}\n"
        "vldm r0, {s0-s7}\n"
        "ldr r1, [r0, #32]\n"
        "ldr r2, [r0, #36]\n"
        "vldm r1, {s8-s15}\n"
        "vmov r3, s11\n"
        "vmov r4, s15\n"
        "muls r3, r2, r3\n"
        "muls r4, r2, r4\n"
        "vmov s11, r3\n"
        "vmov s15, r4\n"
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
        "vmov r10, s12\n"
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
        "vmov r3, s11\n"
        "vmov s0, r0\n"
        "cmp r3, #0\n"
        "vmov r0, s3\n"
        "vmov r1, s9\n"
        "vmov r2, s10\n"
        "vmov r5, s7\n"
        "ble 5f\n"
        FIRST_CHANNEL(REQUANTIZE)
        "vmov r1, s13\n"
        "vmov r2, s14\n"
        "vmov r3, s15\n"
        SECOND_CHANNEL(REQUANTIZE)
        NEXT_GROUP
        "5:\n"
        "beq 4f\n"
        "rsb r3, r3, #0\n"
        FIRST_CHANNEL(REQUANTIZE_SCALED)
        "vmov r1, s13\n"
        "vmov r2, s14\n"
        "vmov r3, s15\n"
        "rsb r3, r3, #0\n"
        SECOND_CHANNEL(REQUANTIZE_SCALED)
        NEXT_GROUP
        "4:\n"
        "stm r0, {r6-r12, r14}\n"
        "pop {r4-r11, pc}\n");
}

#else
static void run_blocks(const struct blocks *b)
{
    const uint32_t *column = b->columns;
    int8_t *output = b->output;
    for (; output != b->output_end; output += 4 * b->out_c) {
        int32_t sums[2][4];
        for (uint32_t p = 0; p < 4; p++) {
            sums[0][p] = b->channels[0].bias;
            sums[1][p] = b->channels[1].bias;
        }
        const uint8_t *weights = b->weights;
        for (; weights < b->weights_end; weights += 4, column += 4) {
            uint32_t word = bf_load32(weights), w0 = bf_sxtb16(word), w1 = bf_sxtb16_ror8(word);
            for (uint32_t p = 0; p < 4; p++) {
                sums[0][p] = bf_smlad(column[p], w0, sums[0][p]);
                sums[1][p] = bf_smlad(column[p], w1, sums[1][p]);
            }
        }
        if (!b->finished) {
            for (uint32_t i = 0; i < 8; i++) {
                bf_store32(output + 4 * i, (uint32_t)sums[i / 4][i % 4]);
            }
            return;
        }
        for (uint32_t c = 0; c < 2; c++) {
            const struct bf_channel *channel = b->channels + c;
            for (uint32_t p = 0; p < 4; p++) {
                output[p * b->out_c + c] = (int8_t)(channel->shift > 0
                                                        ? prescaled(sums[c][p], channel)
                                                        : bf_requantize_dsp(sums[c][p], channel->multiplier,
                                                                            channel->rounding, -channel->shift));
            }
        }
    }
}
#endif

/* Group by group, requantised here: where the two channels (or the only one) are not of one kind of requantisation. */
static __attribute__((noinline)) void run_mixed(const struct blocks *b, const struct bf_channel *channels, uint32_t count,
                                                int32_t out_zero)
{
    struct bf_channel two[2] = {channels[0], channels[count - 1]};
    struct blocks one = *b;
    one.channels = two;
    one.finished = 0;
    for (int8_t *output = b->output; output != b->output_end; output += 4 * b->out_c) {
        int32_t sums[2][4];
        one.output = (int8_t *)sums;
        run_blocks(&one);
        for (uint32_t c = 0; c < count; c++) {
            for (uint32_t p = 0; p < 4; p++) {
                int32_t value = two[c].rounding != 0 && two[c].shift > 0 ? prescaled(sums[c][p], two + c)
                                                                         : bf_requantize(sums[c][p], two + c, out_zero);
                output[p * b->out_c + c] = (int8_t)bf_ssat8(value);
            }
        }
        one.columns += 4 * b->steps;
    }
}

static int is_pair(const struct bf_channel *channels)
{
    return channels[0].rounding != 0 && channels[1].rounding != 0 && (channels[0].shift > 0) == (channels[1].shift > 0);
}

/* Are all channels of kinds that make pairs? An odd last one makes one with the channel before it. */
static int all_pairs(const struct bf_channel *channels, uint32_t count)
{
    int all = count > 1;
    for (uint32_t c = 0; c + 1 < count; c += 2) {
        all &= is_pair(channels + c);
    }
    return all && is_pair(channels + count - 2);
}

static inline __attribute__((always_inline)) void run_pair(const struct bf_window *op, const struct blocks *b, int pairs)
{
    if (pairs || (op->out_c > 1 && is_pair(b->channels))) {
        run_blocks(b);
    } else {
        run_mixed(b, b->channels, op->out_c > 1 ? 2 : 1, op->out_zero);
    }
}

void bf_conv2d_columns(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                       void *scratch)
{
    const struct bf_channel *channels = (const struct bf_channel *)(program + op->channels);
    uint32_t pixels = (uint32_t)op->out_h * op->out_w; /* at least 4 */
    struct blocks b;
    b.steps = op->steps;
    b.steps_to_skip = 11 - (b.steps + 11) % 12;
    b.out_c = op->out_c;
    b.finished = -1;
    int pairs = all_pairs(channels, op->out_c);
    int8_t *stage = (int8_t *)((uint32_t *)scratch + op->chunk * b.steps);
    for (uint32_t first = 0; first < pixels;) {
        uint32_t left = pixels - first, count = left < op->chunk ? left : op->chunk, rest = 0;
        if (left > count && left - count < 4 && count > 4) {
            count -= 4; /* the last pass gets a whole group */
        } else if (left < 4) {
            first = pixels - 4; /* pixels that were done already fill the last group */
            count = 4;
        } else {
            rest = count & 3; /* the last group overlaps the one before */
        }
        uint32_t whole = count & ~3u, *last = (uint32_t *)scratch + whole * b.steps;
        bf_pack_columns(op, input, first, whole, scratch, stage);
        if (rest > 0) {
            bf_pack_columns(op, input, pixels - 4, 4, last, stage);
        }
        b.weights = program + op->weights;
        for (uint32_t c = 0; c < op->out_c; c += 2) {
            uint32_t from = c + 1 < op->out_c || c == 0 ? c : c - 1;
            b.weights_end = b.weights + 4 * b.steps;
            b.channels = channels + from;
            b.columns = scratch;
            b.output = output + first * op->out_c + from;
            b.output_end = b.output + whole * op->out_c;
            run_pair(op, &b, pairs);
            if (rest > 0) {
                b.columns = last;
                b.output = output + (pixels - 4) * op->out_c + from;
                b.output_end = b.output + 4 * op->out_c;
                run_pair(op, &b, pairs);
            }
            b.weights = b.weights_end;
        }
        first += count;
    }
    bf_clamp_all(output, pixels * op->out_c, op->least, op->greatest);
}
#endif
