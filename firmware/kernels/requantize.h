/* int32 sums -> int8, bit for bit as TensorFlow Lite Micro: a doubling high multiplication that rounds half up, then a
 * right shift that rounds half away from zero. */
#ifndef BF_REQUANTIZE_H
#define BF_REQUANTIZE_H
#include <stdint.h>

#include "../runtime/program.h"

/* MultiplyByQuantizedMultiplier for any sum; multiplier >= 0, shift -31 to 30. A left shift wraps. */
static inline int32_t bf_multiply(int32_t x, int32_t multiplier, int32_t shift)
{
    uint32_t right = shift > 0 ? 0 : (uint32_t)-shift;
    int32_t shifted = shift > 0 ? (int32_t)((uint32_t)x << shift) : x;
    int32_t high = (int32_t)(((int64_t)shifted * multiplier + (1 << 30)) >> 31);
    uint32_t mask = (1u << right) - 1;
    uint32_t threshold = (mask >> 1) + (high < 0);
    return (high >> right) + (((uint32_t)high & mask) > threshold);
}

static inline int32_t bf_clamp(int32_t x, int32_t least, int32_t greatest)
{
    return x < least ? least : x > greatest ? greatest : x;
}

/* The same with the zero point, for 1 <= right_shift, |sum| < 2^30 and |rounding| < 2^30: both roundings are additions.
 * The first one is SMMLAR's; the second adds 2^(right_shift - 1), less one where the sum is negative. */
static inline int32_t bf_requantize_short(int32_t sum, int32_t multiplier, int32_t rounding, int32_t right_shift)
{
    int32_t high = (int32_t)(((int64_t)sum * multiplier + (1 << 30)) >> 31);
#if BF_MUTATE == 1 /* for the test of the tests */
    return (high + rounding) >> right_shift;
#else
    return (high + rounding + (sum >> 31)) >> right_shift;
#endif
}

/* A channel's sum -> output, zero point added, not yet clamped. */
static inline int32_t bf_requantize(int32_t sum, const struct bf_channel *channel, int32_t out_zero)
{
    if (channel->rounding != 0) {
        return bf_requantize_short(sum, channel->multiplier, channel->rounding, -channel->shift);
    }
    return (int32_t)((uint32_t)bf_multiply(sum, channel->multiplier, channel->shift) + (uint32_t)out_zero);
}
#endif
