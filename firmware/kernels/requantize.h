/* int32 sums -> int8, bit for bit as TensorFlow Lite Micro: a doubling high multiplication that rounds half up, then a
 * right shift that rounds half away from zero. */
#ifndef BF_REQUANTIZE_H
#define BF_REQUANTIZE_H
#include <stdint.h>

#include "../runtime/program.h"

/* (x * multiplier + 2^30) >> 31 for multiplier >= 0: twice the product's high word, rounded. A Cortex-M0+ has no long
 * multiplication; from halves it takes four short ones. */
static inline int32_t bf_high_multiply(int32_t x, int32_t multiplier)
{
#if defined(__ARM_ARCH_6M__) || BF_SHORT_MULTIPLY
    int32_t x_high = x >> 16, m_high = multiplier >> 16;
    uint32_t x_low = (uint32_t)x & 0xffffu, m_low = (uint32_t)multiplier & 0xffffu;
    uint32_t low = x_low * m_low, middle = (uint32_t)(x_high * (int32_t)m_low);
    uint32_t other = x_low * (uint32_t)m_high + (low >> 16); /* below 2^31 + 2^16 */
    uint32_t sum = (middle & 0xffffu) + (other & 0xffffu);
    int32_t high = x_high * m_high + ((int32_t)middle >> 16) + (int32_t)(other >> 16) + (int32_t)(sum >> 16);
    /* The product is high * 2^32 + (sum & 0xffff) * 2^16 + (low & 0xffff): its lowest half decides no rounding at 2^30. */
    return (int32_t)(((uint32_t)high << 1) + (((sum & 0xffffu) + 0x4000u) >> 15));
#else
    return (int32_t)(((int64_t)x * multiplier + (1 << 30)) >> 31);
#endif
}

/* MultiplyByQuantizedMultiplier for any sum; multiplier >= 0, shift -31 to 30. A left shift wraps. */
static inline int32_t bf_multiply(int32_t x, int32_t multiplier, int32_t shift)
{
    uint32_t right = shift > 0 ? 0 : (uint32_t)-shift;
    int32_t shifted = shift > 0 ? (int32_t)((uint32_t)x << shift) : x;
    int32_t high = bf_high_multiply(shifted, multiplier);
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
    int32_t high = bf_high_multiply(sum, multiplier);
#if BF_MUTATE == 1 /* for the test of the tests */
    return (high + rounding) >> right_shift;
#else
    return (high + rounding + (sum >> 31)) >> right_shift;
#endif
}

#if defined(__ARM_ARCH_6M__)
#define BF_INLINE static __attribute__((noinline, unused)) /* some forty instructions there */
#else
#define BF_INLINE static inline
#endif

/* A channel's sum -> output, zero point added, not yet clamped. */
BF_INLINE int32_t bf_requantize(int32_t sum, const struct bf_channel *channel, int32_t out_zero)
{
    if (channel->rounding != 0) {
        return bf_requantize_short(sum, channel->multiplier, channel->rounding, -channel->shift);
    }
    return (int32_t)((uint32_t)bf_multiply(sum, channel->multiplier, channel->shift) + (uint32_t)out_zero);
}
#endif
