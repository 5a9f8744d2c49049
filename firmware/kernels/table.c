/* A function of one int8 value, tabulated by the host (hard_swish). */
#include "kernels.h"

void bf_table(const struct bf_table *op, const uint8_t *program, const int8_t *input, int8_t *output)
{
    const int8_t *middle = (const int8_t *)(program + op->table) + 128;
    uint32_t count = op->count;

    for (; count >= 4; count -= 4, input += 4, output += 4) {
        int8_t a = middle[input[0]], b = middle[input[1]], c = middle[input[2]], d = middle[input[3]];
        output[0] = a;
        output[1] = b;
        output[2] = c;
        output[3] = d;
    }
    for (; count > 0; count--)
        *output++ = middle[*input++];
}
