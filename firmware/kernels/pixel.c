/* fully_connected, and conv2d of few pixels, with the DSP extension: one window at a time against four channels.
 *
 * The window is expanded to one column of int16 (columns.h). Weights are int8, four channels interleaved:
 * [group of 4 channels][step][c0 ta, c1 ta, c0 tb, c1 tb, c2 ta, c3 ta, c2 tb, c3 tb], channels that fill the last group
 * are zero. Four taps are 6 loads, 8 SXTB16 and 8 SMLAD for 16 products. */
#include "columns.h"
#include "dsp_text.h"
#include "requantize.h"

#if BF_WITH_DSP

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP) && !defined(BF_NO_ASSEMBLY)
/* What the assembly reads, in this order: quads of channels. */
struct quads {
    const uint32_t *column;
    const uint8_t *weights;
    uint32_t turns, skipped, count;
    const struct bf_channel *channels;
    int8_t *output;
};

/* s0-s6 hold the quads. r0 column and r1 weights, both less one word, so that the last loads of a turn can move them on;
 * r6-r9 sums, r14 turns. Four groups of four taps a turn; the first turn is entered behind the groups that fill it, with
 * pointers moved back by as much: s3 groups, s7 bytes of weights; s8 the entry. */
#define LOAD(u, column_end, weights_end)                  \
    "ldr r2, [r1, #16*" #u "+4]\n"                        \
    "ldr r3, [r1, #16*" #u "+8]\n"                        \
    "ldr r4, [r1, #16*" #u "+12]\n"                       \
    "ldr r5, [r1, #16*" #u "+16]" weights_end "\n"        \
    "ldr r10, [r0, #8*" #u "+4]\n"                        \
    "ldr r11, [r0, #8*" #u "+8]" column_end "\n"
#define GROUP(u, end)                                     \
    LOAD(u, end, end)                                     \
    PAIR(r2, r10, r6, r7) PAIR(r3, r10, r8, r9) PAIR(r4, r11, r6, r7) PAIR(r5, r11, r8, r9)
#define PAIR(w, x, first, second)                   \
    "sxtb16 r12, " #w "\n"                          \
    "sxtb16 " #w ", " #w ", ror #8\n"               \
    "smlad " #first ", " #x ", r12, " #first "\n"   \
    "smlad " #second ", " #x ", " #w ", " #second "\n"
#define GROUP_BYTES "80" /* four loads of 16 bits, eighteen instructions of 32 */
#define FINISH(y)                       \
    "ldm r0!, {r2-r5}\n"                \
    "cmp r4, #0\n"                      \
    "beq 4f\n"                          \
    "add " #y ", " #y ", r2\n"          \
    "lsl " #y ", " #y ", #1\n"          \
    "rsbs r5, r5, #0\n"                 \
    BF_LESS_SIGN(r4, r4, y)             \
    "smmlar " #y ", " #y ", r3, r4\n"   \
    "asr " #y ", " #y ", r5\n"          \
    "ssat " #y ", #8, " #y "\n"         \
    "strb " #y ", [r12], #1\n"

/* The number of quads that are left: it ends at one with a channel that has no short requantisation. */
__attribute__((naked, noinline)) static uint32_t run_quads(__attribute__((unused)) const struct quads *quads)
{
    __asm volatile(
        ".syntax unified\n"
        "push {r4-r11, lr}\n"
        "vldm r0, {s0-s6}\n"
        "vmov r4, s3\n"
        "vmov r0, s0\n"
        "vmov r1, s1\n"
        "sub r0, r0, r4, lsl #3\n"
        "sub r0, r0, #4\n"
        "sub r1, r1, #4\n"
        "vmov s0, r0\n"
        "lsl r5, r4, #4\n"
        "vmov s7, r5\n"
        "mov r5, #" GROUP_BYTES "\n"
        "adr r12, 3f\n"
        "mla r4, r4, r5, r12\n"
        "orr r4, r4, #1\n"
        "vmov s8, r4\n"
        "1:\n"
        "vmov r0, s0\n"
        "vmov r2, s7\n"
        "vmov r14, s2\n"
        "vmov r12, s8\n"
        "subs r1, r1, r2\n"
        "mov r6, #0\n"
        "mov r7, r6\n"
        "mov r8, r6\n"
        "mov r9, r6\n"
        "bx r12\n"
        ".balign 4\n"
        "3:\n"
        GROUP(0, "") GROUP(1, "") GROUP(2, "") GROUP(3, "!")
        "subs r14, r14, #1\n"
        "bne 3b\n"
        "vmov r0, s5\n"
        "vmov r12, s6\n"
        FINISH(r6) FINISH(r7) FINISH(r8) FINISH(r9)
        "vmov s5, r0\n"
        "vmov s6, r12\n"
        "vmov r2, s4\n"
        "subs r2, r2, #1\n"
        "vmov s4, r2\n"
        "bne 1b\n"
        "4:\n"
        "vmov r0, s4\n"
        "pop {r4-r11, pc}\n");
}

/* How many of `most` quads of channels are done, from the first on. */
static uint32_t run_some(const uint32_t *column, const uint8_t *weights, uint32_t groups, uint32_t most,
                         const struct bf_channel *channels, int8_t *output)
{
    struct quads quads = {column, weights, (groups + 3) / 4, -groups & 3, most, channels, output};
    return most > 0 ? most - run_quads(&quads) : 0;
}
#else
static uint32_t run_some(const uint32_t *column, const uint8_t *weights, uint32_t groups, uint32_t most,
                         const struct bf_channel *channels, int8_t *output)
{
    (void)column, (void)weights, (void)groups, (void)most, (void)channels, (void)output;
    return 0;
}
#endif

/* sums[0..3] = products of a column with four channels; `groups` of four taps. */
static void dot_4(const uint32_t *column, const uint8_t *weights, uint32_t groups, int32_t sums[4])
{
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (; groups > 0; groups--, weights += 16, column += 2) {
        uint32_t a = column[0], b = column[1];
        uint32_t v = bf_load32(weights), w = bf_load32(weights + 4);
        uint32_t x = bf_load32(weights + 8), y = bf_load32(weights + 12);
        s0 = bf_smlad(a, bf_sxtb16(v), s0);
        s1 = bf_smlad(a, bf_sxtb16_ror8(v), s1);
        s2 = bf_smlad(a, bf_sxtb16(w), s2);
        s3 = bf_smlad(a, bf_sxtb16_ror8(w), s3);
        s0 = bf_smlad(b, bf_sxtb16(x), s0);
        s1 = bf_smlad(b, bf_sxtb16_ror8(x), s1);
        s2 = bf_smlad(b, bf_sxtb16(y), s2);
        s3 = bf_smlad(b, bf_sxtb16_ror8(y), s3);
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

void bf_pixel(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output, void *scratch)
{
    const struct bf_channel *channels = (const struct bf_channel *)(program + op->channels);
    int32_t y = -(int32_t)op->pad_top;
    int8_t *to = output, *stage = (int8_t *)((uint32_t *)scratch + op->steps);
    for (uint32_t row = 0; row < op->out_h; row++, y += op->stride_h) {
        int32_t x = -(int32_t)op->pad_left;
        for (uint32_t at = 0; at < op->out_w; at++, x += op->stride_w) {
            const uint8_t *weights = program + op->weights;
            bf_pack_pixel(op, input, y, x, scratch, stage);
            for (uint32_t c = 0; c < op->out_c;) {
                uint32_t done = 4 * run_some(scratch, weights, op->steps / 2u, (op->out_c - c) / 4u, channels + c, to);
                to += done, c += done, weights += done * 2u * op->steps;
                if (c == op->out_c) {
                    break;
                }
                uint32_t count = op->out_c - c < 4 ? op->out_c - c : 4;
                int32_t sums[4];
                dot_4(scratch, weights, op->steps / 2u, sums);
                for (uint32_t i = 0; i < count; i++) {
                    const struct bf_channel *channel = channels + c + i;
                    int32_t sum = (int32_t)((uint32_t)sums[i] + (uint32_t)channel->bias);
                    *to++ = (int8_t)(channel->rounding != 0
                                         ? bf_requantize_dsp(sum, channel->multiplier, channel->rounding, -channel->shift)
                                         : bf_ssat8(bf_requantize(sum, channel, op->out_zero)));
                }
                c += count, weights += 8 * op->steps;
            }
        }
    }
    bf_clamp_all(output, (uint32_t)op->out_h * op->out_w * op->out_c, op->least, op->greatest);
}
#endif
