/* Runs of bytes to places at equal distances: one input of a concatenation, or a constant that is needed in the arena. */
#include "dsp.h"
#include "kernels.h"

#if defined(__arm__) && !defined(__ARM_FEATURE_UNALIGNED)
#define ANYWHERE 0
typedef struct {
    uint32_t value;
} __attribute__((may_alias)) word;
#else
#define ANYWHERE 1
typedef bf_unaligned32 word;
#endif

void bf_copy_bytes(int8_t *to, const int8_t *from, uint32_t bytes)
{
    if (ANYWHERE || (((uintptr_t)to | (uintptr_t)from) & 3u) == 0) {
        word *to_words = (word *)(void *)to;
        const word *from_words = (const word *)(const void *)from;

        for (; bytes >= 16; bytes -= 16, to_words += 4, from_words += 4) {
            word a = from_words[0], b = from_words[1], c = from_words[2], d = from_words[3];
            to_words[0] = a;
            to_words[1] = b;
            to_words[2] = c;
            to_words[3] = d;
        }
        for (; bytes >= 4; bytes -= 4)
            *to_words++ = *from_words++;
        to = (int8_t *)to_words;
        from = (const int8_t *)from_words;
    }
    for (; bytes > 0; bytes--)
        *to++ = *from++;
}

void bf_copy(const struct bf_copy *op, const int8_t *input, int8_t *output)
{
    uint32_t row;

    for (row = 0; row < op->rows; row++)
        bf_copy_bytes(output + row * op->out_stride, input + row * op->row_bytes, op->row_bytes);
}
