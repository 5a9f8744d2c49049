/* depthwise_conv2d 3x3 with the DSP extension: with stride 1 blocks of 2x2 outputs of one channel, with stride 2 of 4 outputs
 * in a column.
 *
 * Four channels at a time are gathered into planes of int16 pairs with the zero point around them. A plane lies column
 * by column: [pair of columns][row], so that the words that a block needs have fixed distances whatever the image:
 * A = (x, x + 1) and, one column of words further, B = (x + 2, x + 3). The six words of a channel's weights, (w0, w1) and
 * (w1, w2) of each row, stay in registers. A block of 2x2 is 8 loads and 24 multiplications for 36 products, one of four
 * in a column of stride 2 18 loads and 24. Where a window's third column lies outside the image, as it does at the end of
 * an odd width, it adds the same to every sum: to the bias. Four outputs there are 6 loads and 12 multiplications.
 * `chunk` output rows are done at a time, which bounds the planes. With stride 1 column after column of blocks, as a block
 * shares rows with the next below; with stride 2 row after row of them, as it shares a column of words with the next beside.
 *
 * Where rows do not fill blocks, the last block of a column overlaps the one before.
 * Weights are int16, [channel][row][w0, w1, w1, w2]. Where the output's zero point is -128 and a channel's numbers allow,
 * its weights and bias are 2^k times TFLite's, k such that one shift serves all channels: see bf_requantize_prescaled.
 * Else, where the short requantisation holds, they are doubled, which saves it a shift. */
#include "dsp_text.h"
#include "planes.h"

#if BF_WITH_DSP

/* Some columns of a band under one or more channels, in the order in which the assembly reads it. */
struct strip {
    uint32_t column_bytes;
    uint32_t columns;     /* of outputs; pairs of columns where blocks are squares */
    uint32_t pixel;       /* bytes from an output to the next in a row; 0 to drop the second of a square */
    uint32_t next_column; /* to the first output of the next column of blocks */
    uint32_t row;
    uint32_t whole_bytes; /* of plane under one column of whole blocks, at least one; see set_blocks */
    uint32_t back;        /* bytes of plane that the last, overlapping block goes back */
    uint32_t back_rows;   /* the same of output */
    /* Of the next channel, moved on by the assembly. */
    const uint32_t *plane;
    int8_t *output;
    const uint32_t *weights;
    const struct bf_channel *channel;
    uint32_t count;       /* of channels that are left */
    uint32_t plane_bytes; /* from a channel's plane to the next one's */
    uint32_t outside;     /* the zero point as a pair */
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
 * of the column, or of the row of blocks. r0 and r1 walk down two columns of words (A and B), r2-r7 weights, r10 and r11 work; sums of a square's
 * upper row in r8 and r9, of its lower row in r12 and r14; of a column in r8, r9, r12, r14. A turn is two squares: a
 * column with an odd number of them, or with an overlapping one, begins or ends at the second. */
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
/* Windows of two columns: r1, r3, r5, r7, r10, r11 are rows. */
#define TALL(y, from, a, b, c)               \
    "smlad " #y ", " #a ", r2, " #from "\n"  \
    "smlad " #y ", " #b ", r4, " #y "\n"     \
    "smlad " #y ", " #c ", r6, " #y "\n"
#define EDGE_SUMS                                                                                      \
    "ldr r1, [r0, #4]\n" "ldr r3, [r0, #8]\n" "ldr r5, [r0, #12]\n" "ldr r7, [r0, #16]\n"              \
    "ldr r10, [r0, #20]\n" "ldr r11, [r0], #16\n"                                                      \
    TALL(r8, r14, r11, r1, r3) TALL(r9, r14, r1, r3, r5) TALL(r12, r14, r3, r5, r7) TALL(r14, r14, r5, r7, r10)
/* The sums that nobody needs yet hold words as well: loads that follow each other save a cycle each. */
#define COLUMN_2_SUMS                                                                                  \
    "ldr r10, [r0]\n" "ldr r11, [r1]\n" "ldr r9, [r0, #4]\n" "ldr r12, [r1, #4]\n"                     \
    FIRST(r8, r14) "smlad r8, r9, r4, r8\n" "smlabt r8, r12, r5, r8\n"                                 \
    "ldr r10, [r0, #8]\n" "ldr r11, [r1, #8]\n" "ldr r12, [r0, #12]\n"                                 \
    LEFT(r8, r6, r7) FIRST(r9, r14) "smlad r9, r12, r4, r9\n"                                          \
    "ldr r12, [r1, #12]\n" "ldr r10, [r0, #16]\n" "ldr r11, [r1, #16]\n"                               \
    "smlabt r9, r12, r5, r9\n" LEFT(r9, r6, r7) FIRST(r12, r14)                                        \
    LOAD_ROW(5) LEFT(r12, r4, r5)                                                                      \
    LOAD_ROW(6) LEFT(r12, r6, r7) FIRST(r14, r14)                                                      \
    LOAD_ROW(7) LEFT(r14, r4, r5)                                                                      \
    LOAD_ROW(8) LEFT(r14, r6, r7)
#define COLUMN_STORE                 \
    "vmov r10, s14\n"                \
    "vmov r11, s4\n"                 \
    "strb r8, [r10]\n"               \
    "strb r9, [r10, r11]\n"          \
    "add r10, r10, r11, lsl #1\n"    \
    "strb r12, [r10]\n"              \
    "strb r14, [r10, r11]\n"         \
    "add r10, r10, r11, lsl #1\n"

#define COLUMN_2_STORE               \
    "vmov r10, s14\n"                \
    "vmov r11, s4\n"                 \
    "strb r8, [r10]\n"               \
    "vmov r8, s3\n"                  \
    "strb r9, [r10, r11]\n"          \
    "add r9, r10, r11, lsl #1\n"     \
    "strb r12, [r9]\n"               \
    "strb r14, [r9, r11]\n"          \
    "add r10, r10, r8\n"

#define SIGNED_PART(y) BF_LESS_SIGN(r1, r11, y) "smmlar " #y ", " #y ", r10, r1\n"
#define NARROW_PART(y) "asr " #y ", " #y ", r10\n" "ssat " #y ", #8, " #y "\n"
#define SIGNED_EDGE                                                              \
    SIGNED_PART(r8) SIGNED_PART(r9) SIGNED_PART(r12) SIGNED_PART(r14)            \
    "vmov r10, s11\n"                                                            \
    NARROW_PART(r8) NARROW_PART(r9) NARROW_PART(r12) NARROW_PART(r14)
#define SIGNED SIGNED_EDGE "vmov r1, s0\n" "add r1, r1, r0\n"
#define SCALED_PART(y) BF_PRESCALED(y, r10, r11)
#define SCALED SCALED_PART(r8) SCALED_PART(r9) SCALED_PART(r12) SCALED_PART(r14)

/* What a third column outside the image adds: r14 is the bias. */
#define INSIDE ""
#define AT_EDGE                     \
    "ldr r10, [r0, #56]\n"          \
    "vmov r14, s8\n"                \
    "smlabt r14, r10, r3, r14\n"    \
    "smlabt r14, r10, r5, r14\n"    \
    "smlabt r14, r10, r7, r14\n"    \
    "vmov s8, r14\n"
#define BLOCK(sums, requantize, store)  \
    "vmov r14, s8\n"                    \
    sums                                \
    "vmov r10, s9\n"                    \
    "vmov r11, s10\n"                   \
    requantize                          \
    store                               \
    "vmov s14, r10\n"
/* Two blocks a turn (with `odd` the bit of a column's bytes that tells an odd number of them), or one. */
#define TURN_OF_TWO(odd, sums, requantize, store)    \
    "tst r11, #" #odd "\n"                           \
    "bne 5f\n"                                       \
    "2:\n"                                           \
    BLOCK(sums, requantize, store)                   \
    "5:\n"                                           \
    BLOCK(sums, requantize, store)
#define TURN_OF_ONE(odd, sums, requantize, store)    \
    "2:\n"                                           \
    "5:\n"                                           \
    BLOCK(sums, requantize, store)

/* Blocks one below the other, columns side by side. */
#define WALK_DOWN(turn, sums, requantize, store, edge)                         \
    "vmov s12, r8\n"                                                           \
    "vmov s13, r9\n"                                                           \
    "ldm r10, {r2-r7}\n"                                                       \
    edge                                                                       \
    "1:\n"                                                                     \
    "vmov r0, s12\n"                                                           \
    "vmov r1, s0\n"                                                            \
    "vmov r11, s5\n"                                                           \
    "vmov r8, s13\n"                                                           \
    "vmov r9, s3\n"                                                            \
    "add r1, r1, r0\n"                                                         \
    "add r10, r11, r0\n"                                                       \
    "vmov s12, r1\n"                                                           \
    "vmov s15, r10\n"                                                          \
    "vmov s14, r8\n"                                                           \
    "add r8, r8, r9\n"                                                         \
    "vmov s13, r8\n"                                                           \
    turn(8, sums, requantize, store)                                           \
    "vmov r11, s15\n"                                                          \
    "cmp r0, r11\n"                                                            \
    "blo 2b\n"                                                                 \
    "bhi 3f\n"                                                                 \
    "vmov r11, s6\n"                                                           \
    "subs r0, r0, r11\n"                                                       \
    "subs r1, r1, r11\n"                                                       \
    "vmov r11, s7\n"                                                           \
    "sub r10, r10, r11\n"                                                      \
    "vmov s14, r10\n"                                                          \
    "b 5b\n"                                                                   \
    "3:\n"                                                                     \
    "vmov r10, s1\n"                                                           \
    "subs r10, r10, #1\n"                                                      \
    "vmov s1, r10\n"                                                           \
    "bne 1b\n"
/* One row of blocks of stride 2: a column's B is the next one's A. */
#define WALK_ACROSS(requantize)                                                \
    "vmov s14, r9\n"                                                           \
    "ldm r10, {r2-r7}\n"                                                       \
    "vmov r1, s0\n"                                                            \
    "vmov r10, s1\n"                                                           \
    "mov r0, r8\n"                                                             \
    "mla r10, r10, r1, r8\n"                                                   \
    "add r1, r1, r8\n"                                                         \
    "vmov s15, r10\n"                                                          \
    "1:\n"                                                                     \
    BLOCK(COLUMN_2_SUMS, requantize, COLUMN_2_STORE)                           \
    "vmov r9, s0\n"                                                            \
    "vmov r10, s15\n"                                                          \
    "mov r0, r1\n"                                                             \
    "add r1, r1, r9\n"                                                         \
    "cmp r0, r10\n"                                                            \
    "bne 1b\n"

/* Channels one after the other. */
#define RUN(name, walk)                                                                                    \
    __attribute__((naked, noinline)) static void name(__attribute__((unused)) struct strip *strip)         \
    {                                                                                                      \
        __asm volatile(                                                                                    \
            ".syntax unified\n"                                                                            \
            "push {r0, r4-r11, lr}\n"                                                                      \
            "vldm r0, {s0-s7}\n"                                                                           \
            "add r14, r0, #32\n"                                                                           \
            "ldm r14, {r8-r12}\n"                                                                          \
            "0:\n"                                                                                         \
            "vldm r11, {s8-s11}\n"                                                                         \
            "vmov r11, s11\n"                                                                              \
            "rsb r11, r11, #0\n"                                                                           \
            "vmov s11, r11\n"                                                                              \
            walk                                                                                           \
            "ldr r0, [sp]\n"                                                                               \
            "add r14, r0, #32\n"                                                                           \
            "ldm r14, {r8-r12}\n"                                                                          \
            "ldr r1, [r0, #52]\n"                                                                          \
            "ldr r2, [r0, #4]\n"                                                                           \
            "add r8, r8, r1\n"                                                                             \
            "adds r9, r9, #1\n"                                                                            \
            "adds r10, r10, #24\n"                                                                         \
            "adds r11, r11, #16\n"                                                                         \
            "vmov s1, r2\n"                                                                                \
            "subs r12, r12, #1\n"                                                                          \
            "stm r14, {r8-r12}\n"                                                                          \
            "bne 0b\n"                                                                                     \
            "add sp, sp, #4\n"                                                                             \
            "pop {r4-r11, pc}\n");                                                                         \
    }
RUN(squares_signed, WALK_DOWN(TURN_OF_TWO, SQUARE_SUMS, SIGNED, SQUARE_STORE, INSIDE))
RUN(squares_scaled, WALK_DOWN(TURN_OF_TWO, SQUARE_SUMS, SCALED, SQUARE_STORE, INSIDE))
RUN(edges_signed, WALK_DOWN(TURN_OF_ONE, EDGE_SUMS, SIGNED_EDGE, COLUMN_STORE, AT_EDGE))
RUN(edges_scaled, WALK_DOWN(TURN_OF_ONE, EDGE_SUMS, SCALED, COLUMN_STORE, AT_EDGE))
RUN(columns_2_signed, WALK_ACROSS(SIGNED))
RUN(columns_2_scaled, WALK_ACROSS(SCALED))

typedef void run_function(struct strip *);

/* Some columns of a band, the same ones for every channel. */
struct part {
    run_function *scaled, *exact; /* prescaled channels, channels of the short requantisation */
    uint32_t plane, output;       /* where its first column begins: words, bytes */
    struct strip strip;
};

/* `strip.whole_bytes` where blocks of `block` rows, `block_bytes` of plane each, do the rows; `back` where the last one
 * overlaps. A column ends where r0 has come to whole_bytes; if it has gone beyond, nothing is left to be done: without an
 * overlapping block whole_bytes are 12 less, more than the turn before last. The bit of 8 tells the same in both cases. */
static void set_blocks(struct strip *strip, uint32_t rows, uint32_t block, uint32_t row_bytes)
{
    uint32_t rest = rows % block;
    strip->whole_bytes = (rows - rest) * row_bytes;
    if (rest == 0) {
        strip->whole_bytes -= 12;
    } else {
        strip->back = (block - rest) * row_bytes;
        strip->back_rows = (block - rest) * strip->row;
    }
}

/* The parts of a band: two where the width is odd and the stride 1, none where there are too few rows for a block. */
static uint32_t parts_of(const struct bf_window *op, uint32_t rows, uint32_t height, struct part *parts)
{
    uint32_t stride = op->stride_h, count = 0, row = (uint32_t)op->out_w * op->out_c, columns = op->out_w;
    struct strip tall = {.column_bytes = 4 * height, .columns = columns, .next_column = op->out_c, .row = row,
                         .outside = (uint32_t)op->in_zero & 0xffffu};
    struct strip squares = {.column_bytes = 4 * height, .columns = columns / 2, .pixel = op->out_c,
                            .next_column = 2u * op->out_c, .row = row};
    set_blocks(&tall, rows, 4, 4);
    set_blocks(&squares, rows, 2, 4);
    if (stride == 2) {
        parts[0] = (struct part){columns_2_scaled, columns_2_signed, 0, 0, tall};
        return rows >= 4;
    }
    if (rows >= 2 && op->out_w >= 2) {
        parts[count++] = (struct part){squares_scaled, squares_signed, 0, 0, squares};
    }
    if ((columns & 1) && rows >= 2) {
        uint32_t before = op->out_w - 1u;
        if (rows >= 4 && op->out_w + 1u >= (uint32_t)op->in_w + op->pad_left) { /* the window's third column is outside */
            tall.columns = 1;
            parts[count] = (struct part){edges_scaled, edges_signed, 0, 0, tall};
        } else { /* half a square, its other half in the same place */
            squares.columns = 1;
            squares.pixel = 0;
            parts[count] = (struct part){squares_scaled, squares_signed, 0, 0, squares};
        }
        parts[count].plane = before / 2 * height;
        parts[count++].output = before * op->out_c;
    }
    return count;
}

/* `channels` channels, each with the plane `plane_words` behind the one before. */
static void run_channels(const struct bf_window *op, struct part *parts, uint32_t count, const uint32_t *plane,
                         uint32_t plane_words, uint32_t height, const uint32_t *weights, uint32_t rows,
                         const struct bf_channel *channel, uint32_t channels, int8_t *output)
{
    while (channels > 0) {
        uint32_t run = 1; /* of channels of one kind */
        if (count == 0 || channel->rounding == 0) {
            run_plain(op, plane, height, weights, rows, channel, output);
        } else {
            int scaled = channel->shift == 0;
            while (run < channels && channel[run].rounding != 0 && (channel[run].shift == 0) == scaled) {
                run++;
            }
            for (struct part *part = parts; part != parts + count; part++) {
                struct strip *strip = &part->strip;
                strip->plane = plane + part->plane, strip->output = output + part->output;
                strip->weights = weights, strip->channel = channel;
                strip->count = run, strip->plane_bytes = 4 * plane_words;
                (scaled ? part->scaled : part->exact)(strip);
            }
        }
        channels -= run, channel += run, output += run, weights += 6 * run, plane += run * plane_words;
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

static void run_channels(const struct bf_window *op, struct part *parts, uint32_t count, const uint32_t *plane,
                         uint32_t plane_words, uint32_t height, const uint32_t *weights, uint32_t rows,
                         const struct bf_channel *channel, uint32_t channels, int8_t *output)
{
    (void)parts, (void)count;
    for (; channels > 0; channels--, channel++, output++, weights += 6, plane += plane_words) {
        run_plain(op, plane, height, weights, rows, channel, output);
    }
}
#endif

static void run_lanes(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                      uint32_t *scratch, uint32_t begin, uint32_t end, uint32_t keep)
{
    uint32_t copies = op->out_c / op->in_c; /* the channel multiplier */
    uint32_t columns = ((op->out_w - 1u) * op->stride_w + 4) / 2;
    for (uint32_t first = 0; first < op->out_h; first += op->chunk) {
        uint32_t rows = op->out_h - first < op->chunk ? op->out_h - first : op->chunk;
        uint32_t height = (rows - 1) * op->stride_h + 3, plane_words = columns * height, done = begin * copies;
        const struct bf_channel *channel = (const struct bf_channel *)(program + op->channels) + done;
        const uint32_t *weights = (const uint32_t *)(program + op->weights) + 6 * done;
        int8_t *to = output + first * op->out_w * op->out_c + done;
        struct part parts[2];
        uint32_t count = parts_of(op, rows, height, parts);
        uint32_t block = op->stride_h == 2 && rows >= 4 ? 4 : rows; /* of rows that are done at once */
        int32_t y = (int32_t)(first * op->stride_h) - op->pad_top;
        struct bf_gather gather = bf_gather_of(op, y, first > 0 ? keep : 0, columns, height, scratch);
        for (uint32_t in_c = begin; in_c < end; in_c += 4) {
            uint32_t planes = end - in_c < 4 ? end - in_c : 4, step = copies == 1 ? planes : 1;
            const uint32_t *plane = scratch;
            bf_gather_channels(&gather, input + in_c, planes, in_c == begin);
            for (uint32_t i = 0; i < planes; i += step, plane += plane_words) {
                uint32_t run = copies == 1 ? planes : copies;
                for (uint32_t row = 0, end = block;; row = end - block) { /* the last block may overlap the one before */
                    run_channels(op, parts, count, plane + 2 * row, copies == 1 ? plane_words : 0, height, weights, block,
                                 channel, run, to + row * op->out_w * op->out_c);
                    if (end == rows) {
                        break;
                    }
                    end = end + block < rows ? end + block : rows;
                }
                channel += run, weights += 6 * run, to += run;
            }
            if (keep > 0 && first + rows < op->out_h) {
                uint32_t left = op->out_h - first - rows, next = left < op->chunk ? left : op->chunk;
                bf_keep_rows(&gather, rows * op->stride_h, keep, planes, (next - 1) * op->stride_h + op->kernel_h);
            }
        }
    }
}

void bf_depthwise_3x3(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                      void *scratch)
{
    bf_run_lanes(op, program, input, output, scratch, run_lanes);
}
#endif
