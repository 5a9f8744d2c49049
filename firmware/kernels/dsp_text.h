/* Text that the assembly of several kernels shares; what it does stands in dsp.h. */
#ifndef BF_DSP_TEXT_H
#define BF_DSP_TEXT_H
#include "dsp.h"

#define BF_TEXT_(x) #x
#define BF_TEXT(x) BF_TEXT_(x)

#if BF_MUTATE == 2 /* for the test of the tests */
#define BF_HIGH_PART "smmlar "
#else
#define BF_HIGH_PART "smmla "
#endif

/* bf_requantize_prescaled of y, in place. */
#define BF_PRESCALED(y, multiplier, rounding)                           \
    BF_HIGH_PART #y ", " #y ", " #multiplier ", " #rounding "\n"         \
    "ssat " #y ", #8, " #y ", asr #" BF_TEXT(BF_PRESCALED_SHIFT) "\n"

/* to = from, less one where y is negative: what the second rounding of y needs. */
#if BF_MUTATE == 1
#define BF_LESS_SIGN(to, from, y) "mov " #to ", " #from "\n"
#else
#define BF_LESS_SIGN(to, from, y) "add " #to ", " #from ", " #y ", asr #31\n"
#endif
#endif
