/* The boardfit program: one int8 network as the host prepares it for the native runtime. Format 1.
 *
 * The host (toolchain/export/native) does everything that needs a float, a division or a decision: multipliers, folded
 * zero points, weight layouts, which kernel runs each operator, and the static memory plan. The device only reads: a
 * program is executed where it lies in flash, nothing of it is copied and nothing is allocated.
 *
 * Little-endian. Every descriptor and every block of constants starts at a multiple of 16, relative to the program's first
 * byte, which itself lies at a multiple of 16: so the bytes of a program are a sum over its operators. In the arena every
 * tensor and every scratch place starts at a multiple of 8 and reaches to the next multiple of 8, so that kernels may read
 * whole words. tests/export/native compares this file with the writer's constants. A change of any struct is a new
 * BF_PROGRAM_VERSION.
 *
 *     bf_program | operands | descriptor 0, 1, ... | constants of operator 0, 1, ...
 *
 * Inputs, output and scratch of an operator never overlap, but for operators that work in place, whose output begins where
 * an input begins: add and mul with an operand that is not broadcast, softmax, table, and with the DSP extension depthwise without
 * a channel multiplier and 1x1 convolutions with stride 1 and no more channels out than in. A reshape shares its place with
 * its input and is no operator; a concatenation is one copy for each input.
 */
#ifndef BF_PROGRAM_H
#define BF_PROGRAM_H
#include <stdint.h>

#define BF_PROGRAM_MAGIC 0x31504642u /* "BFP1" */
#define BF_PROGRAM_VERSION 1u

/* Which kernels a program was laid out for. A firmware refuses the other set. */
#define BF_ISA_PLAIN 0u /* C only: Cortex-M0+, M3 */
#define BF_ISA_DSP 1u   /* ARMv7E-M / ARMv8-M DSP extension (SMLAD...); C equivalents on the host */

/* An operand's place: a byte offset in the arena, or with this bit set a byte offset in the program (a constant). */
#define BF_IN_PROGRAM 0x80000000u

enum bf_kind {
    BF_CONV2D = 1,      /* struct bf_window */
    BF_DEPTHWISE = 2,   /* struct bf_window */
    BF_FULLY_CONNECTED = 3, /* struct bf_window with 1x1 shapes: in_c inputs, out_c outputs */
    BF_ADD = 4,         /* struct bf_binary */
    BF_MUL = 5,         /* struct bf_binary */
    BF_AVERAGE_POOL = 6,/* struct bf_window without weights */
    BF_MAX_POOL = 7,    /* struct bf_window without weights */
    BF_PAD = 8,         /* struct bf_pad */
    BF_COPY = 9,        /* struct bf_copy: joins (concatenation), and constants that are needed in the arena */
    BF_SOFTMAX = 10,    /* struct bf_softmax */
    BF_TABLE = 11,      /* struct bf_table: out[i] = table[in[i] + 128] (hard_swish) */
};

struct bf_program {
    uint32_t magic;
    uint16_t version;
    uint8_t isa;
    uint8_t reserved;
    uint32_t bytes;       /* of the whole program, a multiple of 16 */
    uint32_t crc32;       /* IEEE 802.3, of the bytes from 16 to the end */
    uint32_t arena_bytes; /* activations and scratch; what the runtime needs beside its own few words */
    uint32_t operators;   /* offset of the first bf_operator */
    uint16_t operator_count;
    uint8_t input_count, output_count;
    uint32_t operands;    /* offset of input_count + output_count bf_operand */
};

struct bf_operand {
    uint32_t place; /* in the arena */
    uint32_t bytes;
};

/* One row per output channel. out = clamp(zero_point + requantize(bias + sum)). */
struct bf_channel {
    int32_t bias;       /* with the input's zero point folded in: bias - zp * sum(w); wraps as int32 */
    int32_t multiplier; /* TFLite's, in [2^30, 2^31), or 0 */
    int32_t rounding;   /* 2^(right_shift - 1) + (output zero point << right_shift); 0 where the generic path is used */
    int32_t shift;      /* TFLite's: negative is a right shift; kernels of the fast path hold right_shift >= 1. Kernels that
                           scale sums give `rounding` and shifts from 0 on another meaning: kernels/dsp.h, prescaled */
};

/* Every operator starts with this and takes `bytes`; the next one follows. */
struct bf_operator {
    uint8_t kind;      /* enum bf_kind */
    uint8_t kernel;    /* variant, per kind: kernels/kernels.h */
    uint16_t bytes;    /* of this descriptor, a multiple of 16 */
    uint32_t input;    /* place of the (first) input */
    uint32_t output;   /* place of the output, in the arena */
    uint32_t scratch;  /* place of the kernel's scratch memory, in the arena; 0 where it needs none */
    uint32_t constant_lines; /* 16-byte lines of constants that one run reads from flash, re-reads included */
};

struct bf_window {
    struct bf_operator head;
    uint16_t in_h, in_w, in_c;
    uint16_t out_h, out_w, out_c;
    uint16_t kernel_h, kernel_w, stride_h, stride_w;
    uint16_t pad_top, pad_left;
    int8_t in_zero, out_zero;
    int8_t least, greatest; /* clamp of the fused activation, in output steps */
    uint16_t steps;         /* kernel's own: e.g. padded taps per channel */
    uint16_t chunk;         /* kernel's own: e.g. pixels or rows per pass over the weights; it decides the scratch */
    uint32_t weights;       /* offset in the program; layout by `kernel` */
    uint32_t channels;      /* offset of out_c bf_channel; 0 for pools */
};

#define BF_MAX_RANK 6u /* TensorFlow Lite Micro's */

/* add, mul with broadcasting: shapes and element strides of up to BF_MAX_RANK dimensions, outermost first. */
struct bf_binary {
    struct bf_operator head;
    uint32_t second; /* place of the second input */
    int8_t zero_a, zero_b, out_zero, least, greatest;
    uint8_t rank;    /* after merging dimensions that both inputs walk alike; 1 = plain element-wise */
    uint16_t reserved;
    int32_t multiplier_a, shift_a, multiplier_b, shift_b, multiplier_out, shift_out; /* mul: only _out */
    int32_t rounding; /* as in bf_channel, of multiplier_out and shift_out */
    /* followed by rank x bf_extent */
};

struct bf_extent {
    uint32_t size, stride_a, stride_b;
};

/* pad: dimensions outermost first, after merging those that are not padded; the innermost one is contiguous. */
struct bf_pad {
    struct bf_operator head;
    int8_t value;
    uint8_t rank;
    uint16_t reserved;
    /* followed by rank x bf_padding */
};

struct bf_padding {
    uint32_t size, before, after;
};

/* copy: `rows` runs of `row_bytes`, to every `out_stride` bytes. `output` may lie inside a tensor, at any byte. */
struct bf_copy {
    struct bf_operator head;
    uint32_t rows, row_bytes, out_stride;
};

struct bf_softmax {
    struct bf_operator head;
    uint16_t rows, depth;
    uint32_t radius; /* values further than this below their row's largest count as zero; at most 255 */
    uint32_t table;  /* 256 int32: exp of each distance to the largest, Q0.31; offset in the program */
};

struct bf_table {
    struct bf_operator head;
    uint32_t count;
    uint32_t table; /* 256 int8, offset in the program */
};
#endif
