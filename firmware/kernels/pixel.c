/* fully_connected, and conv2d of few pixels, with the DSP extension: one window at a time against four channels.
 *
 * The window is expanded to one column of int16 (columns.h). Weights are int8, four channels interleaved:
 * [group of 4 channels][step][c0 ta, c1 ta, c0 tb, c1 tb, c2 ta, c3 ta, c2 tb, c3 tb], channels that fill the last group
 * are zero. Four taps are 6 loads, 8 SXTB16 and 8 SMLAD for 16 products. */
#include "columns.h"
#include "requantize.h"

#if BF_WITH_DSP

/* sums[0..3] = products of a column with four channels; `groups` of four taps, at least one. */
#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP) && !defined(BF_NO_ASSEMBLY)
/* r0 column, r1 weights, r6-r9 sums, r14 turns. Four groups a turn; the first turn is entered behind the groups that fill
 * it, with pointers moved back by as much. */
#define GROUP(u)                            \
    "ldr r2, [r1, #16*" #u "]\n"            \
    "ldr r3, [r1, #16*" #u "+4]\n"          \
    "ldr r4, [r1, #16*" #u "+8]\n"          \
    "ldr r5, [r1, #16*" #u "+12]\n"         \
    "ldr r10, [r0, #8*" #u "]\n"            \
    "ldr r11, [r0, #8*" #u "+4]\n"          \
    PAIR(r2, r10, r6, r7) PAIR(r3, r10, r8, r9) PAIR(r4, r11, r6, r7) PAIR(r5, r11, r8, r9)
#define PAIR(w, x, first, second)                   \
    "sxtb16 r12, " #w "\n"                          \
    "sxtb16 " #w ", " #w ", ror #8\n"               \
    "smlad " #first ", " #x ", r12, " #first "\n"   \
    "smlad " #second ", " #x ", " #w ", " #second "\n"
#define GROUP_BYTES "80" /* four loads of 16 bits, eighteen instructions of 32 */

__attribute__((naked, noinline)) static void dot_4(__attribute__((unused)) const uint32_t *column,
                                                   __attribute__((unused)) const uint8_t *weights,
                                                   __attribute__((unused)) uint32_t groups,
                                                   __attribute__((unused)) int32_t sums[4])
{
    __asm volatile(
        ".syntax unified\n"
        "push {r3-r11, lr}\n"
        "rsb r4, r2, #0\n"
        "and r4, r4, #3\n" /* groups to skip */
        "add r14, r2, r4\n"
        "lsr r14, r14, #2\n"
        "sub r0, r0, r4, lsl #3\n"
        "sub r1, r1, r4, lsl #4\n"
        "mov r5, #" GROUP_BYTES "\n"
        "adr r12, 3f\n"
        "mla r4, r4, r5, r12\n"
        "orr r4, r4, #1\n"
        "mov r6, #0\n"
        "mov r7, #0\n"
        "mov r8, #0\n"
        "mov r9, #0\n"
        "bx r4\n"
        ".balign 4\n"
        "3:\n"
        GROUP(0) GROUP(1) GROUP(2) GROUP(3)
        "adds r0, r0, #32\n"
        "adds r1, r1, #64\n"
        "subs r14, r14, #1\n"
        "bne 3b\n"
        "pop {r3}\n"
        "stm r3, {r6-r9}\n"
        "pop {r4-r11, pc}\n");
}
#else
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
#endif

void bf_pixel(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output, void *scratch)
{
    const struct bf_channel *channels = (const struct bf_channel *)(program + op->channels);
    int32_t y = -(int32_t)op->pad_top;
    int8_t *to = output, *stage = (int8_t *)((uint32_t *)scratch + op->steps);
    for (uint32_t row = 0; row < op->out_h; row++, y += op->stride_h) {
        int32_t x = -(int32_t)op->pad_left;
        for (uint32_t at = 0; at < op->out_w; at++, x += op->stride_w) {
            const uint8_t *weights = program + op->weights;
            bf_pack_window(op, input, y, x, scratch, 1, stage);
            for (uint32_t c = 0; c < op->out_c; c += 4, weights += 8 * op->steps) {
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
            }
        }
    }
    bf_clamp_all(output, (uint32_t)op->out_h * op->out_w * op->out_c, op->least, op->greatest);
}
#endif
