/* depthwise_conv2d along a line with the DSP extension: 1xk on an image of one row, or kx1 on one of one column, which is the
 * same in memory; stride 1 with 3 to 15 taps, stride 2 with 3.
 *
 * Four channels at a time become planes (planes.h) of one row: words (x, x + 1) that follow each other. An output takes n =
 * k / 2 + 1 words, the one that begins a pair with (w0, w1), (w2, w3)... and the one behind it with (0, w0), (w1, w2)...,
 * filled with zeros: weights are int16, [channel][word][even output, odd output], and bias and weights are scaled as in
 * depthwise_3x3.c. Three taps: two words give two outputs, with stride 2 one, and every word is loaded once. More taps:
 * blocks of six outputs, in which two words of weights and one of the plane are loaded for six multiplications. */
#include "dsp_text.h"
#include "planes.h"

#if BF_WITH_DSP

/* Outputs `from` to `to` - 1, one after the other. */
__attribute__((noinline)) static void run_plain(const struct bf_window *op, const uint32_t *plane, const uint32_t *weights,
                                                uint32_t words, uint32_t from, uint32_t to,
                                                const struct bf_channel *channel, int8_t *output)
{
    for (uint32_t x = from; x < to; x++) {
        uint32_t column = x * op->stride_w;
        const uint32_t *w = weights + (column & 1), *pair = plane + column / 2;
        int32_t sum = channel->bias;
        for (uint32_t i = 0; i < words; i++) {
            sum = bf_smlad(pair[i], w[2 * i], sum);
        }
        output[x * op->out_c] = (int8_t)bf_requantize_scaled(sum, channel, op->out_zero);
    }
}

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP) && !defined(BF_NO_ASSEMBLY)

/* What the assembly for three taps reads, in this order. */
struct line {
    const uint32_t *plane, *end; /* of two words a half turn */
    int8_t *output;
    uint32_t pixel, odd; /* does the first turn begin with its second half? */
};

/* r0 plane, r1 output, r2-r5 weights, r6 (in the second half of a turn r12) the word that was loaded last, r7 and r12 (r6 and
 * r7) the next two, r8 multiplier, r9 rounding, r10 pixel, r11 a sum, r14 bias; s0 the plane's end, s4-s7 the channel. */
#define SCALED(y, z) BF_PRESCALED(y, r8, r9) BF_PRESCALED(z, r8, r9)
#define SIGNED(y, z)                                   \
    BF_LESS_SIGN(r14, r9, y)                           \
    "smmlar " #y ", " #y ", r8, r14\n"                 \
    BF_LESS_SIGN(r14, r9, z)                           \
    "smmlar " #z ", " #z ", r8, r14\n"                 \
    "vmov r14, s7\n"                                   \
    "asr " #y ", " #y ", r14\n"                        \
    "asr " #z ", " #z ", r14\n"                        \
    "vmov r14, s4\n"                                   \
    "ssat " #y ", #8, " #y "\n"                        \
    "ssat " #z ", #8, " #z "\n"
#define STORE(y, z) "strb " #y ", [r1]\n" "strb " #z ", [r1, r10]\n" "add r1, r1, r10, lsl #1\n"
#define LOAD(first, second) "ldr " #first ", [r0, #4]\n" "ldr " #second ", [r0, #8]!\n"
#define BOTH(x, next, finish)                 \
    "smlad r11, " #x ", r2, r14\n"            \
    "smlad " #x ", " #x ", r3, r14\n"         \
    "smlad r11, " #next ", r4, r11\n"         \
    "smlad " #x ", " #next ", r5, " #x "\n"   \
    finish(r11, x) STORE(r11, x)
#define STRIDE_1(x, y, z, finish) LOAD(y, z) BOTH(x, y, finish) BOTH(y, z, finish)
#define STRIDE_2(x, y, z, finish)           \
    LOAD(y, z)                              \
    "smlad r11, " #x ", r2, r14\n"          \
    "smlad r11, " #y ", r4, r11\n"          \
    "smlad " #y ", " #y ", r2, r14\n"       \
    "smlad " #y ", " #z ", r4, " #y "\n"    \
    finish(r11, y) STORE(r11, y)
#define RUN(name, half, finish)                                                                                        \
    __attribute__((naked, noinline)) static void name(__attribute__((unused)) const struct line *line,                 \
                                                      __attribute__((unused)) const uint32_t *weights,                 \
                                                      __attribute__((unused)) const struct bf_channel *channel)        \
    {                                                                                                                  \
        __asm volatile(                                                                                                \
            ".syntax unified\n"                                                                                        \
            "push {r4-r11, lr}\n"                                                                                      \
            "vldm r2, {s4-s7}\n"                                                                                       \
            "vmov r12, s7\n"                                                                                           \
            "rsb r12, r12, #0\n"                                                                                       \
            "vmov s7, r12\n"                                                                                           \
            "mov r14, r1\n"                                                                                            \
            "ldr r11, [r0, #4]\n"                                                                                      \
            "ldr r1, [r0, #8]\n"                                                                                       \
            "ldr r10, [r0, #12]\n"                                                                                     \
            "ldr r7, [r0, #16]\n"                                                                                      \
            "ldr r0, [r0]\n"                                                                                           \
            "vmov s0, r11\n"                                                                                           \
            "ldm r14, {r2-r5}\n"                                                                                       \
            "vmov r14, s4\n"                                                                                           \
            "vmov r8, s5\n"                                                                                            \
            "vmov r9, s6\n"                                                                                            \
            "ldr r6, [r0]\n"                                                                                           \
            "cmp r7, #0\n"                                                                                             \
            "beq 1f\n"                                                                                                 \
            "mov r12, r6\n"                                                                                            \
            "b 2f\n"                                                                                                   \
            "1:\n"                                                                                                     \
            half(r6, r7, r12, finish)                                                                                  \
            "2:\n"                                                                                                     \
            half(r12, r6, r7, finish)                                                                                  \
            "vmov r11, s0\n"                                                                                           \
            "mov r6, r7\n"                                                                                             \
            "cmp r0, r11\n"                                                                                            \
            "bne 1b\n"                                                                                                 \
            "pop {r4-r11, pc}\n");                                                                                     \
    }
RUN(line_1_scaled, STRIDE_1, SCALED)
RUN(line_1_signed, STRIDE_1, SIGNED)
RUN(line_2_scaled, STRIDE_2, SCALED)
RUN(line_2_signed, STRIDE_2, SIGNED)

/* What the assembly for more taps reads, in this order. */
struct sixes {
    const uint32_t *plane, *end; /* of three words a block */
    uint32_t first[3];           /* bytes from a block's first word to its words n - 1, n and n + 1: of r2, r3, r4 */
    uint32_t last;               /* n - 1 */
    int8_t *output;
    uint32_t pixel;
};

/* r0 the block's plane, r1 weights, sums of even outputs in r6-r8, of odd ones in r9-r11; a word n of the plane lies in r2,
 * r3, r4 by n modulo 3. A word is added to all sums from the last one to the first one, entered behind those that are not
 * there: s0-s7 hold the sixes (s5 the entry), s8-s11 the channel. */
#define WORD(i, x, y, z)                     \
    "ldr.w r5, [r1, #8*" #i "]\n"            \
    "ldr.w r12, [r1, #8*" #i "+4]\n"         \
    "ldr.w " #x ", [r0, #4*" #i "]\n"        \
    "smlad r6, " #x ", r5, r6\n"             \
    "smlad r7, " #y ", r5, r7\n"             \
    "smlad r8, " #z ", r5, r8\n"             \
    "smlad r9, " #x ", r12, r9\n"            \
    "smlad r10, " #y ", r12, r10\n"          \
    "smlad r11, " #z ", r12, r11\n"
#define WORD_BYTES "36"
#define SIX_PART(finish) finish(r6) finish(r7) finish(r8) finish(r9) finish(r10) finish(r11)
#define SIX_SCALED_ONE(y) BF_PRESCALED(y, r5, r12)
#define SIX_SCALED SIX_PART(SIX_SCALED_ONE)
#define SIX_SIGNED_ONE(y)                    \
    BF_LESS_SIGN(r14, r12, y)                \
    "smmlar " #y ", " #y ", r5, r14\n"       \
    "asr " #y ", " #y ", r2\n"               \
    "ssat " #y ", #8, " #y "\n"
#define SIX_SIGNED "vmov r2, s11\n" SIX_PART(SIX_SIGNED_ONE)
#define STORE_TWO(y, z) "strb " #y ", [r2]\n" "strb " #z ", [r2, r3]\n" "add r2, r2, r3, lsl #1\n"
#define RUN_SIXES(name, finish)                                                                                        \
    __attribute__((naked, noinline)) static void name(__attribute__((unused)) const struct sixes *sixes,               \
                                                      __attribute__((unused)) const uint32_t *weights,                 \
                                                      __attribute__((unused)) const struct bf_channel *channel)        \
    {                                                                                                                  \
        __asm volatile(                                                                                                \
            ".syntax unified\n"                                                                                        \
            "push {r4-r11, lr}\n"                                                                                      \
            "vldm r0, {s0-s7}\n"                                                                                       \
            "vldm r2, {s8-s11}\n"                                                                                      \
            "vmov r2, s11\n"                                                                                           \
            "rsb r2, r2, #0\n"                                                                                         \
            "vmov s11, r2\n"                                                                                           \
            "vmov r2, s5\n"                                                                                            \
            "rsb r2, r2, #7\n"                                                                                         \
            "mov r3, #" WORD_BYTES "\n"                                                                                \
            "adr r4, 2f\n"                                                                                             \
            "mla r2, r2, r3, r4\n"                                                                                     \
            "orr r2, r2, #1\n"                                                                                         \
            "vmov s5, r2\n"                                                                                            \
            "vmov r0, s0\n"                                                                                            \
            "1:\n"                                                                                                     \
            "vmov r2, s2\n"                                                                                            \
            "vmov r3, s3\n"                                                                                            \
            "vmov r4, s4\n"                                                                                            \
            "vmov r5, s5\n"                                                                                            \
            "vmov r6, s8\n"                                                                                            \
            "ldr r2, [r0, r2]\n"                                                                                       \
            "ldr r3, [r0, r3]\n"                                                                                       \
            "ldr r4, [r0, r4]\n"                                                                                       \
            "mov r7, r6\n"                                                                                             \
            "mov r8, r6\n"                                                                                             \
            "mov r9, r6\n"                                                                                             \
            "mov r10, r6\n"                                                                                            \
            "mov r11, r6\n"                                                                                            \
            "bx r5\n"                                                                                                  \
            ".balign 4\n"                                                                                              \
            "2:\n"                                                                                                     \
            WORD(7, r3, r4, r2) WORD(6, r2, r3, r4) WORD(5, r4, r2, r3) WORD(4, r3, r4, r2)                            \
            WORD(3, r2, r3, r4) WORD(2, r4, r2, r3) WORD(1, r3, r4, r2) WORD(0, r2, r3, r4)                            \
            "vmov r5, s9\n"                                                                                            \
            "vmov r12, s10\n"                                                                                          \
            finish                                                                                                     \
            "vmov r2, s6\n"                                                                                            \
            "vmov r3, s7\n"                                                                                            \
            STORE_TWO(r6, r9) STORE_TWO(r7, r10) STORE_TWO(r8, r11)                                                    \
            "vmov s6, r2\n"                                                                                            \
            "vmov r2, s1\n"                                                                                            \
            "adds r0, r0, #12\n"                                                                                       \
            "cmp r0, r2\n"                                                                                             \
            "bne 1b\n"                                                                                                 \
            "pop {r4-r11, pc}\n");                                                                                     \
    }
RUN_SIXES(sixes_scaled, SIX_SCALED)
RUN_SIXES(sixes_signed, SIX_SIGNED)

/* Blocks of six from output `from` on, which is even. */
static void run_sixes(const struct bf_window *op, const uint32_t *plane, const uint32_t *weights, uint32_t words,
                      uint32_t from, uint32_t blocks, const struct bf_channel *channel, int8_t *output)
{
    struct sixes sixes = {plane + from / 2, plane + from / 2 + 3 * blocks, {0}, words - 1, output + from * op->out_c, op->out_c};
    for (uint32_t word = words - 1; word <= words + 1; word++) {
        sixes.first[word % 3] = 4 * word;
    }
    (channel->shift == 0 ? sixes_scaled : sixes_signed)(&sixes, weights, channel);
}

static void run_channel(const struct bf_window *op, const uint32_t *plane, const uint32_t *weights, uint32_t words,
                        const struct bf_channel *channel, int8_t *output)
{
    uint32_t width = op->out_w, block = words > 2 ? 6 : 4u / op->stride_w, done = 0;
    if (channel->rounding != 0 && width >= block) {
        uint32_t blocks = width / block;
        done = blocks * block;
        if (words > 2) {
            run_sixes(op, plane, weights, words, 0, blocks, channel, output);
            if (width - done > 1) { /* once more the last six, from an even output on */
                run_sixes(op, plane, weights, words, (width - 6) & ~1u, 1, channel, output);
                done = width & ~1u;
            }
        } else {
            struct line line = {plane, plane + 2 * blocks, output, op->out_c, blocks & 1};
            if (op->stride_w == 1) {
                (channel->shift == 0 ? line_1_scaled : line_1_signed)(&line, weights, channel);
            } else {
                (channel->shift == 0 ? line_2_scaled : line_2_signed)(&line, weights, channel);
            }
        }
    }
    if (done < width) {
        run_plain(op, plane, weights, words, done, width, channel, output);
    }
}
#else
static void run_channel(const struct bf_window *op, const uint32_t *plane, const uint32_t *weights, uint32_t words,
                        const struct bf_channel *channel, int8_t *output)
{
    run_plain(op, plane, weights, words, 0, op->out_w, channel, output);
}
#endif

void bf_depthwise_line(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                       void *scratch)
{
    struct bf_window row = *op;
    if (op->kernel_w == 1) { /* a column is a row in memory */
        row.in_w = op->in_h, row.out_w = op->out_h, row.stride_w = op->stride_h, row.pad_left = op->pad_top;
        row.in_h = 1, row.pad_top = 0;
    }
    const struct bf_channel *channel = (const struct bf_channel *)(program + op->channels);
    const uint32_t *weights = (const uint32_t *)(program + op->weights);
    uint32_t copies = op->out_c / op->in_c; /* the channel multiplier */
    uint32_t words = (op->kernel_w > op->kernel_h ? op->kernel_w : op->kernel_h) / 2u + 1;
    uint32_t columns = (row.out_w - 1u) * row.stride_w / 2 + words;
    int8_t *to = output;
    struct bf_gather gather = bf_gather_of(&row, 0, 0, columns, 1, scratch);
    for (uint32_t in_c = 0; in_c < op->in_c; in_c += 4) {
        uint32_t planes = op->in_c - in_c < 4 ? op->in_c - in_c : 4;
        const uint32_t *plane = scratch;
        bf_gather_channels(&gather, input + in_c, planes, in_c == 0);
        for (; planes > 0; planes--, plane += columns) {
            for (uint32_t copy = 0; copy < copies; copy++, channel++, weights += 2 * words, to++) {
                run_channel(&row, plane, weights, words, channel, to);
            }
        }
    }
    bf_clamp_all(output, (uint32_t)row.out_w * op->out_c, op->least, op->greatest);
}
#endif
