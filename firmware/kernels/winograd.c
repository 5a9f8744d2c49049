/* conv2d 3x3 with stride 1 and the DSP extension as Winograd's F(2x2, 3x3) (Lavin and Gray, "Fast Algorithms for
 * Convolutional Neural Networks", 2015), in integers: 16 multiplications for the 36 products of a tile of 2x2 outputs.
 *
 * Per tile, with d its 4x4 window and g a 3x3 filter:  4 y = A' [(2G g 2G') . (B' d B)] A,
 *     B' = 1  0 -1  0     2G = 2  0  0     A' = 1  1  1  0
 *          0  1  1  0          1  1  1          0  1 -1 -1
 *          0 -1  1  0          1 -1  1
 *          0  1  0 -1          0  0  2
 * Everything is an integer, so nothing is rounded: |2G g 2G'| <= 9 x 128 and |B' d B| <= 4 x 128 are int16, sums may wrap
 * on their way and are exact where 4 y fits an int32 (the exporter sees to it). The factor 4 takes the place of the
 * requantisation's doubling.
 *
 * Four tiles at a time: windows are transformed to [step][point][tile], a step being two input channels; then each pair of
 * output channels meets them, 2 channels x 4 tiles in registers, point by point; then the 16 sums of a tile are
 * transformed to its outputs. Points come column by column, their rows in the order 1, 0, 2, 3, and the registers go on
 * from row 1 to row 0 and from row 2 to row 3: of the sums m, A' needs m1 + m0 + m2 and m1 - (m2 + m3). Weights: [pair of
 * channels][point][step][c0, c1], int16 pairs of input channels in the order of SXTB16: (0, 2), (1, 3).
 * Where width or height is odd, a tile's second column or row is written to the place of the first before that one. */
#include "columns.h"
#include "dsp_text.h"
#include "requantize.h"

#if BF_WITH_DSP
#define POINTS 16u
#define TILES 4u
#define HALF (POINTS * TILES) /* of the sums of a pair of channels */

struct tile {
    uint32_t output;      /* twice the byte of the upper left output, and one more for the last tile of a group */
    uint32_t column, row; /* bytes to the right and to the lower one; 0 where there is none */
};

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP) && !defined(BF_NO_ASSEMBLY)
#define BY_ASSEMBLY 1
#else
#define BY_ASSEMBLY 0
#endif

#if BY_ASSEMBLY
/* s0-s3 point to the rows, s4 to the transformed words, s5 counts words; r1 is the distance of pixels. B' d of the middle
 * rows stays in r2, r6, r4, r5 and r7, r11, r9, r10, which the outer rows meet one after the other. */
#define LOAD_ROW(row, a, b, c, d, next)             \
    "vmov r0, " #row "\n"                           \
    "add " #d ", r0, r1\n"                          \
    "ldr " #b ", [r0, r1]\n"                        \
    "ldr " #c ", [r0, r1, lsl #1]\n"                \
    "ldr " #d ", [" #d ", r1, lsl #1]\n"            \
    "ldr " #a ", [r0]" next
#define LOAD_ROW_ONLY(row, a, b, c, d) LOAD_ROW(row, a, b, c, d, "\n")
#define LOAD_ROW_LAST(row, a, b, c, d) LOAD_ROW(row, a, b, c, d, ", #4\nvmov " #row ", r0\n")
/* (a, b, c, d) -> (a - c, b + c, c - b, b - d) in a, sum, c, d. */
#define TRANSFORM_ROW(turn, a, b, c, d, sum)        \
    "sxtb16 " #a ", " #a turn "\n"                  \
    "sxtb16 " #b ", " #b turn "\n"                  \
    "sxtb16 " #c ", " #c turn "\n"                  \
    "sxtb16 " #d ", " #d turn "\n"                  \
    "ssub16 " #a ", " #a ", " #c "\n"               \
    "ssub16 " #d ", " #b ", " #d "\n"               \
    "sadd16 " #sum ", " #b ", " #c "\n"             \
    "ssub16 " #c ", " #c ", " #b "\n"
#define STORE_ROW(at, a, b, c, d)                   \
    "str " #a ", [r8, #" #at "]\n"                  \
    "str " #b ", [r8, #" #at "+64]\n"               \
    "str " #c ", [r8, #" #at "+128]\n"              \
    "str " #d ", [r8, #" #at "+192]\n"
#define TRANSFORM_HALF(load, turn, at)                                                                   \
    load(s1, r2, r3, r4, r5) TRANSFORM_ROW(turn, r2, r3, r4, r5, r6)                                      \
    load(s2, r7, r8, r9, r10) TRANSFORM_ROW(turn, r7, r8, r9, r10, r11)                                   \
    load(s0, r3, r8, r12, r14) TRANSFORM_ROW(turn, r3, r8, r12, r14, r0)                                  \
    "vmov r8, s4\n"                                                                                      \
    "ssub16 r3, r3, r7\n" "ssub16 r0, r0, r11\n" "ssub16 r12, r12, r9\n" "ssub16 r14, r14, r10\n"        \
    STORE_ROW(at+16, r3, r0, r12, r14)                                                                    \
    "sadd16 r3, r2, r7\n" "sadd16 r0, r6, r11\n" "sadd16 r12, r4, r9\n" "sadd16 r14, r5, r10\n"          \
    STORE_ROW(at, r3, r0, r12, r14)                                                                      \
    "ssub16 r7, r7, r2\n" "ssub16 r11, r11, r6\n" "ssub16 r9, r9, r4\n" "ssub16 r10, r10, r5\n"          \
    STORE_ROW(at+32, r7, r11, r9, r10)                                                                  \
    load(s3, r3, r12, r14, r7) TRANSFORM_ROW(turn, r3, r12, r14, r7, r9)                                  \
    "ssub16 r2, r2, r3\n" "ssub16 r6, r6, r9\n" "ssub16 r4, r4, r14\n" "ssub16 r5, r5, r7\n"             \
    STORE_ROW(at+48, r2, r6, r4, r5)

/* A window of four rows of 4 pixels of `words` words. */
__attribute__((naked, noinline)) static void transform_window(__attribute__((unused)) const int8_t *const rows[4],
                                                              __attribute__((unused)) uint32_t words,
                                                              __attribute__((unused)) uint32_t *to)
{
    __asm volatile(
        ".syntax unified\n"
        "push {r4-r11, lr}\n"
        "vldm r0, {s0-s3}\n"
        "vmov s4, r2\n"
        "vmov s5, r1\n"
        "lsl r1, r1, #2\n"
        "1:\n"
        TRANSFORM_HALF(LOAD_ROW_ONLY, "", 0)
        TRANSFORM_HALF(LOAD_ROW_LAST, ", ror #8", 256)
        "add r8, r8, #512\n"
        "vmov s4, r8\n"
        "vmov r0, s5\n"
        "subs r0, r0, #1\n"
        "vmov s5, r0\n"
        "bne 1b\n"
        "pop {r4-r11, pc}\n");
}

/* r0 windows, r1 weights, r2-r5 working registers, sums of channel 0 in r6-r9, of channel 1 in r10-r12 and r14. */
#define STEP_OF(u, more, first)                     \
    "ldr r3, [r1, #8*(" #u "+" #more ")]\n"          \
    "ldr r2, [r1, #8*(" #u "+" #more ")+4]\n"        \
    "ldr.w r4, [r0, #256*" #u "+2*" #more "]\n"      \
    "ldr.w r5, [r0, #256*" #u "+2*" #more "+4]\n"    \
    first(r6, r4, r3) first(r7, r5, r3)             \
    first(r10, r4, r2) first(r11, r5, r2)           \
    "ldr.w r4, [r0, #256*" #u "+2*" #more "+8]\n"    \
    "ldr.w r5, [r0, #256*" #u "+2*" #more "+12]\n"   \
    first(r8, r4, r3) first(r9, r5, r3)             \
    first(r12, r4, r2) first(r14, r5, r2)
#define MULTIPLY(sum, x, w) "smuad " #sum ", " #x ", " #w "\n"
#define ACCUMULATE(sum, x, w) "smlad " #sum ", " #x ", " #w ", " #sum "\n"
#define STEP(u) STEP_OF(u, 0, ACCUMULATE)
#define STEP_BYTES "52" /* two loads of 16 bits, twelve instructions of 32 */

/* Sums of a pair of channels, for 16 input channels: eight steps. Sums lie behind the windows, [0, 1][point / 2][channel][tile]
 * with rows 1 and 2 first, rows 0 and 3 behind: so both advance by 32 bytes in two points. */
__attribute__((naked, noinline)) static void run_points_8(__attribute__((unused)) const uint32_t *windows,
                                                          __attribute__((unused)) const uint32_t *weights,
                                                          __attribute__((unused)) uint32_t steps,
                                                          __attribute__((unused)) int32_t *sums)
{
    __asm volatile(
        ".syntax unified\n"
        "push {r4-r11, lr}\n"
        "add r2, r1, #1024\n"
        "vmov s7, r2\n"
        ".balign 4\n"
        "1:\n"
        STEP_OF(0, 0, MULTIPLY) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7)
        "add r2, r0, #2048\n"
        "stm r2, {r6-r12, r14}\n"
        STEP_OF(0, 8, ACCUMULATE) STEP_OF(1, 8, ACCUMULATE) STEP_OF(2, 8, ACCUMULATE) STEP_OF(3, 8, ACCUMULATE)
        STEP_OF(4, 8, ACCUMULATE) STEP_OF(5, 8, ACCUMULATE) STEP_OF(6, 8, ACCUMULATE) STEP_OF(7, 8, ACCUMULATE)
        "addw r2, r0, #2304\n"
        "adds r1, r1, #128\n"
        "adds r0, r0, #32\n"
        "stm r2, {r6-r12, r14}\n"
        "vmov r2, s7\n"
        "cmp r1, r2\n"
        "bne 1b\n"
        "pop {r4-r11, pc}\n");
}

/* The same for any number of steps, sixteen a turn, which fits an instruction cache of 1 KiB. The first turn of a point is entered behind the steps to skip, with
 * pointers moved back by as much: s1 entry, s2 end of the point's weights, s3 sums, s4 from the end of a point's windows
 * back to the next one's, s5 bytes of a point's weights, s6 the weights to skip, s7 end of the first half of the sums, s8
 * from this point's sums to the next one's: 256 where that one goes on with them, then -224. */
__attribute__((naked, noinline)) static void run_points(__attribute__((unused)) const uint32_t *windows,
                                                        __attribute__((unused)) const uint32_t *weights,
                                                        __attribute__((unused)) uint32_t steps,
                                                        __attribute__((unused)) int32_t *sums)
{
    __asm volatile(
        ".syntax unified\n"
        "push {r4-r11, lr}\n"
        "vmov s3, r3\n"
        "add r3, r3, #256\n"
        "vmov s7, r3\n"
        "lsl r3, r2, #3\n"
        "vmov s5, r3\n"
        "add r3, r3, r1\n"
        "vmov s2, r3\n"
        "rsb r4, r2, #0\n"
        "and r4, r4, #15\n"
        "add r2, r2, r4\n" /* steps of whole turns */
        "lsl r2, r2, #8\n"
        "sub r2, r2, #16\n"
        "vmov s4, r2\n"
        "sub r0, r0, r4, lsl #8\n"
        "sub r1, r1, r4, lsl #3\n"
        "lsl r3, r4, #3\n"
        "vmov s6, r3\n"
        "mov r2, #" STEP_BYTES "\n"
        "adr r3, 3f\n"
        "mla r2, r4, r2, r3\n"
        "orr r2, r2, #1\n"
        "vmov s1, r2\n"
        "mov r3, #256\n"
        "vmov s8, r3\n"
        "1:\n"
        "movs r6, #0\n"
        "mov r7, r6\n"
        "mov r8, r6\n"
        "mov r9, r6\n"
        "mov r10, r6\n"
        "mov r11, r6\n"
        "mov r12, r6\n"
        "mov r14, r6\n"
        "2:\n"
        "vmov r2, s1\n"
        "bx r2\n"
        ".balign 4\n"
        "3:\n"
        STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7)
        STEP(8) STEP(9) STEP(10) STEP(11) STEP(12) STEP(13) STEP(14) STEP(15)
        "vmov r2, s2\n"
        "adds r1, r1, #128\n"
        "add r0, r0, #4096\n"
        "cmp r1, r2\n"
        "bne 3b\n"
        "vmov r3, s5\n"
        "add r2, r2, r3\n"
        "vmov s2, r2\n"
        "vmov r2, s3\n"
        "vmov r3, s4\n"
        "vmov r4, s6\n"
        "vmov r5, s8\n"
        "sub r0, r0, r3\n"
        "sub r1, r1, r4\n"
        "stm r2, {r6-r12, r14}\n"
        "add r2, r2, r5\n"
        "vmov s3, r2\n"
        "rsbs r5, r5, #32\n"
        "vmov s8, r5\n"
        "bmi 2b\n"
        "vmov r5, s7\n"
        "cmp r2, r5\n"
        "bne 1b\n"
        "pop {r4-r11, pc}\n");
}

/* The sums of four tiles and two channels -> outputs. r0 four times the bias, r1 multiplier, r2 rounding, r3 shift, r4 sums
 * of the last column, r5 tiles; s1 output, s3 end of the sums, s4 the next channel's numbers. Of each column of
 * points A' comes to a and b. */
#define LOAD_COLUMN(j, a, b, c, d)                  \
    "ldr " #b ", [r4, #64*" #j "-192]\n"            \
    "ldr " #a ", [r4, #64*" #j "+64]\n"             \
    "ldr " #c ", [r4, #64*" #j "-160]\n"            \
    "ldr " #d ", [r4, #64*" #j "+96]\n"
#define LOAD_LAST_COLUMN(a, b, c, d)                \
    "ldr " #a ", [r4, #256]\n"                      \
    "ldr " #c ", [r4, #32]\n"                       \
    "ldr " #d ", [r4, #288]\n"                      \
    "ldr " #b ", [r4], #4\n"
#define ADD_COLUMN(a, b, c, d)                      \
    "add " #a ", " #a ", " #c "\n"                  \
    "sub " #b ", " #b ", " #d "\n"
#define REQUANTIZE_SIGNED(y)                        \
    "asr r6, " #y ", #1\n"                          \
    "smmlar r6, r6, r1, r2\n"                       \
    BF_LESS_SIGN(r6, r6, y)                         \
    "asr " #y ", r6, r3\n"                          \
    "ssat " #y ", #8, " #y "\n"
/* Negative sums saturate to a zero point of -128 whatever their rounding. What the product has more by the factor 4, the
 * shift takes away again: rounding and shift were adapted. */
#define REQUANTIZE_UNSIGNED(y)                      \
    BF_HIGH_PART #y ", " #y ", r1, r2\n"               \
    "asr " #y ", " #y ", r3\n"                      \
    "ssat " #y ", #8, " #y "\n"

#define FINISH(name, adapt, requantize)                                                                        \
    __attribute__((naked, noinline)) static void name(__attribute__((unused)) const int32_t *sums,             \
                                                      __attribute__((unused)) int8_t *output,                  \
                                                      __attribute__((unused)) const struct tile *tiles,        \
                                                      __attribute__((unused)) const struct bf_channel *channel) \
    {                                                                                                          \
        __asm volatile(                                                                                        \
            ".syntax unified\n"                                                                                \
            "push {r4-r11, lr}\n"                                                                              \
            "vmov s1, r1\n"                                                                                    \
            "vmov s4, r3\n"                                                                                    \
            "mov r5, r2\n"                                                                                     \
            "add r4, r0, #192\n"                                                                               \
            "add r6, r4, #32\n"                                                                                \
            "vmov s3, r6\n"                                                                                    \
            "1:\n"                                                                                             \
            "vmov r9, s4\n"                                                                                    \
            "ldm r9!, {r0-r3}\n"                                                                               \
            "vmov s4, r9\n"                                                                                    \
            "lsl r0, r0, #2\n"                                                                                 \
            "rsb r3, r3, #0\n"                                                                                 \
            adapt                                                                                              \
            "2:\n"                                                                                             \
            LOAD_COLUMN(0, r10, r11, r8, r9) LOAD_COLUMN(1, r12, r14, r6, r7)                                  \
            ADD_COLUMN(r10, r11, r8, r9) ADD_COLUMN(r12, r14, r6, r7)                                          \
            "add r12, r12, r0\n"                                                                               \
            "add r14, r14, r0\n"                                                                               \
            LOAD_COLUMN(2, r6, r7, r8, r9) ADD_COLUMN(r6, r7, r8, r9)                                          \
            "add r10, r10, r12\n"                                                                              \
            "add r11, r11, r14\n"                                                                              \
            "add r10, r10, r6\n"                                                                               \
            "add r11, r11, r7\n"                                                                               \
            "sub r12, r12, r6\n"                                                                               \
            "sub r14, r14, r7\n"                                                                               \
            LOAD_LAST_COLUMN(r6, r7, r8, r9) ADD_COLUMN(r6, r7, r8, r9)                                        \
            "sub r12, r12, r6\n"                                                                               \
            "sub r14, r14, r7\n"                                                                               \
            requantize(r10) requantize(r11) requantize(r12) requantize(r14)                                    \
            "ldm r5!, {r6-r8}\n"                                                                               \
            "vmov r9, s1\n"                                                                                    \
            "lsrs r6, r6, #1\n" /* carry: the last tile */                                                     \
            "add r6, r6, r9\n"                                                                                 \
            "add r9, r6, r8\n"                                                                                 \
            "strb r14, [r9, r7]\n"                                                                             \
            "strb r11, [r9]\n"                                                                                 \
            "strb r12, [r6, r7]\n"                                                                             \
            "strb r10, [r6]\n"                                                                                 \
            "bcc 2b\n"                                                                                         \
            "vmov r6, s1\n"                                                                                    \
            "vmov r7, s3\n"                                                                                    \
            "subs r5, r5, #48\n"                                                                               \
            "adds r6, r6, #1\n"                                                                                \
            "vmov s1, r6\n"                                                                                    \
            "cmp r4, r7\n"                                                                                     \
            "bne 1b\n"                                                                                         \
            "pop {r4-r11, pc}\n");                                                                             \
    }
FINISH(finish_signed, "", REQUANTIZE_SIGNED)
FINISH(finish_unsigned, "lsl r2, r2, #1\nadds r2, r2, #1\nadds r3, r3, #1\n", REQUANTIZE_UNSIGNED)

#else
/* One half of the words of a 4x4 window: B' d B of two channels. */
static inline __attribute__((always_inline)) void transform_half(const uint32_t d[16], int odd, uint32_t *to)
{
    uint32_t h[16];
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t a = odd ? bf_sxtb16_ror8(d[4 * i]) : bf_sxtb16(d[4 * i]);
        uint32_t b = odd ? bf_sxtb16_ror8(d[4 * i + 1]) : bf_sxtb16(d[4 * i + 1]);
        uint32_t c = odd ? bf_sxtb16_ror8(d[4 * i + 2]) : bf_sxtb16(d[4 * i + 2]);
        uint32_t e = odd ? bf_sxtb16_ror8(d[4 * i + 3]) : bf_sxtb16(d[4 * i + 3]);
        h[4 * i] = bf_ssub16(a, c);
        h[4 * i + 1] = bf_sadd16(b, c);
        h[4 * i + 2] = bf_ssub16(c, b);
        h[4 * i + 3] = bf_ssub16(b, e);
    }
    for (uint32_t j = 0; j < 4; j++) {
        to[TILES * (4 * j)] = bf_sadd16(h[4 + j], h[8 + j]);
        to[TILES * (4 * j + 1)] = bf_ssub16(h[j], h[8 + j]);
        to[TILES * (4 * j + 2)] = bf_ssub16(h[8 + j], h[4 + j]);
        to[TILES * (4 * j + 3)] = bf_ssub16(h[4 + j], h[12 + j]);
    }
}

/* A window of four rows of 4 pixels of `words` words. */
static void transform_window(const int8_t *const rows[4], uint32_t words, uint32_t *to)
{
    for (uint32_t word = 0; word < words; word++, to += 2 * POINTS * TILES) {
        uint32_t d[16];
        for (uint32_t i = 0; i < 16; i++) {
            d[i] = bf_load32(rows[i / 4] + 4 * (i % 4 * words + word));
        }
        transform_half(d, 0, to);
        transform_half(d, 1, to + POINTS * TILES);
    }
}

/* Sums of a pair of channels, [point % 2][point / 2][channel][tile]. */
static void run_points(const uint32_t *windows, const uint32_t *weights, uint32_t steps, int32_t *sums)
{
    for (uint32_t point = 0; point < POINTS; point++, windows += TILES) {
        const uint32_t *window = windows;
        int32_t *m = sums + point / 2 * 2 * TILES;
        if (point % 2 != 0) {
            for (uint32_t i = 0; i < 2 * TILES; i++) {
                m[HALF + i] = m[i];
            }
            m += HALF;
        } else {
            for (uint32_t i = 0; i < 2 * TILES; i++) {
                m[i] = 0;
            }
        }
        for (uint32_t step = 0; step < steps; step++, window += POINTS * TILES, weights += 2) {
            for (uint32_t tile = 0; tile < TILES; tile++) {
                m[tile] = bf_smlad(window[tile], weights[0], m[tile]);
                m[TILES + tile] = bf_smlad(window[tile], weights[1], m[TILES + tile]);
            }
        }
    }
}
#endif

/* Any requantisation: the four tiles of one channel. */
static void finish_plain(const int32_t *sums, int8_t *output, const struct tile *tiles, const struct bf_channel *channel,
                         int32_t out_zero)
{
    for (const struct tile *tile = tiles; tile != tiles + TILES; tile++, sums++) {
        uint32_t z[2][4];
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t *m = (const uint32_t *)sums + 4 * TILES * j;
            z[0][j] = m[HALF] + m[2 * TILES];
            z[1][j] = m[0] - m[HALF + 2 * TILES];
        }
        for (uint32_t i = 4; i-- > 0;) {
            const uint32_t *row = z[i / 2];
            int32_t four = (int32_t)(i % 2 == 0 ? row[0] + row[1] + row[2] : row[1] - row[2] - row[3]), value;
            if (channel->rounding != 0) {
                four = (int32_t)((uint32_t)four + ((uint32_t)channel->bias << 2));
                value = bf_requantize_doubled(four >> 1, channel->multiplier, channel->rounding, -channel->shift);
            } else { /* 4 y fits an int32 without the bias, with it perhaps not */
                four = (int32_t)((uint32_t)(four >> 2) + (uint32_t)channel->bias);
                value = bf_ssat8(bf_requantize(four, channel, out_zero));
            }
            output[tile->output / 2 + (i / 2) * tile->row + (i % 2) * tile->column] = (int8_t)value;
        }
    }
}

/* `bytes`, a multiple of 4, mostly of 16. */
static int8_t *copy_words(int8_t *to, const int8_t *from, uint32_t bytes)
{
    for (; bytes >= 16; bytes -= 16, to += 16, from += 16) {
        uint32_t a = bf_load32(from), b = bf_load32(from + 4), c = bf_load32(from + 8), d = bf_load32(from + 12);
        bf_store32(to, a);
        bf_store32(to + 4, b);
        bf_store32(to + 8, c);
        bf_store32(to + 12, d);
    }
    return bf_copy_run(to, from, bytes);
}

static int8_t *fill_words(int8_t *to, uint32_t value, uint32_t bytes)
{
    for (; bytes > 0; bytes -= 4, to += 4) {
        bf_store32(to, value);
    }
    return to;
}

/* Where the rows of the 4x4 window at (y, x) lie, which reaches outside the image: those of which a part is outside come to
 * `stage`. */
static void stage_rows(const struct bf_window *op, const int8_t *input, int32_t y, int32_t x, int8_t *stage,
                       const int8_t *rows[4])
{
    uint32_t zeros = (uint8_t)op->in_zero * 0x01010101u, pixel = op->in_c;
    uint32_t left = x < 0 ? (uint32_t)-x : 0, right = x + 4 > op->in_w ? (uint32_t)(x + 4 - op->in_w) : 0;
    const int8_t *from = input + (y * op->in_w + x) * (int32_t)pixel;
    for (uint32_t i = 0; i < 4; i++, y++, from += op->in_w * pixel) {
        int outside = y < 0 || y >= op->in_h;
        rows[i] = outside || left + right > 0 ? stage : from;
        if (outside) {
            stage = fill_words(stage, zeros, 4 * pixel);
        } else if (left + right > 0) {
            stage = fill_words(stage, zeros, left * pixel);
            stage = copy_words(stage, from + left * pixel, (4 - left - right) * pixel);
            stage = fill_words(stage, zeros, right * pixel);
        }
    }
}

/* Windows of the tiles at (row, column) and the three behind; the last one fills the group. */
static void transform_tiles(const struct bf_window *op, const int8_t *input, uint32_t row, uint32_t column,
                            struct tile *tiles, uint32_t *windows, int8_t *stage)
{
    uint32_t pitch = (uint32_t)op->in_w * op->in_c;
    for (uint32_t t = 0; t < TILES; t++) {
        int32_t y = (int32_t)row - op->pad_top, x = (int32_t)column - op->pad_left;
        const int8_t *rows[4];
        if (y >= 0 && x >= 0 && y + 4 <= op->in_h && x + 4 <= op->in_w) {
            rows[0] = input + (y * op->in_w + x) * op->in_c;
            rows[1] = rows[0] + pitch;
            rows[2] = rows[1] + pitch;
            rows[3] = rows[2] + pitch;
        } else {
            stage_rows(op, input, y, x, stage, rows);
        }
        transform_window(rows, op->in_c / 4u, windows + t);
        tiles[t].output = 2 * ((row * op->out_w + column) * op->out_c) + (t == TILES - 1);
        tiles[t].column = column + 1 < op->out_w ? op->out_c : 0;
        tiles[t].row = row + 1 < op->out_h ? (uint32_t)op->out_w * op->out_c : 0;
        if (column + 2 < op->out_w) {
            column += 2;
        } else if (row + 2 < op->out_h) {
            column = 0;
            row += 2;
        }
    }
}

typedef void points(const uint32_t *windows, const uint32_t *weights, uint32_t steps, int32_t *sums);
typedef void finisher(const int32_t *sums, int8_t *output, const struct tile *tiles, const struct bf_channel *channel);

static int is_pair(const struct bf_channel *channels)
{
    return channels[0].rounding != 0 && channels[1].rounding != 0;
}

/* A pair of any two channels, or the last one alone. */
static void finish_any(finisher *finish_pair, const int32_t *sums, int8_t *output, const struct tile *tiles,
                       const struct bf_channel *channels, int two, int32_t out_zero)
{
    if (finish_pair != 0 && two && is_pair(channels)) {
        finish_pair(sums, output, tiles, channels);
        return;
    }
    finish_plain(sums, output, tiles, channels, out_zero);
    if (two) {
        finish_plain(sums + TILES, output + 1, tiles, channels + 1, out_zero);
    }
}

void bf_conv2d_winograd(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                        void *scratch)
{
    const struct bf_channel *channels = (const struct bf_channel *)(program + op->channels);
    const struct bf_channel *end = channels + op->out_c, *pairs_end = channels; /* of pairs that finish_pair takes */
    uint32_t across = (op->out_w + 1u) / 2, count = across * ((op->out_h + 1u) / 2), steps = op->steps;
    uint32_t *windows = scratch;
    int32_t *sums = (int32_t *)(windows + POINTS * TILES * steps);
    int8_t *stage = (int8_t *)(sums + POINTS * 2 * TILES);
    points *run = run_points;
    finisher *finish_pair = 0;
#if BY_ASSEMBLY
    run = steps == 8 ? run_points_8 : run_points;
    finish_pair = op->out_zero == -128 ? finish_unsigned : finish_signed;
    while (end - pairs_end > 1 && is_pair(pairs_end)) {
        pairs_end += 2;
    }
#endif
    for (uint32_t first = 0; first < count; first += TILES) {
        const uint32_t *weights = (const uint32_t *)(program + op->weights);
        const struct bf_channel *channel = channels;
        int8_t *to = output;
        struct tile tiles[TILES];
        transform_tiles(op, input, 2 * (first / across), 2 * (first % across), tiles, windows, stage);
        for (; channel < pairs_end; channel += 2, to += 2, weights += 2 * POINTS * steps) {
            run(windows, weights, steps, sums);
            finish_pair(sums, to, tiles, channel);
        }
        for (; channel < end; channel += 2, to += 2, weights += 2 * POINTS * steps) {
            run(windows, weights, steps, sums);
            finish_any(finish_pair, sums, to, tiles, channel, end - channel > 1, op->out_zero);
        }
    }
    bf_clamp_all(output, (uint32_t)op->out_h * op->out_w * op->out_c, op->least, op->greatest);
}
#endif
