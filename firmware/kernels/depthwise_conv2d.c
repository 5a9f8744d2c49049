/* depthwise_conv2d without the DSP extension. Weights are [channel][tap], so that a channel's taps lie in a row. Rows of
 * windows that reach outside the image take the zero point there, which the folded bias expects. */
#include "kernels.h"
#include "requantize.h"

#if BF_WITH_PLAIN
/* Windows inside the image: two neighbours in a row share the loads of the weights. */
static inline void window_pair(const int8_t *p0, const int8_t *p1, const int8_t *w, uint32_t height, uint32_t width,
                               uint32_t pixel, uint32_t pitch, int32_t sums[2])
{
    uint32_t s0 = (uint32_t)sums[0], s1 = (uint32_t)sums[1];
    for (; height > 0; height--, p0 += pitch, p1 += pitch) {
        const int8_t *a = p0, *b = p1;
        for (uint32_t i = width; i > 0; i--, a += pixel, b += pixel) {
            int32_t v = *w++;
            s0 += (uint32_t)(*a * v);
            s1 += (uint32_t)(*b * v);
        }
    }
    sums[0] = (int32_t)s0, sums[1] = (int32_t)s1;
}

static int32_t window_at_edge(const struct bf_window *op, const int8_t *image, const int8_t *w, int32_t y, int32_t x,
                              int32_t bias)
{
    uint32_t sum = (uint32_t)bias;
    for (int32_t i = y; i < y + op->kernel_h; i++) {
        for (int32_t j = x; j < x + op->kernel_w; j++) {
            int inside = i >= 0 && i < op->in_h && j >= 0 && j < op->in_w;
            sum += (uint32_t)(*w++ * (inside ? image[(i * op->in_w + j) * op->in_c] : op->in_zero));
        }
    }
    return (int32_t)sum;
}

static void plain(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output)
{
    const int8_t *weights = (const int8_t *)(program + op->weights);
    const struct bf_channel *channels = (const struct bf_channel *)(program + op->channels);
    uint32_t taps = (uint32_t)op->kernel_h * op->kernel_w, pitch = (uint32_t)op->in_w * op->in_c;
    uint32_t copies = op->out_c / op->in_c; /* the channel multiplier */
    for (uint32_t c = 0, in_c = 0, copy = 0; c < op->out_c; c++) {
        const int8_t *w = weights + c * taps, *image = input + in_c;
        const struct bf_channel *channel = channels + c;
        int8_t *to = output + c;
        int32_t y = -(int32_t)op->pad_top;
        for (uint32_t row = 0; row < op->out_h; row++, y += op->stride_h) {
            int32_t x = -(int32_t)op->pad_left;
            int inside = y >= 0 && y + op->kernel_h <= op->in_h;
            for (uint32_t at = 0; at < op->out_w;) {
                int32_t sums[2] = {channel->bias, channel->bias};
                uint32_t count = 1;
                if (inside && x >= 0 && at + 1 < op->out_w && x + op->stride_w + op->kernel_w <= op->in_w) {
                    const int8_t *p = image + (uint32_t)(y * op->in_w + x) * op->in_c;
                    count = 2;
                    window_pair(p, p + op->stride_w * op->in_c, w, op->kernel_h, op->kernel_w, op->in_c, pitch, sums);
                } else {
                    sums[0] = window_at_edge(op, image, w, y, x, channel->bias);
                }
                for (uint32_t i = 0; i < count; i++, at++, x += op->stride_w, to += op->out_c) {
                    int32_t value = bf_requantize(sums[i], channel, op->out_zero);
                    *to = (int8_t)bf_clamp(value, op->least, op->greatest);
                }
            }
        }
        if (++copy == copies) {
            copy = 0;
            in_c++;
        }
    }
}
#endif

void bf_depthwise_conv2d(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                         void *scratch)
{
#if BF_WITH_PLAIN
    if (op->head.kernel == BF_KERNEL_PLAIN) {
        plain(op, program, input, output);
    }
#endif
#if BF_WITH_DSP
    if (op->head.kernel == BF_KERNEL_DSP_3X3) {
        bf_depthwise_3x3(op, program, input, output, scratch);
    } else if (op->head.kernel == BF_KERNEL_DSP_LINE) {
        bf_depthwise_line(op, program, input, output, scratch);
    } else if (op->head.kernel == BF_KERNEL_DSP_PLANES) {
        bf_depthwise_planes(op, program, input, output, scratch);
    }
#else
    (void)scratch;
#endif
}
