/* The functions that a compiler calls on its own for copies and clears (C11 7.24); there is no libc behind it. */
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) && !defined(__clang__)
/* Else GCC makes these loops into calls of the functions that they are. */
#pragma GCC optimize("no-tree-loop-distribute-patterns")
#endif

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);
int memcmp(const void *a, const void *b, size_t bytes);

void *memcpy(void *restrict to, const void *restrict from, size_t bytes)
{
    unsigned char *out = to;
    const unsigned char *in = from;
    if ((((uintptr_t)out | (uintptr_t)in) & 3u) == 0)
        for (; bytes >= 4; bytes -= 4, out += 4, in += 4)
            *(uint32_t *)(void *)out = *(const uint32_t *)(const void *)in;
    while (bytes--)
        *out++ = *in++;
    return to;
}

void *memmove(void *to, const void *from, size_t bytes)
{
    unsigned char *out = to;
    const unsigned char *in = from;
    if ((uintptr_t)out <= (uintptr_t)in || (uintptr_t)out >= (uintptr_t)in + bytes)
        for (size_t i = 0; i < bytes; i++)
            out[i] = in[i];
    else
        while (bytes--)
            out[bytes] = in[bytes];
    return to;
}

void *memset(void *to, int value, size_t bytes)
{
    unsigned char *out = to;
    uint32_t word = (uint32_t)(unsigned char)value * 0x01010101u;
    for (; bytes && ((uintptr_t)out & 3u); bytes--)
        *out++ = (unsigned char)value;
    for (; bytes >= 4; bytes -= 4, out += 4)
        *(uint32_t *)(void *)out = word;
    while (bytes--)
        *out++ = (unsigned char)value;
    return to;
}

int memcmp(const void *a, const void *b, size_t bytes)
{
    const unsigned char *left = a, *right = b;
    for (; bytes--; left++, right++)
        if (*left != *right)
            return *left - *right;
    return 0;
}
