/* Planes: single channels of an int8 image as int16, for the depthwise kernels with the DSP extension. Columns of the
 * image lie in pairs, with the zero point where a pair reaches outside: word [pair of columns][row] is (x, x + 1). So the
 * rows of a window are words that follow each other, whatever the image's width. */
#ifndef BF_PLANES_H
#define BF_PLANES_H
#include "dsp.h"
#include "kernels.h"
#include "requantize.h"

/* A channel's sum -> int8, of weights and bias that are scaled: 2^k times TFLite's where the channel's shift is 0, twice
 * where it has another short requantisation. */
static inline int32_t bf_requantize_scaled(int32_t sum, const struct bf_channel *channel, int32_t out_zero)
{
    if (channel->rounding == 0) {
        return bf_ssat8(bf_requantize(sum, channel, out_zero));
    }
    if (channel->shift == 0) {
        return bf_requantize_prescaled(sum, channel->multiplier, channel->rounding);
    }
    return bf_requantize_doubled(sum, channel->multiplier, channel->rounding, -channel->shift);
}

/* Rows from y on, `height` of them, of `count` channels (1 to 4) into as many planes of `columns` columns of `height`
 * words. What lies outside the image is written only with `borders`: it stays as it is for other channels of the rows. */
void bf_gather(const struct bf_window *op, const int8_t *input, int32_t y, uint32_t count, uint32_t columns,
               uint32_t height, int borders, uint32_t *to);
#endif
