/* softmax over rows, output scale 1/256 and zero point -128. Bit-identical to TensorFlow Lite Micro
 * (reference/softmax.h with gemmlowp's fixed point): the host tabulates exp of the 256 possible distances to a row's
 * largest value; the reciprocal of their sum is computed here. */
#include "kernels.h"

#define LARGEST 0x7fffffff

/* round(a * b / 2^31), ties upward: gemmlowp's SaturatingRoundingDoublingHighMul where not both are the least int32. */
static int32_t high_multiply(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}

/* round(x / 2^exponent) for x >= 0, ties upward. */
static int32_t shift_right(int32_t x, uint32_t exponent)
{
    return (int32_t)(((int64_t)x + ((int64_t)1 << exponent >> 1)) >> exponent);
}

static int32_t saturate(int64_t x)
{
    return x > LARGEST ? LARGEST : x < -LARGEST - 1 ? -LARGEST - 1 : (int32_t)x;
}

/* 1 / (1 + x) for x in [0, 1), both Q0.31: three Newton steps from 48/17 - 32/17 d. [one_over_one_plus_x_for_x_in_0_1] */
static int32_t reciprocal_of_one_plus(int32_t x)
{
    int32_t half = (int32_t)(((int64_t)x + LARGEST + 1) >> 1);
    int32_t estimate = 1515870810 + high_multiply(half, -1010580540), step;

    for (step = 0; step < 3; step++) {
        int32_t error = (1 << 29) - high_multiply(half, estimate);
        estimate += saturate((int64_t)high_multiply(estimate, error) * 4);
    }
    return saturate((int64_t)estimate * 2);
}

void bf_softmax(const struct bf_softmax *op, const uint8_t *program, const int8_t *input, int8_t *output)
{
    const int32_t *exponentials = (const int32_t *)(const void *)(program + op->table);
    uint32_t row, i;

    for (row = 0; row < op->rows; row++, input += op->depth, output += op->depth) {
        int32_t largest = -128, reciprocal;
        uint32_t sum = 0, headroom = 0; /* of exponentials, Q12.19; leading zeros of the sum */

        for (i = 0; i < op->depth; i++)
            largest = input[i] > largest ? input[i] : largest;
        for (i = 0; i < op->depth; i++) {
            uint32_t distance = (uint32_t)(largest - input[i]);
            if (distance <= op->radius && sum < 1u << 30) /* beyond 512.0 TensorFlow Lite Micro aborts; here: hold */
                sum += (uint32_t)shift_right(exponentials[distance], 12);
        }
        while (headroom < 31 && !(sum << headroom >> 31))
            headroom++;
        reciprocal = reciprocal_of_one_plus((int32_t)((sum << headroom) & LARGEST));
        for (i = 0; i < op->depth; i++) {
            uint32_t distance = (uint32_t)(largest - input[i]);
            int32_t value = 0;
            if (distance <= op->radius)
                value = shift_right(high_multiply(exponentials[distance], reciprocal), 35 - headroom);
            output[i] = (int8_t)(value > 255 ? 127 : value - 128);
        }
    }
}
