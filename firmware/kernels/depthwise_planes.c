/* depthwise_conv2d with the DSP extension. Four channels at a time are gathered into int16 planes with the zero point
 * around them; then each plane is a small image of its own, whose neighbours in a row meet two weights in one SMLAD.
 * `chunk` output rows are done at a time, which bounds the planes.
 *
 * Weights are int16, [channel][row][pairs of columns]; an odd last column is paired with a zero. Where the short
 * requantisation holds, weights and bias are doubled, which saves it a shift. */
#include "columns.h"
#include "requantize.h"

#if BF_WITH_DSP

struct planes {
    int16_t *data;
    uint32_t pitch;  /* of a row, in elements; even */
    uint32_t size;   /* of a plane, in elements */
    uint32_t height; /* rows in use */
};

/* Rows from y on of `count` channels; rows and columns outside the image take the zero point. */
static void gather(const struct bf_window *op, const int8_t *input, int32_t y, uint32_t count, const struct planes *to)
{
    int32_t zero = op->in_zero;
    for (uint32_t row = 0; row < to->height; row++, y++) {
        int16_t *plane = to->data + row * to->pitch;
        uint32_t at = 0;
        if (y >= 0 && y < op->in_h) {
            const int8_t *from = input + (uint32_t)y * op->in_w * op->in_c;
            for (; at < op->pad_left; at++) {
                for (uint32_t j = 0; j < count; j++) {
                    plane[j * to->size + at] = (int16_t)zero;
                }
            }
            uint32_t end = at + op->in_w;
            end = end < to->pitch ? end : to->pitch;
            if (count == 4) {
                int16_t *p0 = plane, *p1 = p0 + to->size, *p2 = p1 + to->size, *p3 = p2 + to->size;
                for (; at < end; at++, from += op->in_c) {
                    uint32_t bytes = bf_load32(from), even = bf_sxtb16(bytes), odd = bf_sxtb16_ror8(bytes);
                    p0[at] = (int16_t)even;
                    p1[at] = (int16_t)odd;
                    p2[at] = (int16_t)(even >> 16);
                    p3[at] = (int16_t)(odd >> 16);
                }
            }
            for (; at < end; at++, from += op->in_c) {
                for (uint32_t j = 0; j < count; j++) {
                    plane[j * to->size + at] = from[j];
                }
            }
        }
        for (; at < to->pitch; at++) {
            for (uint32_t j = 0; j < count; j++) {
                plane[j * to->size + at] = (int16_t)zero;
            }
        }
    }
}

/* Sums of four windows whose upper left corners are `step` elements apart. */
static inline void four_windows(const struct bf_window *op, const int16_t *window, uint32_t step, uint32_t pitch,
                                const uint8_t *weights, int32_t sums[4])
{
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    uint32_t pairs = (op->kernel_w + 1u) / 2;
    for (uint32_t row = op->kernel_h; row > 0; row--, window += pitch) {
        const int16_t *p0 = window, *p1 = p0 + step, *p2 = p1 + step, *p3 = p2 + step;
        for (uint32_t i = pairs; i > 0; i--, p0 += 2, p1 += 2, p2 += 2, p3 += 2, weights += 4) {
            uint32_t w = bf_load32(weights);
            s0 = bf_smlad(bf_load32(p0), w, s0);
            s1 = bf_smlad(bf_load32(p1), w, s1);
            s2 = bf_smlad(bf_load32(p2), w, s2);
            s3 = bf_smlad(bf_load32(p3), w, s3);
        }
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

/* `rows` output rows of one channel. Four neighbours at a time; the last four overlap the ones before, and in a row of
 * less than four the windows are one and the same. */
static void run_plane(const struct bf_window *op, const int16_t *plane, uint32_t pitch, const uint8_t *weights,
                      const struct bf_channel *channel, uint32_t rows, int8_t *output)
{
    uint32_t width = op->out_w, count = width < 4 ? 1 : 4, step = width < 4 ? 0 : op->stride_w;
    for (; rows > 0; rows--, plane += pitch * op->stride_h, output += width * op->out_c) {
        for (uint32_t at = 0; at < width; at += count) {
            at = at + count > width ? width - count : at;
            int32_t sums[4] = {channel->bias, channel->bias, channel->bias, channel->bias};
            int8_t *to = output + at * op->out_c;
            four_windows(op, plane + at * op->stride_w, step, pitch, weights, sums);
            for (uint32_t i = 0; i < count; i++, to += op->out_c) {
                *to = (int8_t)(channel->rounding != 0 ? bf_requantize_doubled(sums[i], channel->multiplier,
                                                                              channel->rounding, -channel->shift)
                                                      : bf_ssat8(bf_requantize(sums[i], channel, op->out_zero)));
            }
        }
    }
}

void bf_depthwise_planes(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                         void *scratch)
{
    const struct bf_channel *channels = (const struct bf_channel *)(program + op->channels);
    uint32_t copies = op->out_c / op->in_c; /* the channel multiplier */
    uint32_t weight_bytes = op->kernel_h * ((op->kernel_w + 1u) / 2) * 4;
    struct planes planes;
    planes.data = scratch;
    planes.pitch = ((op->out_w - 1u) * op->stride_w + ((op->kernel_w + 1u) & ~1u) + 1u) & ~1u;
    planes.size = planes.pitch * ((op->chunk - 1u) * op->stride_h + op->kernel_h);
    for (uint32_t first = 0; first < op->out_h; first += op->chunk) {
        uint32_t rows = op->out_h - first < op->chunk ? op->out_h - first : op->chunk;
        planes.height = (rows - 1) * op->stride_h + op->kernel_h;
        for (uint32_t in_c = 0; in_c < op->in_c; in_c += 4) {
            uint32_t count = op->in_c - in_c < 4 ? op->in_c - in_c : 4;
            gather(op, input + in_c, (int32_t)(first * op->stride_h) - op->pad_top, count, &planes);
            for (uint32_t c = in_c * copies; c < (in_c + count) * copies; c++) {
                run_plane(op, planes.data + (c / copies - in_c) * planes.size, planes.pitch,
                          program + op->weights + c * weight_bytes, channels + c, rows,
                          output + first * op->out_w * op->out_c + c);
            }
        }
    }
    bf_clamp_all(output, (uint32_t)op->out_h * op->out_w * op->out_c, op->least, op->greatest);
}
#endif
