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
        return bf_requantize_prescaled(sum, channel->multiplier, channel->rounding, BF_PRESCALED_SHIFT);
    }
    return bf_requantize_doubled(sum, channel->multiplier, channel->rounding, -channel->shift);
}

/* Pairs of columns that lie in the image whole, of four channels; what the assembly reads, in this order. */
struct bf_columns {
    const int8_t *from;          /* the first left column */
    uint32_t both, pitch, pixel; /* bytes from row to row, from the left column to the right one; both together */
    uint32_t *to;                /* the first plane */
    uint32_t plane_bytes;
    uint32_t *third;             /* plane */
    uint32_t even_bytes;         /* of a plane's column under pairs of rows */
    uint32_t count, odd;         /* of columns; is there a row without a partner? */
    uint32_t step, plane_step;   /* to the next column: of the image from behind pairs of rows, of the plane from the end */
};

/* How rows of an image become planes: the same for all channels. */
struct bf_gather {
    const struct bf_window *op;
    uint32_t *to;
    uint32_t columns, height; /* of a plane, in words */
    uint32_t kept;            /* rows that are in the planes already */
    uint32_t above, rows;     /* rows outside before the image or kept, rows of the image */
    uint32_t pairs;           /* of columns that lie in the image whole */
    int32_t first;            /* bytes from a channel's begin to the first of these */
    uint32_t right_half, left_half; /* is there a pair before them, or behind, with one half in the image? */
    struct bf_columns whole;
};

/* `height` rows from row y on, which may lie outside, into planes of `columns` columns at `to`; the first `kept` of them are
 * there already (none: 0). */
struct bf_gather bf_gather_of(const struct bf_window *op, int32_t y, uint32_t kept, uint32_t columns, uint32_t height,
                              uint32_t *to);

/* `count` channels (1 to 4) from `input` on into as many planes. What lies outside the image is written only with
 * `borders`: it stays as it is for other channels of the rows. */
void bf_gather_channels(struct bf_gather *gather, const int8_t *input, uint32_t count, int borders);

/* All bands of the channels from `begin` to `end` - 1, at most four of them where `keep` is not 0: then the first `keep`
 * rows of a band's windows come from the planes of the band before. */
typedef void bf_lanes(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                      uint32_t *scratch, uint32_t begin, uint32_t end, uint32_t keep);

/* The whole operator. In place (output == input, no channel multiplier) a channel's outputs lie only where its own inputs
 * lay. Where a band overwrites rows that the next one reads, all bands of four channels come before the next four, and
 * their planes keep these rows. */
void bf_run_lanes(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output, void *scratch,
                  bf_lanes *run);

/* Between bands: the rows from `row` on become the first rows of planes that are `height` words high, or fewer. */
void bf_keep_rows(const struct bf_gather *gather, uint32_t row, uint32_t keep, uint32_t planes, uint32_t height);
#endif
