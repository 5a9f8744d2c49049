/* depthwise_conv2d with the DSP extension, any window and stride. Four channels at a time are gathered into planes
 * (planes.h), `chunk` output rows at a time, which bounds the planes. A window meets, for each of its pairs of columns,
 * kernel_h words that follow each other; four outputs at a time share the loads of the weights, and where they lie in a
 * column under windows of five rows with stride 1 also those of the planes.
 *
 * Weights are int16, [channel][phase][pair][row]: phase 0 for windows that start at the first column of a pair, (w0, w1),
 * (w2, w3)...; phase 1, only where stride_w is odd, for the others: (0, w0), (w1, w2)... Where the short requantisation
 * holds, weights and bias are doubled, which saves it a shift. */
#include "dsp_text.h"
#include "planes.h"
#include "requantize.h"

#if BF_WITH_DSP

/* A channel's plane and what its outputs need. */
struct plane {
    const uint32_t *data;
    uint32_t height; /* words in a column */
    uint32_t kernel_h;
    const struct bf_channel *channel;
    int32_t out_zero;
};

/* `count` (1 or 4) outputs whose windows are `distance` words apart and whose results `out_step` bytes. */
static void run_windows(const struct plane *plane, const uint32_t *window, uint32_t distance, const uint32_t *weights,
                        uint32_t pairs, uint32_t count, int8_t *output, uint32_t out_step)
{
    const struct bf_channel *channel = plane->channel;
    int32_t s0 = channel->bias, s1 = s0, s2 = s0, s3 = s0;
    uint32_t height = plane->height, kernel_h = plane->kernel_h;
    for (; pairs > 0; pairs--, window += height) {
        const uint32_t *p0 = window, *p1 = p0 + distance, *p2 = p1 + distance, *p3 = p2 + distance;
        const uint32_t *end = weights + kernel_h;
        do {
            uint32_t w = *weights++;
            s0 = bf_smlad(*p0++, w, s0);
            s1 = bf_smlad(*p1++, w, s1);
            s2 = bf_smlad(*p2++, w, s2);
            s3 = bf_smlad(*p3++, w, s3);
        } while (weights != end);
    }
    int32_t sums[4] = {s0, s1, s2, s3};
    for (uint32_t i = 0; i < count; i++, output += out_step) {
        *output = (int8_t)(channel->rounding != 0 ? bf_requantize_doubled(sums[i], channel->multiplier,
                                                                          channel->rounding, -channel->shift)
                                                  : bf_ssat8(bf_requantize(sums[i], channel, plane->out_zero)));
    }
}

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP) && !defined(BF_NO_ASSEMBLY)
/* What the assembly reads, in this order: blocks of four outputs. */
struct blocks {
    const uint32_t *window;
    uint32_t distance, gap, column_bytes; /* gap: from the end of one column's rows to the next column's */
    const uint32_t *weights, *weights_end;
    uint32_t count, block_bytes;
    int32_t bias, multiplier, rounding, shift;
    int8_t *output;
    uint32_t out_step, out_block; /* bytes between the outputs of a block, and between blocks */
};

#define NARROW(y)                       \
    BF_LESS_SIGN(r5, r11, y)           \
    "smmlar " #y ", " #y ", r10, r5\n" \
    "asr " #y ", " #y ", r12\n"        \
    "ssat " #y ", #8, " #y "\n"

/* s0-s14 hold the arguments; a block's windows begin at r0; sums in r6-r9. */
#define RUN_BLOCKS(name, sums)                                                                                   \
    __attribute__((naked, noinline)) static void name(__attribute__((unused)) const struct blocks *blocks)      \
    {                                                                                                            \
        __asm volatile(                                                                                          \
            ".syntax unified\n"                                                                                  \
            "push {r4-r11, lr}\n"                                                                                \
            "vldm r0, {s0-s14}\n"                                                                                \
            "1:\n"                                                                                               \
            "vmov r0, s0\n"                                                                                      \
            "vmov r6, s8\n"                                                                                      \
            "vmov r12, s7\n"                                                                                     \
            "add r12, r12, r0\n"                                                                                 \
            "vmov s0, r12\n"                                                                                     \
            "mov r7, r6\n"                                                                                       \
            "mov r8, r6\n"                                                                                       \
            "mov r9, r6\n"                                                                                       \
            sums                                                                                                 \
            "vmov r10, s9\n"                                                                                     \
            "vmov r11, s10\n"                                                                                    \
            "vmov r12, s11\n"                                                                                    \
            NARROW(r6) NARROW(r7) NARROW(r8) NARROW(r9)                                                          \
            "vmov r0, s12\n"                                                                                     \
            "vmov r1, s13\n"                                                                                     \
            "vmov r2, s6\n"                                                                                      \
            "strb r6, [r0]\n"                                                                                    \
            "strb r7, [r0, r1]\n"                                                                                \
            "strb r8, [r0, r1, lsl #1]\n"                                                                        \
            "vmov r3, s14\n"                                                                                     \
            "add r3, r3, r0\n"                                                                                   \
            "add r0, r0, r1, lsl #1\n"                                                                           \
            "strb r9, [r0, r1]\n"                                                                                \
            "vmov s12, r3\n"                                                                                     \
            "subs r2, r2, #1\n"                                                                                  \
            "vmov s6, r2\n"                                                                                      \
            "bne 1b\n"                                                                                           \
            "pop {r4-r11, pc}\n");                                                                               \
    }

/* Any window: r0-r3 walk the four windows, r4 the weights. */
#define ANY_SUMS                   \
    "vmov r14, s1\n"               \
    "vmov r4, s4\n"                \
    "add r1, r0, r14\n"            \
    "add r2, r1, r14\n"            \
    "add r3, r2, r14\n"            \
    "2:\n"                         \
    "vmov r12, s3\n"               \
    "add r12, r12, r4\n"           \
    "3:\n"                         \
    "ldr r5, [r4], #4\n"           \
    "ldr r10, [r0], #4\n"          \
    "ldr r11, [r1], #4\n"          \
    "smlad r6, r10, r5, r6\n"      \
    "smlad r7, r11, r5, r7\n"      \
    "ldr r10, [r2], #4\n"          \
    "ldr r11, [r3], #4\n"          \
    "smlad r8, r10, r5, r8\n"      \
    "smlad r9, r11, r5, r9\n"      \
    "cmp r4, r12\n"                \
    "bne 3b\n"                     \
    "vmov r5, s2\n"                \
    "vmov r12, s5\n"               \
    "adds r0, r0, r5\n"            \
    "adds r1, r1, r5\n"            \
    "adds r2, r2, r5\n"            \
    "adds r3, r3, r5\n"            \
    "cmp r4, r12\n"                \
    "bne 2b\n"
RUN_BLOCKS(run_blocks, ANY_SUMS)

/* Windows of five rows, each one row below the one before: they share eight words a column. r1-r5 are a column's weights,
 * r14 walks the columns. */
#define PAIR(row) "ldr r10, [r0, #4*" #row "]\n" "ldr r11, [r0, #4*" #row "+4]\n"
#define MAC(sum, word, weight) "smlad " #sum ", " #word ", " #weight ", " #sum "\n"
#define FIVE_SUMS                                                                           \
    "vmov r14, s4\n"                                                                        \
    "vmov r12, s5\n"                                                                        \
    "2:\n"                                                                                  \
    "ldm r14!, {r1-r5}\n"                                                                   \
    PAIR(0) MAC(r6, r10, r1)                                                                \
    MAC(r6, r11, r2) MAC(r7, r11, r1)                                                       \
    PAIR(2) MAC(r6, r10, r3) MAC(r7, r10, r2) MAC(r8, r10, r1)                              \
    MAC(r6, r11, r4) MAC(r7, r11, r3) MAC(r8, r11, r2) MAC(r9, r11, r1)                     \
    PAIR(4) MAC(r6, r10, r5) MAC(r7, r10, r4) MAC(r8, r10, r3) MAC(r9, r10, r2)             \
    MAC(r7, r11, r5) MAC(r8, r11, r4) MAC(r9, r11, r3)                                      \
    PAIR(6) MAC(r8, r10, r5) MAC(r9, r10, r4)                                               \
    MAC(r9, r11, r5)                                                                        \
    "vmov r10, s2\n"                                                                        \
    "vmov r11, s3\n"                                                                        \
    "add r0, r0, r10\n"                                                                     \
    "add r0, r0, r11\n"                                                                     \
    "cmp r14, r12\n"                                                                        \
    "bne 2b\n"
RUN_BLOCKS(run_fives, FIVE_SUMS)
#define HAS_BLOCKS 1
#else
#define HAS_BLOCKS 0
#endif

/* `blocks` blocks of `count` (1 or 4) outputs: outputs of a block are `distance` words and `out_step` bytes apart, blocks
 * `block` words and `out_block` bytes. */
static void run_line(const struct plane *plane, const uint32_t *window, const uint32_t *weights, uint32_t pairs,
                     uint32_t count, uint32_t distance, uint32_t out_step, uint32_t blocks, uint32_t block,
                     uint32_t out_block, int8_t *output)
{
#if HAS_BLOCKS
    const struct bf_channel *channel = plane->channel;
    if (count == 4 && channel->rounding != 0) {
        struct blocks run = {
            .window = window,
            .distance = 4 * distance,
            .gap = 4 * (plane->height - plane->kernel_h),
            .column_bytes = 4 * plane->kernel_h,
            .weights = weights,
            .weights_end = weights + pairs * plane->kernel_h,
            .count = blocks,
            .block_bytes = 4 * block,
            .bias = channel->bias,
            .multiplier = channel->multiplier,
            .rounding = channel->rounding,
            .shift = -channel->shift,
            .output = output,
            .out_step = out_step,
            .out_block = out_block,
        };
        (distance == 1 && plane->kernel_h == 5 ? run_fives : run_blocks)(&run);
        return;
    }
#endif
    for (; blocks > 0; blocks--, window += block, output += out_block) {
        run_windows(plane, window, distance, weights, pairs, count, output, out_step);
    }
}

/* `rows` output rows of one channel. Blocks of four outputs go down where there are four rows, else along a row where
 * there are four columns of a phase; the last block overlaps the one before. Else outputs are done one by one. */
static void run_plane(const struct bf_window *op, const struct plane *plane, const uint32_t *weights, uint32_t rows,
                      int8_t *output)
{
    uint32_t pairs[2] = {(op->kernel_w + 1u) / 2, op->kernel_w / 2u + 1};
    uint32_t phases = 1 + (op->stride_w & 1u), row_bytes = (uint32_t)op->out_w * op->out_c;
    uint32_t across = op->stride_w * phases / 2 * plane->height; /* words to the next output of the same phase */
    uint32_t out_across = phases * op->out_c;
    for (uint32_t phase = 0; phase < phases && phase < op->out_w; phase++) {
        const uint32_t *set = weights + (phase == 0 ? 0 : pairs[0] * op->kernel_h);
        const uint32_t *window = plane->data + phase * op->stride_w / 2 * plane->height;
        int8_t *to = output + phase * op->out_c;
        uint32_t columns = (op->out_w - phase + phases - 1) / phases;
        for (uint32_t row = 0; row < rows; row += rows < 4 ? 1 : 4) {
            row = rows >= 4 && row > rows - 4 ? rows - 4 : row;
            const uint32_t *first = window + row * op->stride_h;
            int8_t *out = to + row * row_bytes;
            if (rows >= 4) {
                run_line(plane, first, set, pairs[phase], 4, op->stride_h, row_bytes, columns, across, out_across, out);
            } else if (columns >= 4) {
                run_line(plane, first, set, pairs[phase], 4, across, out_across, columns / 4, 4 * across, 4 * out_across,
                         out);
                if (columns % 4 != 0) {
                    run_line(plane, first + (columns - 4) * across, set, pairs[phase], 4, across, out_across, 1, 0, 0,
                             out + (columns - 4) * out_across);
                }
            } else {
                run_line(plane, first, set, pairs[phase], 1, 0, 0, columns, across, out_across, out);
            }
        }
    }
}

static void run_lanes(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                      uint32_t *scratch, uint32_t begin, uint32_t end, uint32_t keep)
{
    const struct bf_channel *channels = (const struct bf_channel *)(program + op->channels);
    const uint32_t *weights = (const uint32_t *)(program + op->weights);
    uint32_t copies = op->out_c / op->in_c; /* the channel multiplier */
    uint32_t columns = ((op->out_w - 1u) * op->stride_w + op->kernel_w + 1u) / 2;
    for (uint32_t first = 0; first < op->out_h; first += op->chunk) {
        uint32_t rows = op->out_h - first < op->chunk ? op->out_h - first : op->chunk;
        uint32_t height = (rows - 1) * op->stride_h + op->kernel_h;
        int32_t y = (int32_t)(first * op->stride_h) - op->pad_top;
        struct bf_gather gather = bf_gather_of(op, y, first > 0 ? keep : 0, columns, height, scratch);
        for (uint32_t in_c = begin; in_c < end; in_c += 4) {
            uint32_t count = end - in_c < 4 ? end - in_c : 4, c = in_c * copies;
            bf_gather_channels(&gather, input + in_c, count, in_c == begin);
            for (uint32_t j = 0; j < count; j++) {
                for (uint32_t copy = 0; copy < copies; copy++, c++) {
                    struct plane plane = {
                        .data = scratch + j * columns * height,
                        .height = height,
                        .kernel_h = op->kernel_h,
                        .channel = channels + c,
                        .out_zero = op->out_zero,
                    };
                    run_plane(op, &plane, weights + c * op->steps, rows, output + first * op->out_w * op->out_c + c);
                }
            }
            if (keep > 0 && first + rows < op->out_h) {
                uint32_t left = op->out_h - first - rows, next = left < op->chunk ? left : op->chunk;
                bf_keep_rows(&gather, rows * op->stride_h, keep, count, (next - 1) * op->stride_h + op->kernel_h);
            }
        }
    }
}

void bf_depthwise_planes(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                      void *scratch)
{
    bf_run_lanes(op, program, input, output, scratch, run_lanes);
}
#endif
