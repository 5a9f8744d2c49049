/* Windows of an int8 image as columns of int16 for the DSP forms. Four taps t0..t3 become the two words (t0, t2) and
 * (t1, t3), as SXTB16 makes them. Taps that fill the last word of a column are zero. */
#ifndef BF_COLUMNS_H
#define BF_COLUMNS_H
#include "dsp.h"
#include "kernels.h"

static inline int8_t *bf_copy_run(int8_t *to, const int8_t *from, uint32_t count)
{
    for (; count >= 4; count -= 4, to += 4, from += 4) {
        bf_store32(to, bf_load32(from));
    }
    for (; count > 0; count--) {
        *to++ = *from++;
    }
    return to;
}

/* The windows of `count` outputs, a multiple of 4, from output `first` on: [group of four][word][output of the group].
 * `stage` holds 2 x steps bytes; it is not used where in_c is a multiple of four. */
void bf_pack_columns(const struct bf_window *op, const int8_t *input, uint32_t first, uint32_t count, uint32_t *to,
                     int8_t *stage);

/* The window at (y, x), its upper left corner, which may lie outside the image, as one column. */
void bf_pack_pixel(const struct bf_window *op, const int8_t *input, int32_t y, int32_t x, uint32_t *to, int8_t *stage);
#endif
