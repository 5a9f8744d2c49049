/* fully_connected, and conv2d of few pixels, with the DSP extension: one window at a time against four channels.
 *
 * The window is expanded to one column of int16 (columns.h). Weights are int8, four channels interleaved:
 * [group of 4 channels][step][c0 ta, c1 ta, c0 tb, c1 tb, c2 ta, c3 ta, c2 tb, c3 tb], channels that fill the last group
 * are zero. Four taps are 6 loads, 8 SXTB16 and 8 SMLAD for 16 products. */
#include "columns.h"
#include "requantize.h"

#if BF_WITH_DSP

/* sums[0..3] += products of a column with four channels; steps is even. */
static inline void dot_4(const uint32_t *column, const uint8_t *weights, uint32_t steps, int32_t sums[4])
{
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    for (uint32_t i = 0; i < steps; i += 2, weights += 16) {
        uint32_t a = column[i], b = column[i + 1];
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
            bf_pack_window(op, input, y, x, scratch, 1, stage);
            for (uint32_t c = 0; c < op->out_c; c += 4, weights += 8 * op->steps) {
                uint32_t count = op->out_c - c < 4 ? op->out_c - c : 4;
                int32_t sums[4] = {0, 0, 0, 0};
                dot_4(scratch, weights, op->steps, sums);
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
