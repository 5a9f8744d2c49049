/* depthwise_conv2d 3x3 with the DSP extension: with stride 1 blocks of 2x2 outputs of one channel, with stride 2 (and for
 * the last column of an odd width) of 4 outputs in a column.
 *
 * Four channels at a time are gathered into planes of int16 pairs with the zero point around them. A plane lies column
 * by column: [pair of columns][row], so that the words that a block needs have fixed distances whatever the image:
 * A = (x, x + 1) and, one column of words further, B = (x + 2, x + 3). The six words of a channel's weights, (w0, w1) and
 * (w1, w2) of each row, stay in registers. A block of 2x2 is 8 loads and 24 multiplications for 36 products, one of four
 * in a column 12 loads (18 with stride 2) and 24. `chunk` output rows are done at a time, which bounds the planes.
 *
 * Where rows do not fill blocks, the last block of a column overlaps the one before.
 * Weights are int16, [channel][row][w0, w1, w1, w2]. Where the output's zero point is -128 and a channel's numbers allow,
 * its weights and bias are 2^k times TFLite's, k such that one shift serves all channels: see bf_requantize_prescaled.
 * Else, where the short requantisation holds, they are doubled, which saves it a shift. */
#include "planes.h"

#if BF_WITH_DSP

/* What the channels of a band have in common, in the order in which the assembly reads it. */
struct strip {
    uint32_t column_bytes;
    uint32_t columns;     /* of outputs; pairs of columns where blocks are squares */
    uint32_t pixel;       /* bytes from an output to the next in a row; 0 to drop the second of a square */
    uint32_t next_column; /* to the first output of the next column of blocks */
    uint32_t row;
    uint32_t whole_bytes; /* of plane under one column of whole blocks, at least one */
    uint32_t back;        /* bytes of plane that the last, overlapping block goes back; 0: there is none */
    uint32_t back_rows;   /* the same of output */
    const uint32_t *weights;
};

/* Outputs one after the other: any requantisation, any core, any number of rows. */
__attribute__((noinline)) static void run_plain(const struct bf_window *op, const uint32_t *plane, uint32_t height,
                                                const uint32_t *weights, uint32_t rows,
                                                const struct bf_channel *channel, int8_t *output)
{
    for (uint32_t row = 0; row < rows; row++) {
        for (uint32_t x = 0; x < op->out_w; x++, output += op->out_c) {
            uint32_t column = x * op->stride_w;
            const uint32_t *a = plane + column / 2 * height + row * op->stride_h, *b = a + height;
            int32_t sum = channel->bias;
            for (uint32_t k = 0; k < 3; k++) {
                uint32_t w01 = weights[2 * k], w12 = weights[2 * k + 1];
                sum = column & 1 ? bf_smlad(b[k], w12, bf_smlatb(a[k], w01, sum))
                                 : bf_smlabt(b[k], w12, bf_smlad(a[k], w01, sum));
            }
            *output = (int8_t)bf_requantize_scaled(sum, channel, op->out_zero);
        }
    }
}

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP) && !defined(BF_NO_ASSEMBLY)
/* s0-s7 hold the strip, s8-s11 the channel; s12 and s13 a column's plane and output, s14 the block's output, s15 the end
 * of the column. r0 and r1 walk down two columns of words (A and B), r2-r7 weights, r10 and r11 work; sums of a square's
 * upper row in r8 and r9, of its lower row in r12 and r14; of a column in r8, r9, r12, r14. */
#define LOAD_FIRST(rows) "ldr r10, [r0], #4*" #rows "\n" "ldr r11, [r1], #4*" #rows "\n" /* and on to the next block */
#define LOAD_ROW(k) "ldr r10, [r0, #4*(" #k ")]\n" "ldr r11, [r1, #4*(" #k ")]\n"
#define FIRST(y, from) "smlad " #y ", r10, r2, " #from "\n" "smlabt " #y ", r11, r3, " #y "\n"
#define SECOND(y, from) "smlatb " #y ", r10, r2, " #from "\n" "smlad " #y ", r11, r3, " #y "\n"
#define LEFT(y, w01, w12) "smlad " #y ", r10, " #w01 ", " #y "\n" "smlabt " #y ", r11, " #w12 ", " #y "\n"
#define RIGHT(y, w01, w12) "smlatb " #y ", r10, " #w01 ", " #y "\n" "smlad " #y ", r11, " #w12 ", " #y "\n"

#define SQUARE_SUMS                                                                                  \
    LOAD_FIRST(2) FIRST(r8, r14) SECOND(r9, r14)                                                       \
    LOAD_ROW(1-2) LEFT(r8, r4, r5) RIGHT(r9, r4, r5) FIRST(r12, r14) SECOND(r14, r14)                  \
    LOAD_ROW(2-2) LEFT(r8, r6, r7) RIGHT(r9, r6, r7) LEFT(r12, r4, r5) RIGHT(r14, r4, r5)              \
    LOAD_ROW(3-2) LEFT(r12, r6, r7) RIGHT(r14, r6, r7)
#define SQUARE_STORE            \
    "vmov r10, s14\n"           \
    "vmov r11, s2\n"            \
    "strb r9, [r10, r11]\n"     \
    "strb r8, [r10]\n"          \
    "vmov r8, s4\n"             \
    "add r10, r10, r8\n"        \
    "strb r14, [r10, r11]\n"    \
    "strb r12, [r10]\n"         \
    "add r10, r10, r8\n"
#define COLUMN_SUMS                                                              \
    LOAD_FIRST(4) FIRST(r8, r14)                                                   \
    LOAD_ROW(1-4) LEFT(r8, r4, r5) FIRST(r9, r14)                                  \
    LOAD_ROW(2-4) LEFT(r8, r6, r7) LEFT(r9, r4, r5) FIRST(r12, r14)                \
    LOAD_ROW(3-4) LEFT(r9, r6, r7) LEFT(r12, r4, r5) FIRST(r14, r14)               \
    LOAD_ROW(4-4) LEFT(r12, r6, r7) LEFT(r14, r4, r5)                              \
    LOAD_ROW(5-4) LEFT(r14, r6, r7)
#define COLUMN_2_SUMS                                                            \
    LOAD_FIRST(8) FIRST(r8, r14)                                                   \
    LOAD_ROW(1-8) LEFT(r8, r4, r5)                                                 \
    LOAD_ROW(2-8) LEFT(r8, r6, r7) FIRST(r9, r14)                                  \
    LOAD_ROW(3-8) LEFT(r9, r4, r5)                                                 \
    LOAD_ROW(4-8) LEFT(r9, r6, r7) FIRST(r12, r14)                                 \
    LOAD_ROW(5-8) LEFT(r12, r4, r5)                                                \
    LOAD_ROW(6-8) LEFT(r12, r6, r7) FIRST(r14, r14)                                \
    LOAD_ROW(7-8) LEFT(r14, r4, r5)                                                \
    LOAD_ROW(8-8) LEFT(r14, r6, r7)
#define COLUMN_STORE                 \
    "vmov r10, s14\n"                \
    "vmov r11, s4\n"                 \
    "strb r8, [r10]\n"               \
    "strb r9, [r10, r11]\n"          \
    "add r10, r10, r11, lsl #1\n"    \
    "strb r12, [r10]\n"              \
    "strb r14, [r10, r11]\n"         \
    "add r10, r10, r11, lsl #1\n"

#if BF_MUTATE == 1
#define SIGN(y) "mov r1, r11\n"
#else
#define SIGN(y) "add r1, r11, " #y ", asr #31\n"
#endif
#if BF_MUTATE == 2
#define HIGH "smmlar "
#else
#define HIGH "smmla "
#endif
#define SIGNED_PART(y) SIGN(y) "smmlar " #y ", " #y ", r10, r1\n"
#define NARROW_PART(y) "asr " #y ", " #y ", r10\n" "ssat " #y ", #8, " #y "\n"
#define SIGNED                                                                   \
    SIGNED_PART(r8) SIGNED_PART(r9) SIGNED_PART(r12) SIGNED_PART(r14)            \
    "vmov r10, s11\n"                                                            \
    "vmov r1, s0\n"                                                              \
    "add r1, r1, r0\n"                                                           \
    NARROW_PART(r8) NARROW_PART(r9) NARROW_PART(r12) NARROW_PART(r14)
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define SCALED_PART(y) HIGH #y ", " #y ", r10, r11\n" "ssat " #y ", #8, " #y ", asr #" TEXT(BF_PRESCALED_SHIFT) "\n"
#define SCALED SCALED_PART(r8) SCALED_PART(r9) SCALED_PART(r12) SCALED_PART(r14)

#define RUN(name, sums, requantize, store)                                                                         \
    __attribute__((naked, noinline)) static void name(                                                             \
        __attribute__((unused)) const struct strip *strip, __attribute__((unused)) const uint32_t *plane,          \
        __attribute__((unused)) int8_t *output, __attribute__((unused)) const struct bf_channel *channel)          \
    {                                                                                                              \
        __asm volatile(                                                                                            \
            ".syntax unified\n"                                                                                    \
            "push {r4-r11, lr}\n"                                                                                  \
            "vldm r0, {s0-s7}\n"                                                                                   \
            "ldr r12, [r0, #32]\n"                                                                                 \
            "vldm r3, {s8-s11}\n"                                                                                  \
            "vmov s12, r1\n"                                                                                       \
            "vmov s13, r2\n"                                                                                       \
            "ldm r12, {r2-r7}\n"                                                                                   \
            "vmov r10, s11\n"                                                                                      \
            "rsbs r10, r10, #0\n"                                                                                  \
            "vmov s11, r10\n"                                                                                      \
            "1:\n"                                                                                                 \
            "vmov r0, s12\n"                                                                                       \
            "vmov r1, s0\n"                                                                                        \
            "vmov r10, s5\n"                                                                                       \
            "vmov r8, s13\n"                                                                                       \
            "vmov r9, s3\n"                                                                                        \
            "add r1, r1, r0\n"                                                                                     \
            "add r10, r10, r0\n"                                                                                   \
            "vmov s12, r1\n"                                                                                       \
            "vmov s15, r10\n"                                                                                      \
            "vmov s14, r8\n"                                                                                       \
            "add r8, r8, r9\n"                                                                                     \
            "vmov s13, r8\n"                                                                                       \
            "2:\n"                                                                                                 \
            "vmov r14, s8\n"                                                                                       \
            sums                                                                                                   \
            "vmov r10, s9\n"                                                                                       \
            "vmov r11, s10\n"                                                                                      \
            requantize                                                                                             \
            store                                                                                                  \
            "vmov s14, r10\n"                                                                                      \
            "vmov r10, s15\n"                                                                                      \
            "cmp r0, r10\n"                                                                                        \
            "blo 2b\n"                                                                                             \
            "bhi 3f\n"                                                                                             \
            "vmov r11, s6\n"                                                                                       \
            "cmp r11, #0\n"                                                                                         \
            "beq 3f\n"                                                                                              \
            "subs r0, r0, r11\n"                                                                                   \
            "subs r1, r1, r11\n"                                                                                   \
            "vmov r10, s14\n"                                                                                      \
            "vmov r11, s7\n"                                                                                       \
            "sub r10, r10, r11\n"                                                                                  \
            "vmov s14, r10\n"                                                                                      \
            "b 2b\n"                                                                                               \
            "3:\n"                                                                                                 \
            "vmov r10, s1\n"                                                                                       \
            "subs r10, r10, #1\n"                                                                                  \
            "vmov s1, r10\n"                                                                                       \
            "bne 1b\n"                                                                                             \
            "pop {r4-r11, pc}\n");                                                                                 \
    }
RUN(squares_signed, SQUARE_SUMS, SIGNED, SQUARE_STORE)
RUN(squares_scaled, SQUARE_SUMS, SCALED, SQUARE_STORE)
RUN(columns_signed, COLUMN_SUMS, SIGNED, COLUMN_STORE)
RUN(columns_scaled, COLUMN_SUMS, SCALED, COLUMN_STORE)
RUN(columns_2_signed, COLUMN_2_SUMS, SIGNED, COLUMN_STORE)
RUN(columns_2_scaled, COLUMN_2_SUMS, SCALED, COLUMN_STORE)

typedef void run_function(const struct strip *, const uint32_t *, int8_t *, const struct bf_channel *);

/* Some columns of a band, the same ones for every channel. */
struct part {
    run_function *scaled, *exact; /* prescaled channels, channels of the short requantisation */
    uint32_t plane, output;       /* where its first column begins: words, bytes */
    struct strip strip;
};

/* The parts of a band: two where the width is odd and the stride 1, none where there are too few rows for a block. */
static uint32_t parts_of(const struct bf_window *op, uint32_t rows, uint32_t height, struct part *parts)
{
    uint32_t stride = op->stride_h, count = 0, row = (uint32_t)op->out_w * op->out_c, columns = op->out_w;
    uint32_t quads = rows & ~3u, rest = 4 - (rows & 3);
    if (stride == 1 && rows >= 2) {
        columns = op->out_w & 1u;
        parts[0] = (struct part){
            squares_scaled, squares_signed, 0, 0,
            {4 * height, op->out_w / 2u, op->out_c, 2u * op->out_c, row, 4 * (rows & ~1u), 4 * (rows & 1),
             row * (rows & 1), 0},
        };
        count = op->out_w > 1;
        if (columns && rows < 4) { /* too few for a block of four: half a square, its other half in the same place */
            parts[count] = parts[0];
            parts[count].strip.columns = 1;
            parts[count].strip.pixel = 0;
        }
    }
    if (columns && rows >= 4) {
        parts[count] = (struct part){
            stride == 1 ? columns_scaled : columns_2_scaled, stride == 1 ? columns_signed : columns_2_signed, 0, 0,
            {4 * height, columns, 0, op->out_c, row, 4 * stride * quads, quads == rows ? 0 : 4 * stride * rest,
             row * rest, 0},
        };
    }
    if (columns && (rows >= 4 || count > 0 || (stride == 1 && rows >= 2))) {
        uint32_t before = op->out_w - columns;
        parts[count].plane = before / 2 * height;
        parts[count].output = before * op->out_c;
        count++;
    }
    return count;
}

static void run_channel(const struct bf_window *op, struct part *parts, uint32_t count, const uint32_t *plane,
                        uint32_t height, const uint32_t *weights, uint32_t rows, const struct bf_channel *channel,
                        int8_t *output)
{
    if (count == 0 || channel->rounding == 0) {
        run_plain(op, plane, height, weights, rows, channel, output);
        return;
    }
    for (; count > 0; count--, parts++) {
        parts->strip.weights = weights;
        run_function *run = channel->shift == 0 ? parts->scaled : parts->exact;
        run(&parts->strip, plane + parts->plane, output + parts->output, channel);
    }
}
#else
struct part {
    int unused;
};

static uint32_t parts_of(const struct bf_window *op, uint32_t rows, uint32_t height, struct part *parts)
{
    (void)op, (void)rows, (void)height, (void)parts;
    return 0;
}

static void run_channel(const struct bf_window *op, struct part *parts, uint32_t count, const uint32_t *plane,
                        uint32_t height, const uint32_t *weights, uint32_t rows, const struct bf_channel *channel,
                        int8_t *output)
{
    (void)parts, (void)count;
    run_plain(op, plane, height, weights, rows, channel, output);
}
#endif

void bf_depthwise_3x3(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                      void *scratch)
{
    const struct bf_channel *channels = (const struct bf_channel *)(program + op->channels);
    uint32_t copies = op->out_c / op->in_c; /* the channel multiplier */
    uint32_t columns = ((op->out_w - 1u) * op->stride_w + 4) / 2;
    for (uint32_t first = 0; first < op->out_h; first += op->chunk) {
        uint32_t rows = op->out_h - first < op->chunk ? op->out_h - first : op->chunk;
        uint32_t height = (rows - 1) * op->stride_h + 3;
        const struct bf_channel *channel = channels;
        const uint32_t *weights = (const uint32_t *)(program + op->weights);
        int8_t *to = output + first * op->out_w * op->out_c;
        struct part parts[2];
        uint32_t count = parts_of(op, rows, height, parts);
        for (uint32_t in_c = 0; in_c < op->in_c; in_c += 4) {
            uint32_t planes = op->in_c - in_c < 4 ? op->in_c - in_c : 4;
            const uint32_t *plane = scratch;
            bf_gather(op, input + in_c, (int32_t)(first * op->stride_h) - op->pad_top, planes, columns, height, in_c == 0,
                      scratch);
            for (; planes > 0; planes--, plane += columns * height) {
                for (uint32_t copy = 0; copy < copies; copy++, channel++, weights += 6, to++) {
                    run_channel(op, parts, count, plane, height, weights, rows, channel, to);
                }
            }
        }
    }
    bf_clamp_all(output, (uint32_t)op->out_h * op->out_w * op->out_c, op->least, op->greatest);
}
#endif
