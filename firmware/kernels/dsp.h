/* Instructions of the DSP extension (ARMv7-M Architecture Reference Manual, A7.7). Without it the same in C, so that the
 * kernels that use them run on a host under its sanitizers. */
#ifndef BF_DSP_H
#define BF_DSP_H
#include <stdint.h>

typedef struct {
    uint32_t value;
} __attribute__((packed, may_alias)) bf_unaligned32;

/* A word at any address; the compiler never makes LDM or LDRD of it, which would fault. */
static inline uint32_t bf_load32(const void *p)
{
    return ((const bf_unaligned32 *)p)->value;
}

static inline void bf_store32(void *p, uint32_t value)
{
    ((bf_unaligned32 *)p)->value = value;
}

#if defined(__ARM_FEATURE_DSP)
#define BF_INSTRUCTION2(name, text)                          \
    static inline uint32_t name(uint32_t a, uint32_t b)      \
    {                                                        \
        uint32_t r;                                          \
        __asm(text : "=r"(r) : "r"(a), "r"(b));              \
        return r;                                            \
    }
#define BF_INSTRUCTION3(name, text)                                    \
    static inline int32_t name(uint32_t a, uint32_t b, int32_t c)      \
    {                                                                  \
        int32_t r;                                                     \
        __asm(text : "=r"(r) : "r"(a), "r"(b), "r"(c));                \
        return r;                                                      \
    }

static inline uint32_t bf_sxtb16(uint32_t x)
{
    uint32_t r;
    __asm("sxtb16 %0, %1" : "=r"(r) : "r"(x));
    return r;
}

static inline uint32_t bf_sxtb16_ror8(uint32_t x)
{
    uint32_t r;
    __asm("sxtb16 %0, %1, ror #8" : "=r"(r) : "r"(x));
    return r;
}

static inline int32_t bf_ssat8(int32_t x)
{
    int32_t r;
    __asm("ssat %0, #8, %1" : "=r"(r) : "r"(x));
    return r;
}

BF_INSTRUCTION2(bf_sxtab16, "sxtab16 %0, %1, %2")
BF_INSTRUCTION2(bf_sxtab16_ror8, "sxtab16 %0, %1, %2, ror #8")
BF_INSTRUCTION2(bf_pkhbt_lsl16, "pkhbt %0, %1, %2, lsl #16")
BF_INSTRUCTION2(bf_pkhtb_asr16, "pkhtb %0, %1, %2, asr #16")
BF_INSTRUCTION2(bf_sadd16, "sadd16 %0, %1, %2")
BF_INSTRUCTION2(bf_ssub16, "ssub16 %0, %1, %2")
BF_INSTRUCTION3(bf_smlad, "smlad %0, %1, %2, %3")
BF_INSTRUCTION3(bf_smlabt, "smlabt %0, %1, %2, %3")
BF_INSTRUCTION3(bf_smlatb, "smlatb %0, %1, %2, %3")
BF_INSTRUCTION3(bf_smmla, "smmla %0, %1, %2, %3")
BF_INSTRUCTION3(bf_smmlar, "smmlar %0, %1, %2, %3")
#undef BF_INSTRUCTION2
#undef BF_INSTRUCTION3

/* Four bytes into [least, greatest], each given four times: SSUB8 sets the flags that SEL reads. */
static inline uint32_t bf_clamp4(uint32_t x, uint32_t least, uint32_t greatest)
{
    uint32_t t;
    __asm("ssub8 %1, %0, %2\n\tsel %0, %0, %2\n\tssub8 %1, %3, %0\n\tsel %0, %0, %3"
          : "+r"(x), "=&r"(t) : "r"(least), "r"(greatest) : "cc");
    return x;
}

#else
static inline int32_t bf_low(uint32_t x)
{
    return (int16_t)x;
}

static inline int32_t bf_high(uint32_t x)
{
    return (int16_t)(x >> 16);
}

static inline uint32_t bf_pair(int32_t low, int32_t high)
{
    return ((uint32_t)low & 0xffffu) | ((uint32_t)high << 16);
}

static inline uint32_t bf_sxtb16(uint32_t x)
{
    return bf_pair((int8_t)x, (int8_t)(x >> 16));
}

static inline uint32_t bf_sxtb16_ror8(uint32_t x)
{
    return bf_pair((int8_t)(x >> 8), (int8_t)(x >> 24));
}

static inline uint32_t bf_sxtab16(uint32_t a, uint32_t b)
{
    return bf_pair(bf_low(a) + (int8_t)b, bf_high(a) + (int8_t)(b >> 16));
}

static inline uint32_t bf_sxtab16_ror8(uint32_t a, uint32_t b)
{
    return bf_pair(bf_low(a) + (int8_t)(b >> 8), bf_high(a) + (int8_t)(b >> 24));
}

static inline int32_t bf_ssat8(int32_t x)
{
    return x < -128 ? -128 : x > 127 ? 127 : x;
}

static inline uint32_t bf_pkhbt_lsl16(uint32_t a, uint32_t b)
{
    return (a & 0xffffu) | (b << 16);
}

static inline uint32_t bf_pkhtb_asr16(uint32_t a, uint32_t b)
{
    return (a & 0xffff0000u) | (b >> 16);
}

static inline uint32_t bf_sadd16(uint32_t a, uint32_t b)
{
    return bf_pair(bf_low(a) + bf_low(b), bf_high(a) + bf_high(b));
}

static inline uint32_t bf_ssub16(uint32_t a, uint32_t b)
{
    return bf_pair(bf_low(a) - bf_low(b), bf_high(a) - bf_high(b));
}

static inline int32_t bf_smlad(uint32_t a, uint32_t b, int32_t c)
{
    return (int32_t)((uint32_t)c + (uint32_t)(bf_low(a) * bf_low(b)) + (uint32_t)(bf_high(a) * bf_high(b)));
}

static inline int32_t bf_smlabt(uint32_t a, uint32_t b, int32_t c)
{
    return (int32_t)((uint32_t)c + (uint32_t)(bf_low(a) * bf_high(b)));
}

static inline int32_t bf_smlatb(uint32_t a, uint32_t b, int32_t c)
{
    return (int32_t)((uint32_t)c + (uint32_t)(bf_high(a) * bf_low(b)));
}

static inline int32_t bf_smmla(uint32_t a, uint32_t b, int32_t c)
{
    int64_t product = (int64_t)(int32_t)a * (int32_t)b;
    return (int32_t)((uint32_t)c + (uint32_t)((uint64_t)product >> 32));
}

static inline int32_t bf_smmlar(uint32_t a, uint32_t b, int32_t c)
{
    int64_t product = (int64_t)(int32_t)a * (int32_t)b;
    return (int32_t)((uint32_t)c + (uint32_t)((uint64_t)(product + 0x80000000) >> 32));
}
#endif

/* Twice a sum inside the bounds of bf_requantize_short -> int8, zero point in `rounding`. */
static inline int32_t bf_requantize_doubled(int32_t twice, int32_t multiplier, int32_t rounding, int32_t right_shift)
{
    int32_t high = bf_smmlar((uint32_t)twice, (uint32_t)multiplier, rounding);
#if BF_MUTATE == 1 /* for the test of the tests */
    return bf_ssat8(high >> right_shift);
#else
    return bf_ssat8((high + (twice >> 31)) >> right_shift);
#endif
}

static inline int32_t bf_requantize_dsp(int32_t sum, int32_t multiplier, int32_t rounding, int32_t right_shift)
{
    return bf_requantize_doubled((int32_t)((uint32_t)sum << 1), multiplier, rounding, right_shift);
}

/* Right shifts of prescaled sums: of depthwise kernels, whose weights are scaled, and of conv2d, whose sums are. */
#define BF_PRESCALED_SHIFT 11
#define BF_PRESCALED_SUM_SHIFT 15

/* 2^k times a sum -> int8 for an output zero point of -128 and the right shift that k serves: `shift` + 1 - k, k >= 2. With
 * rounding' = 2^(k-2) + rounding * 2^(k-1) both roundings are in the one addition. Negative sums saturate to -128
 * whatever their rounding, so that they need no term of their own. */
static inline int32_t bf_requantize_prescaled(int32_t scaled, int32_t multiplier, int32_t rounding, int32_t shift)
{
#if BF_MUTATE == 2 /* for the test of the tests */
    return bf_ssat8(bf_smmlar((uint32_t)scaled, (uint32_t)multiplier, rounding) >> shift);
#else
    return bf_ssat8(bf_smmla((uint32_t)scaled, (uint32_t)multiplier, rounding) >> shift);
#endif
}

/* A whole tensor into [least, greatest]: kernels of the DSP forms saturate to int8 only, because a fused ReLU whose zero
 * point is -128 needs no more. */
static inline void bf_clamp_all(int8_t *data, uint32_t bytes, int32_t least, int32_t greatest)
{
    if (least == -128 && greatest == 127) {
        return;
    }
#if defined(__ARM_FEATURE_DSP)
    uint32_t low = (uint8_t)least * 0x01010101u, high = (uint8_t)greatest * 0x01010101u;
    for (; bytes >= 4; bytes -= 4, data += 4) {
        bf_store32(data, bf_clamp4(bf_load32(data), low, high));
    }
#endif
    for (; bytes > 0; bytes--, data++) {
        *data = (int8_t)(*data < least ? least : *data > greatest ? greatest : *data);
    }
}
#endif
