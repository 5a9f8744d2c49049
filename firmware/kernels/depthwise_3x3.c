/* depthwise_conv2d 3x3 with stride 1 and the DSP extension: blocks of 2x2 outputs of one channel.
 *
 * Four channels at a time are gathered into planes of int16 pairs with the zero point around them. A plane lies column
 * by column: [pair of columns][row], so that the words that a block needs have fixed distances whatever the image:
 * A = (x, x + 1) and, one column of words further, B = (x + 2, x + 3), for four rows. The six words of a channel's
 * weights, (w0, w1) and (w1, w2) of each row, stay in registers. A block is 8 loads and 24 multiplications for 36
 * products. `chunk` output rows are done at a time, which bounds the planes.
 *
 * Where width or height is odd, the last block's second column or row is written to the same place before the first.
 * Weights are int16, [channel][row][w0, w1, w1, w2]; where the short requantisation holds, weights and bias are doubled,
 * which saves it a shift. */
#include "planes.h"
#include "requantize.h"

#if BF_WITH_DSP

/* What the block kernel reads, in this order. */
struct strip {
    const uint32_t *plane;
    uint32_t column_bytes;
    uint32_t columns;    /* of outputs, in pairs; see lone_column */
    int8_t *output;
    uint32_t pixel;      /* from one output to the next in a row */
    uint32_t two_pixels; /* from one pair to the next */
    uint32_t row;        /* from one output row to the next; 0 to drop the second */
    uint32_t rows_bytes; /* 4 x rows, an even number */
    int32_t bias, multiplier, rounding, shift;
    const uint32_t *weights;
    uint32_t unused[2];
    uint32_t lone_column; /* 1: the last pair is one output; its second is dropped */
};

/* The same blocks one output after the other, from the last row up, because the second row may be one that is dropped.
 * Any requantisation, any core. */
static void run_strip_plain(const struct strip *s, const struct bf_channel *channel, int32_t out_zero)
{
    for (uint32_t column = 0; column < s->columns; column++) {
        for (uint32_t row = s->rows_bytes / 4; row-- > 0;) {
            const uint32_t *a = s->plane + column * (s->column_bytes / 4) + row, *b = a + s->column_bytes / 4;
            int32_t sums[2] = {s->bias, s->bias};
            for (uint32_t k = 0; k < 3; k++) {
                uint32_t w01 = s->weights[2 * k], w12 = s->weights[2 * k + 1];
                sums[0] = bf_smlabt(b[k], w12, bf_smlad(a[k], w01, sums[0]));
                sums[1] = bf_smlad(b[k], w12, bf_smlatb(a[k], w01, sums[1]));
            }
            for (uint32_t i = s->columns - column == s->lone_column ? 1 : 2; i-- > 0;) {
                s->output[column * s->two_pixels + row * s->row + i * s->pixel] =
                    (int8_t)(channel->rounding != 0
                                 ? bf_requantize_doubled(sums[i], s->multiplier, s->rounding, s->shift)
                                 : bf_ssat8(bf_requantize(sums[i], channel, out_zero)));
            }
        }
    }
}

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP) && !defined(BF_NO_ASSEMBLY)
/* s0-s12 and s15 hold the strip, s13 the block's output, s14 the end of a column. r0 and r1 walk down two columns of words (A and
 * B), r2-r7 weights, r10 and r11 work; sums of the upper row in r8 and r9, of the lower row in r12 and r14. */
#define ROW_PART(y0, y1, w01, w12)                  \
    "smlad " #y0 ", r10, " #w01 ", " #y0 "\n"       \
    "smlabt " #y0 ", r11, " #w12 ", " #y0 "\n"      \
    "smlatb " #y1 ", r10, " #w01 ", " #y1 "\n"      \
    "smlad " #y1 ", r11, " #w12 ", " #y1 "\n"
#define LOAD_ROW(k) "ldr r10, [r0, #4*" #k "]\n" "ldr r11, [r1, #4*" #k "]\n"
#define UPPER(w01, w12) ROW_PART(r8, r9, w01, w12)
#define LOWER(w01, w12) ROW_PART(r12, r14, w01, w12)
#define HIGH_PART(y) "smmlar " #y ", " #y ", r10, r11\n"
/* With its sign term, which comes before the product because no register is left behind it. */
#if BF_MUTATE == 1
#define SIGNED_HIGH_PART(y) HIGH_PART(y)
#else
#define SIGNED_HIGH_PART(y) "vmov r11, s10\n" "add r11, r11, " #y ", asr #31\n" HIGH_PART(y)
#endif
#define NARROW(y) "asr " #y ", " #y ", r10\n" "ssat " #y ", #8, " #y "\n"
#define RUN_STRIP(name, high_part, sums, store, step)                                                          \
    __attribute__((naked, noinline)) static void name(__attribute__((unused)) const struct strip *strip)       \
    {                                                                                                          \
        __asm volatile(                                                                                        \
            ".syntax unified\n"                                                                                \
            "push {r4-r11, lr}\n"                                                                              \
            "vldm r0, {s0-s15}\n"                                                                              \
            "vmov r1, s12\n"                                                                                   \
            "ldm r1, {r2-r7}\n"                                                                                \
            "1:\n"                                                                                             \
            "vmov r0, s0\n"                                                                                    \
            "vmov r1, s1\n"                                                                                    \
            "vmov r10, s7\n"                                                                                   \
            "vmov r8, s3\n"                                                                                    \
            "vmov r9, s5\n"                                                                                    \
            "add r1, r1, r0\n"                                                                                 \
            "add r10, r10, r0\n"                                                                               \
            "vmov s0, r1\n"                                                                                    \
            "vmov s14, r10\n"                                                                                  \
            "vmov s13, r8\n"                                                                                   \
            "add r8, r8, r9\n"                                                                                 \
            "vmov s3, r8\n"                                                                                    \
            "vmov r10, s2\n"                                                                                   \
            "vmov r11, s15\n"                                                                                  \
            "cmp r10, r11\n"                                                                                   \
            "bne 2f\n"                                                                                         \
            "movs r11, #0\n"                                                                                   \
            "vmov s4, r11\n"                                                                                   \
            "2:\n"                                                                                             \
            "vmov r8, s8\n"                                                                                    \
            "mov r9, r8\n"                                                                                     \
            "mov r12, r8\n"                                                                                    \
            "mov r14, r8\n"                                                                                    \
            sums                                                                                               \
            "vmov r10, s9\n"                                                                                   \
            "vmov r11, s10\n"                                                                                  \
            high_part(r8) high_part(r9) high_part(r12) high_part(r14)                                          \
            "vmov r10, s11\n"                                                                                  \
            NARROW(r8) NARROW(r9) NARROW(r12) NARROW(r14)                                                      \
            "vmov r10, s13\n"                                                                                  \
            "vmov r11, s6\n"                                                                                   \
            store                                                                                              \
            "vmov s13, r10\n"                                                                                  \
            "vmov r10, s14\n"                                                                                  \
            "adds r0, r0, #" step "\n"                                                                                \
            "adds r1, r1, #" step "\n"                                                                                \
            "cmp r0, r10\n"                                                                                    \
            "bne 2b\n"                                                                                         \
            "vmov r10, s2\n"                                                                                   \
            "subs r10, r10, #1\n"                                                                              \
            "vmov s2, r10\n"                                                                                   \
            "bne 1b\n"                                                                                         \
            "pop {r4-r11, pc}\n");                                                                             \
    }

/* Two columns and two rows; r10 holds the output and r11 the distance of rows. */
#define SQUARE_SUMS                       \
    LOAD_ROW(0) UPPER(r2, r3)             \
    LOAD_ROW(1) UPPER(r4, r5) LOWER(r2, r3) \
    LOAD_ROW(2) UPPER(r6, r7) LOWER(r4, r5) \
    LOAD_ROW(3) LOWER(r6, r7)
#define SQUARE_STORE            \
    "add r10, r10, r11\n"       \
    "vmov r11, s4\n"            \
    "strb r14, [r10, r11]\n"    \
    "strb r12, [r10]\n"         \
    "vmov r12, s13\n"           \
    "strb r9, [r12, r11]\n"     \
    "strb r8, [r12]\n"          \
    "vmov r14, s6\n"            \
    "add r10, r10, r14\n"
RUN_STRIP(run_strip_signed, SIGNED_HIGH_PART, SQUARE_SUMS, SQUARE_STORE, "8")
RUN_STRIP(run_strip_unsigned, HIGH_PART, SQUARE_SUMS, SQUARE_STORE, "8")

/* One column and four rows: for the last column of an odd width. */
#define ONE_PART(y, w01, w12)                  \
    "smlad " #y ", r10, " #w01 ", " #y "\n"    \
    "smlabt " #y ", r11, " #w12 ", " #y "\n"
#define COLUMN_SUMS                                                              \
    LOAD_ROW(0) ONE_PART(r8, r2, r3)                                             \
    LOAD_ROW(1) ONE_PART(r8, r4, r5) ONE_PART(r9, r2, r3)                        \
    LOAD_ROW(2) ONE_PART(r8, r6, r7) ONE_PART(r9, r4, r5) ONE_PART(r12, r2, r3)  \
    LOAD_ROW(3) ONE_PART(r9, r6, r7) ONE_PART(r12, r4, r5) ONE_PART(r14, r2, r3) \
    LOAD_ROW(4) ONE_PART(r12, r6, r7) ONE_PART(r14, r4, r5)                      \
    LOAD_ROW(5) ONE_PART(r14, r6, r7)
#define COLUMN_STORE                    \
    "strb r8, [r10]\n"                  \
    "strb r9, [r10, r11]\n"             \
    "strb r12, [r10, r11, lsl #1]\n"    \
    "add r10, r10, r11, lsl #1\n"       \
    "strb r14, [r10, r11]\n"            \
    "add r10, r10, r11, lsl #1\n"
RUN_STRIP(run_column_signed, SIGNED_HIGH_PART, COLUMN_SUMS, COLUMN_STORE, "16")
RUN_STRIP(run_column_unsigned, HIGH_PART, COLUMN_SUMS, COLUMN_STORE, "16")
#define HAS_COLUMNS 1

static void run_strip(const struct strip *strip, const struct bf_channel *channel, int32_t out_zero)
{
    if (channel->rounding == 0) {
        run_strip_plain(strip, channel, out_zero);
    } else if (out_zero != -128) {
        run_strip_signed(strip);
    } else {
        run_strip_unsigned(strip); /* negative sums saturate to -128 whatever their rounding */
    }
}
#else
static void run_strip(const struct strip *strip, const struct bf_channel *channel, int32_t out_zero)
{
    run_strip_plain(strip, channel, out_zero);
}
#define HAS_COLUMNS 0
#endif

#if HAS_COLUMNS
/* The lone last column, four rows at a time; the last four overlap the ones before. */
static void run_lone_column(const struct bf_window *op, struct strip strip, uint32_t rows)
{
    void (*run)(const struct strip *) = op->out_zero == -128 ? run_column_unsigned : run_column_signed;
    strip.plane += strip.columns * (strip.column_bytes / 4);
    strip.output += strip.columns * strip.two_pixels;
    strip.columns = 1;
    strip.rows_bytes = 4 * (rows & ~3u);
    run(&strip);
    if (rows & 3) {
        strip.plane += rows - 4;
        strip.output += (rows - 4) * strip.row;
        strip.rows_bytes = 16;
        run(&strip);
    }
}
#endif

/* All outputs of one channel in a band of `rows` rows: whole blocks, then a lone row. */
static void run_channel(const struct bf_window *op, struct strip *strip, uint32_t rows, const struct bf_channel *channel)
{
    strip->row = (uint32_t)op->out_w * op->out_c;
    strip->rows_bytes = 4 * (rows & ~1u);
#if HAS_COLUMNS
    if (strip->lone_column && rows >= 4 && channel->rounding != 0) {
        strip->columns -= 1;
        strip->lone_column = 0;
        run_lone_column(op, *strip, rows);
    }
#endif
    if (strip->columns == 0) {
        return;
    }
    if (rows > 1) {
        run_strip(strip, channel, op->out_zero);
    }
    if (rows & 1) {
        strip->plane += rows - 1;
        strip->output += (rows - 1) * strip->row;
        strip->row = 0;
        strip->rows_bytes = 8;
        run_strip(strip, channel, op->out_zero);
    }
}

void bf_depthwise_3x3(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                      void *scratch)
{
    const struct bf_channel *channels = (const struct bf_channel *)(program + op->channels);
    const uint32_t *weights = (const uint32_t *)(program + op->weights);
    uint32_t copies = op->out_c / op->in_c; /* the channel multiplier */
    uint32_t columns = (op->out_w + 1u) / 2 + 1;
    for (uint32_t first = 0; first < op->out_h; first += op->chunk) {
        uint32_t rows = op->out_h - first < op->chunk ? op->out_h - first : op->chunk;
        uint32_t height = ((rows + 1) & ~1u) + 2;
        for (uint32_t in_c = 0; in_c < op->in_c; in_c += 4) {
            uint32_t count = op->in_c - in_c < 4 ? op->in_c - in_c : 4;
            bf_gather(op, input + in_c, (int32_t)first - op->pad_top, count, columns, height, scratch);
            uint32_t c = in_c * copies;
            for (uint32_t j = 0; j < count; j++) {
                for (uint32_t copy = 0; copy < copies; copy++, c++) {
                    struct strip strip = {
                        .plane = (const uint32_t *)scratch + j * columns * height,
                        .column_bytes = 4 * height,
                        .columns = columns - 1,
                        .output = output + first * op->out_w * op->out_c + c,
                        .pixel = op->out_c,
                        .two_pixels = 2u * op->out_c,
                        .bias = channels[c].bias,
                        .multiplier = channels[c].multiplier,
                        .rounding = channels[c].rounding,
                        .shift = -channels[c].shift,
                        .weights = weights + 6 * c,
                        .lone_column = op->out_w & 1u,
                    };
                    run_channel(op, &strip, rows, channels + c);
                }
            }
        }
    }
    bf_clamp_all(output, (uint32_t)op->out_h * op->out_w * op->out_c, op->least, op->greatest);
}
#endif
