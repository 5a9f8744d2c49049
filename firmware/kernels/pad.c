/* pad: the whole output is filled with one value, then the input goes in, run by run. */
#include "kernels.h"

static void fill(int8_t *to, int8_t value, uint32_t bytes)
{
    uint32_t word = (uint8_t)value * 0x01010101u;
    uint32_t *words = (uint32_t *)(void *)to; /* outputs start at a multiple of 8 */

    for (; bytes >= 4; bytes -= 4)
        *words++ = word;
    for (to = (int8_t *)words; bytes > 0; bytes--)
        *to++ = value;
}

void bf_pad(const struct bf_pad *op, const int8_t *input, int8_t *output)
{
    const struct bf_padding *axes = (const struct bf_padding *)(op + 1);
    uint32_t last = op->rank - 1u, bytes = 1, runs = 1, at = 0, axis, run;
    uint32_t pitch[BF_MAX_RANK], index[BF_MAX_RANK];

    for (axis = op->rank; axis-- > 0;) {
        pitch[axis] = bytes;
        index[axis] = 0;
        at += axes[axis].before * bytes;
        bytes *= axes[axis].before + axes[axis].size + axes[axis].after;
        runs *= axis == last ? 1 : axes[axis].size;
    }
    fill(output, op->value, bytes);
    for (run = 0; run < runs; run++) {
        bf_copy_bytes(output + at, input, axes[last].size);
        input += axes[last].size;
        for (axis = last; axis-- > 0;) { /* the next index, outermost slowest */
            at += pitch[axis];
            if (++index[axis] < axes[axis].size)
                break;
            at -= pitch[axis] * axes[axis].size;
            index[axis] = 0;
        }
    }
}
