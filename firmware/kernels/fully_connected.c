/* fully_connected without the DSP extension: two channels at a time share the loads of the input. */
#include "kernels.h"
#include "requantize.h"

#if BF_WITH_PLAIN
static void plain(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output)
{
    const int8_t *weights = (const int8_t *)(program + op->weights);
    const struct bf_channel *channels = (const struct bf_channel *)(program + op->channels);
    uint32_t taps = op->in_c;
    for (uint32_t c = 0; c < op->out_c; c += 2) {
        uint32_t other = c + 1 < op->out_c ? c + 1 : c; /* a missing second channel is the first one again */
        const int8_t *w0 = weights + c * taps, *w1 = weights + other * taps;
        uint32_t s0 = (uint32_t)channels[c].bias, s1 = (uint32_t)channels[other].bias;
        for (uint32_t t = 0; t < taps; t++) {
            int32_t x = input[t];
            s0 += (uint32_t)(x * w0[t]);
            s1 += (uint32_t)(x * w1[t]);
        }
        output[c] = (int8_t)bf_clamp(bf_requantize((int32_t)s0, channels + c, op->out_zero), op->least, op->greatest);
        output[other] = (int8_t)bf_clamp(bf_requantize((int32_t)s1, channels + other, op->out_zero), op->least, op->greatest);
    }
}
#endif

void bf_fully_connected(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                        void *scratch)
{
#if BF_WITH_PLAIN
    if (op->head.kernel == BF_KERNEL_PLAIN) {
        plain(op, program, input, output);
    }
#endif
#if BF_WITH_DSP
    if (op->head.kernel == BF_KERNEL_DSP_PIXEL) {
        bf_pixel(op, program, input, output, scratch);
    }
#else
    (void)scratch;
#endif
}
