/* The int8 kernels. Every function runs one operator of a program (runtime/program.h); each result is bit-identical to
 * TensorFlow Lite Micro's. Nothing is allocated: `scratch` is the operator's own, 8-aligned, as large as the host's
 * footprint says (toolchain/export/native). Input, output and scratch do not overlap, but the
 * output of a kernel that works in place (runtime/program.h) may begin where an input begins; activations start at a
 * multiple of 4. Operators must be well-formed: the runtime checks what it can when it opens a program, kernels check
 * nothing. */
#ifndef BF_KERNELS_H
#define BF_KERNELS_H
#include <stdint.h>

#include "../runtime/program.h"

/* Which forms are compiled: those of the core's instruction set; on a host both, in C. A C project of a network for
 * plain cores says BF_PLAIN_ONLY, so that it needs no other file. */
#if defined(BF_PLAIN_ONLY)
#define BF_WITH_DSP 0
#define BF_WITH_PLAIN 1
#elif defined(__ARM_FEATURE_DSP)
#define BF_WITH_DSP 1
#define BF_WITH_PLAIN 0
#elif defined(__arm__)
#define BF_WITH_DSP 0
#define BF_WITH_PLAIN 1
#else
#define BF_WITH_DSP 1
#define BF_WITH_PLAIN 1
#endif

/* bf_operator.kernel of the weighted kinds: the form of the kernel, which decides the layout of its weights. A channel
 * whose sums leave the bounds of the short requantisation has `rounding` 0 in its bf_channel; it takes the 64-bit path
 * in the same kernel, so the values of weights never change a layout or a size. */
enum bf_kernel {
    BF_KERNEL_PLAIN = 0,       /* every weighted kind, weights as in TFLite (OHWI, HWC, OI) */
    BF_KERNEL_DSP_COLUMNS = 1, /* conv2d: 2 channels x 4 pixels, columns of int16 */
    BF_KERNEL_DSP_PIXEL = 2,   /* conv2d of few pixels, fully_connected: 4 channels x 1 pixel */
    BF_KERNEL_DSP_PLANES = 3,  /* depthwise_conv2d: one int16 plane per channel, any window */
    BF_KERNEL_DSP_3X3 = 4,     /* depthwise_conv2d: 3x3 with stride 1 or 2 */
    BF_KERNEL_DSP_WINOGRAD = 5, /* conv2d: 3x3 with stride 1, channels a multiple of four; int16 weights, transformed */
    BF_KERNEL_DSP_LINE = 6,    /* depthwise_conv2d: 1x3 on a row or 3x1 on a column, with stride 1 or 2 */
};

/* Weighted kinds. Window: struct bf_window; `chunk` and `steps` are the forms' own. */
void bf_conv2d(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output, void *scratch);
void bf_depthwise_conv2d(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                         void *scratch);
void bf_fully_connected(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                        void *scratch);

/* The forms with the DSP extension, by their file. */
void bf_conv2d_columns(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                       void *scratch);
void bf_conv2d_winograd(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                        void *scratch);
void bf_pixel(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output, void *scratch);
void bf_depthwise_3x3(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                      void *scratch);
void bf_depthwise_line(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                       void *scratch);
void bf_depthwise_planes(const struct bf_window *op, const uint8_t *program, const int8_t *input, int8_t *output,
                         void *scratch);

/* Is this form of this weighted kind in this build? */
int bf_has_weighted(uint8_t kind, uint8_t kernel);

/* bf_operator.kernel of add and mul. */
enum bf_binary_kernel {
    BF_BINARY_GENERAL = 0, /* any scales: requantisation in 64 bits */
    BF_BINARY_SHORT = 1,   /* out shift in [-22, -1]; an add's first operand has the larger scale, a b shift of 0 the same */
};

/* Kinds without weights. Inputs may also lie in the program: constants. */
void bf_add(const struct bf_binary *op, const int8_t *a, const int8_t *b, int8_t *output);
void bf_mul(const struct bf_binary *op, const int8_t *a, const int8_t *b, int8_t *output);
void bf_average_pool(const struct bf_window *op, const int8_t *input, int8_t *output);
void bf_max_pool(const struct bf_window *op, const int8_t *input, int8_t *output);
void bf_pad(const struct bf_pad *op, const int8_t *input, int8_t *output);
void bf_copy(const struct bf_copy *op, const int8_t *input, int8_t *output);
void bf_softmax(const struct bf_softmax *op, const uint8_t *program, const int8_t *input, int8_t *output);
void bf_table(const struct bf_table *op, const uint8_t *program, const int8_t *input, int8_t *output);

/* `bytes` from one place to another, by words where both allow it; the places do not overlap. */
void bf_copy_bytes(int8_t *to, const int8_t *from, uint32_t bytes);

#endif
