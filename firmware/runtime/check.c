/* A program comes over a serial line and lies in flash for years. Its checksum finds accidents; these checks hold for any
 * bytes at all: whatever runs afterwards reads inside the program and the arena, and writes inside the arena. */
#include "check.h"

#include <stddef.h>

#include "../kernels/kernels.h"

struct bounds {
    const uint8_t *data;
    uint32_t program_bytes, arena_bytes;
};

/* CRC-32 of IEEE 802.3, four bits at a time: a table of 64 bytes instead of 1 kB. */
static uint32_t crc32(const uint8_t *data, uint32_t bytes)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    uint32_t crc = 0xffffffffu;

    for (; bytes > 0; bytes--) {
        crc ^= *data++;
        crc = table[crc & 15] ^ crc >> 4;
        crc = table[crc & 15] ^ crc >> 4;
    }
    return ~crc;
}

/* a * b, or the largest number where it is no uint32: sizes that large fit nowhere. */
static uint32_t times(uint32_t a, uint32_t b)
{
    return b != 0 && a > 0xffffffffu / b ? 0xffffffffu : a * b;
}

static uint32_t sum(uint32_t a, uint32_t b)
{
    return a > ~b ? 0xffffffffu : a + b;
}

static int inside(uint32_t at, uint32_t bytes, uint32_t limit)
{
    return at <= limit && bytes <= limit - at;
}

static int constants(const struct bounds *b, uint32_t at, uint32_t bytes)
{
    return at % 16 == 0 && inside(at, bytes, b->program_bytes);
}

static int readable(const struct bounds *b, uint32_t place, uint32_t bytes)
{
    if (place & BF_IN_PROGRAM)
        return constants(b, place & ~BF_IN_PROGRAM, bytes);
    return place % 8 == 0 && inside(place, bytes, b->arena_bytes);
}

static int writable(const struct bounds *b, uint32_t place, uint32_t bytes)
{
    return place % 8 == 0 && inside(place, bytes, b->arena_bytes);
}

/* What an operator writes and what it reads or works with share no byte; constants are never written. */
static int apart(uint32_t place, uint32_t bytes, uint32_t other, uint32_t other_bytes)
{
    return (place & BF_IN_PROGRAM) || bytes == 0 || other_bytes == 0 || place >= sum(other, other_bytes) ||
           other >= sum(place, bytes);
}

/* One axis of a window: every output has a window that begins before the image's end and meets it. */
static int axis(uint32_t in, uint32_t out, uint32_t kernel, uint32_t stride, uint32_t pad)
{
    return in && out && kernel && stride && pad < kernel && times(out - 1, stride) < in + pad;
}

static int kernel_is_known(const struct bf_operator *op)
{
    switch (op->kind) {
    case BF_CONV2D:
    case BF_DEPTHWISE:
    case BF_FULLY_CONNECTED:
        return bf_has_weighted(op->kind, op->kernel);
    case BF_ADD:
    case BF_MUL:
        return op->kernel <= BF_BINARY_SHORT;
    default:
        return op->kind > 0 && op->kind <= BF_TABLE && op->kernel == 0;
    }
}

/* A right shift of at most 31 where the short requantisation applies, else any that is defined. */
static int shifts_are_defined(const struct bf_channel *channels, uint32_t count, uint8_t kernel)
{
    int32_t most = kernel == BF_KERNEL_DSP_COLUMNS ? 30 : 0; /* that kernel may scale its sums */

    for (; count > 0; count--, channels++)
        if (channels->shift < -31 || channels->shift > (channels->rounding != 0 ? most : 30))
            return 0;
    return 1;
}

/* Bytes of weights and of scratch memory of each form: toolchain/export/native/weights.py says the same. */
static int sizes_of_form(const struct bf_window *op, uint32_t *weights, uint32_t *scratch)
{
    uint32_t taps = times(times(op->kernel_h, op->kernel_w), op->in_c);
    uint32_t steps = 2 * (taps / 4 + (taps % 4 > 0)); /* pairs of taps in a column of int16 */
    uint32_t pairs = (op->kernel_w + 1u) / 2, planes = op->in_c < 4 ? op->in_c : 4;
    uint32_t stage = op->in_c % 4 ? times(2, steps) : 0; /* a window is copied where its pixels are no whole words */
    int columns_are_image = op->kernel_h == 1 && op->kernel_w == 1 && op->stride_h == 1 && op->stride_w == 1;

    *scratch = 0;
    switch (op->head.kernel) {
    case BF_KERNEL_PLAIN:
        if (op->head.kind == BF_DEPTHWISE) {
            *weights = times((uint32_t)op->kernel_h * op->kernel_w, op->out_c);
            return 1;
        }
        *weights = times(taps, op->out_c);
        if (op->head.kind == BF_CONV2D && op->steps == 0)
            *scratch = times(taps, op->chunk);
        return op->steps == 0 ? op->head.kind == BF_CONV2D : columns_are_image;
    case BF_KERNEL_DSP_COLUMNS:
        *weights = times(4 * ((op->out_c + 1u) / 2), steps);
        *scratch = sum(times(4u * op->chunk, steps), stage);
        return op->steps == steps && op->chunk % 4 == 0 && (uint32_t)op->out_h * op->out_w >= 4;
    case BF_KERNEL_DSP_PIXEL:
        *weights = times(8 * ((op->out_c + 3u) / 4), steps);
        *scratch = sum(times(4, steps), stage);
        return op->steps == steps;
    case BF_KERNEL_DSP_WINOGRAD: /* 16 points of int16 for each 9 weights; windows and sums of four tiles, one window */
        *weights = times(64 * ((op->out_c + 1u) / 2), op->in_c);
        *scratch = 144u * op->in_c + 512;
        return op->kernel_h == 3 && op->kernel_w == 3 && op->stride_h == 1 && op->stride_w == 1 && op->in_c % 4 == 0 &&
               op->steps == op->in_c / 2u;
    case BF_KERNEL_DSP_PLANES:
    case BF_KERNEL_DSP_3X3: {
        uint32_t columns = (times(op->out_w - 1u, op->stride_w) + op->kernel_w + 1u) / 2;
        uint32_t words = times(op->kernel_h, pairs + (op->stride_w % 2 ? op->kernel_w / 2u + 1 : 0));
        *weights = times(times(4, words), op->out_c);
        *scratch = times(times(4 * planes, columns), times(op->chunk - 1u, op->stride_h) + op->kernel_h);
        if (op->head.kernel == BF_KERNEL_DSP_PLANES)
            return op->steps == words;
        *weights = 24u * op->out_c;
        return op->kernel_h == 3 && op->kernel_w == 3 && op->stride_h == op->stride_w && op->stride_h <= 2;
    }
    case BF_KERNEL_DSP_LINE: {
        int row = op->kernel_h == 1;
        uint32_t length = row ? op->out_w : op->out_h, stride = row ? op->stride_w : op->stride_h;
        uint32_t along = row ? op->kernel_w : op->kernel_h, words = along / 2 + 1;
        *weights = times(8 * words, op->out_c);
        *scratch = times(4 * planes, times(length - 1u, stride) / 2 + words);
        return along >= 3 && along <= (stride == 1 ? 15 : 3) && stride <= 2 &&
               (row ? op->in_h == 1 && op->out_h == 1 : op->kernel_w == 1 && op->in_w == 1 && op->out_w == 1);
    }
    }
    return 0;
}

/* May the output begin where the input begins? A depthwise has each channel's outputs where its inputs lay, none in front
 * of inputs that are still to be read. A convolution of single pixels reads those of a pass before it writes them; a last
 * group of less than four takes others with it, which must be of the same pass. */
static int works_in_place(const struct bf_window *op)
{
    if (op->head.kind == BF_DEPTHWISE)
        return op->head.kernel != BF_KERNEL_PLAIN && op->in_c == op->out_c && op->out_w <= op->in_w &&
               op->out_h <= op->in_h;
    return op->head.kind == BF_CONV2D && op->head.kernel == BF_KERNEL_DSP_COLUMNS && op->kernel_h == 1 &&
           op->kernel_w == 1 && op->stride_h == 1 && op->stride_w == 1 && op->out_c <= op->in_c && op->out_w == op->in_w &&
           op->out_h <= op->in_h && ((uint32_t)op->out_h * op->out_w % 4 == 0 || op->chunk >= 8);
}

static enum bf_status check_window(const struct bounds *b, const struct bf_window *op)
{
    const struct bf_operator *head = &op->head;
    uint32_t in = times((uint32_t)op->in_h * op->in_w, op->in_c);
    uint32_t out = times((uint32_t)op->out_h * op->out_w, op->out_c), weights, scratch;
    if (!op->in_c || !op->out_c || !axis(op->in_h, op->out_h, op->kernel_h, op->stride_h, op->pad_top) ||
        !axis(op->in_w, op->out_w, op->kernel_w, op->stride_w, op->pad_left) || !readable(b, head->input, in) ||
        !writable(b, head->output, out) || op->least > op->greatest ||
        !((head->input == head->output && works_in_place(op)) || apart(head->input, in, head->output, out)))
        return BF_BAD_MODEL;
    if (head->kind == BF_AVERAGE_POOL || head->kind == BF_MAX_POOL)
        return op->in_c == op->out_c ? BF_OK : BF_BAD_MODEL;
    if (head->kind == BF_FULLY_CONNECTED && (times(op->in_h, op->in_w) != 1 || times(op->out_h, op->out_w) != 1))
        return BF_BAD_MODEL;
    if (head->kind == BF_DEPTHWISE ? op->out_c % op->in_c != 0 || (op->chunk == 0 && head->kernel != BF_KERNEL_PLAIN)
                                   : op->chunk == 0)
        return BF_BAD_MODEL;
    if (!sizes_of_form(op, &weights, &scratch) || !constants(b, op->weights, weights) ||
        !constants(b, op->channels, op->out_c * (uint32_t)sizeof(struct bf_channel)) ||
        !writable(b, head->scratch, scratch) || !apart(head->input, in, head->scratch, scratch) ||
        !apart(head->output, out, head->scratch, scratch))
        return BF_BAD_MODEL;
    if (!shifts_are_defined((const struct bf_channel *)(const void *)(b->data + op->channels), op->out_c, head->kernel))
        return BF_BAD_MODEL;
    return BF_OK;
}

static int shift_is_right(int32_t shift)
{
    return shift >= -31 && shift <= 0;
}

static enum bf_status check_binary(const struct bounds *b, const struct bf_binary *op)
{
    const struct bf_extent *axes = (const struct bf_extent *)(op + 1);
    uint32_t i, size = 1, last_a = 0, last_b = 0;
    int dense_a = 1, dense_b = 1; /* every value is read once, in the order of the output */

    if (op->rank == 0 || op->rank > BF_MAX_RANK || op->head.bytes < sizeof *op + op->rank * sizeof *axes)
        return BF_BAD_MODEL;
    for (i = 0; i < op->rank; i++) {
        uint32_t far_a = times(axes[i].size - 1, axes[i].stride_a), far_b = times(axes[i].size - 1, axes[i].stride_b);
        if (axes[i].size == 0 || far_a > ~last_a || far_b > ~last_b)
            return BF_BAD_MODEL;
        last_a += far_a;
        last_b += far_b;
    }
    for (i = op->rank, size = 1; i-- > 0; size = times(size, axes[i].size)) {
        dense_a &= axes[i].stride_a == size;
        dense_b &= axes[i].stride_b == size;
    }
    if (last_a == 0xffffffffu || last_b == 0xffffffffu || !readable(b, op->head.input, last_a + 1) ||
        !readable(b, op->second, last_b + 1) || !writable(b, op->head.output, size) || op->least > op->greatest)
        return BF_BAD_MODEL;
    if (!((dense_a && op->head.input == op->head.output) || apart(op->head.input, last_a + 1, op->head.output, size)) ||
        !((dense_b && op->second == op->head.output) || apart(op->second, last_b + 1, op->head.output, size)))
        return BF_BAD_MODEL;
    if (!shift_is_right(op->shift_a) || !shift_is_right(op->shift_b) || op->shift_out < -31 || op->shift_out > 30 ||
        (op->head.kernel == BF_BINARY_SHORT && op->shift_out > -1))
        return BF_BAD_MODEL;
    return BF_OK;
}

static enum bf_status check_pad(const struct bounds *b, const struct bf_pad *op)
{
    const struct bf_padding *axes = (const struct bf_padding *)(op + 1);
    uint32_t i, in = 1, out = 1;

    if (op->rank == 0 || op->rank > BF_MAX_RANK || op->head.bytes < sizeof *op + op->rank * sizeof *axes)
        return BF_BAD_MODEL;
    for (i = 0; i < op->rank; i++) {
        uint32_t size = axes[i].size, padding = axes[i].before + axes[i].after;
        if (size == 0 || padding < axes[i].before || size + padding < size)
            return BF_BAD_MODEL;
        in = times(in, size);
        out = times(out, size + padding);
    }
    return readable(b, op->head.input, in) && writable(b, op->head.output, out) &&
                   apart(op->head.input, in, op->head.output, out)
               ? BF_OK
               : BF_BAD_MODEL;
}

static enum bf_status check_copy(const struct bounds *b, const struct bf_copy *op)
{
    uint32_t before = times(op->rows - 1, op->out_stride), in = times(op->rows, op->row_bytes);

    if (op->rows == 0 || op->row_bytes == 0 || before > ~op->row_bytes || !readable(b, op->head.input, in) ||
        !inside(op->head.output, before + op->row_bytes, b->arena_bytes) || /* may begin at any byte */
        !apart(op->head.input, in, op->head.output, before + op->row_bytes))
        return BF_BAD_MODEL;
    return BF_OK;
}

/* Element by element, or row by row: the output may be the input. */
static int in_place_or_apart(const struct bf_operator *op, uint32_t bytes)
{
    return op->input == op->output || apart(op->input, bytes, op->output, bytes);
}

static enum bf_status check_softmax(const struct bounds *b, const struct bf_softmax *op)
{
    uint32_t size = (uint32_t)op->rows * op->depth;

    return op->depth > 0 && op->radius < 256 && constants(b, op->table, 256 * 4) && readable(b, op->head.input, size) &&
                   writable(b, op->head.output, size) && in_place_or_apart(&op->head, size)
               ? BF_OK
               : BF_BAD_MODEL;
}

static enum bf_status check_table(const struct bounds *b, const struct bf_table *op)
{
    return constants(b, op->table, 256) && readable(b, op->head.input, op->count) &&
                   writable(b, op->head.output, op->count) && in_place_or_apart(&op->head, op->count)
               ? BF_OK
               : BF_BAD_MODEL;
}

static uint32_t descriptor_bytes(uint8_t kind)
{
    switch (kind) {
    case BF_ADD:
    case BF_MUL:
        return sizeof(struct bf_binary);
    case BF_PAD:
        return sizeof(struct bf_pad);
    case BF_COPY:
        return sizeof(struct bf_copy);
    case BF_SOFTMAX:
        return sizeof(struct bf_softmax);
    case BF_TABLE:
        return sizeof(struct bf_table);
    default:
        return sizeof(struct bf_window);
    }
}

static enum bf_status check_operator(const struct bounds *b, const struct bf_operator *op)
{
    switch (op->kind) {
    case BF_ADD:
    case BF_MUL:
        return check_binary(b, (const struct bf_binary *)op);
    case BF_PAD:
        return check_pad(b, (const struct bf_pad *)op);
    case BF_COPY:
        return check_copy(b, (const struct bf_copy *)op);
    case BF_SOFTMAX:
        return check_softmax(b, (const struct bf_softmax *)op);
    case BF_TABLE:
        return check_table(b, (const struct bf_table *)op);
    default:
        return check_window(b, (const struct bf_window *)op);
    }
}

static int isa_is_known(uint8_t isa)
{
    return (isa == BF_ISA_DSP && BF_WITH_DSP) || (isa == BF_ISA_PLAIN && BF_WITH_PLAIN);
}

enum bf_status bf_check_program(const uint8_t *data, uint32_t bytes)
{
    const struct bf_program *program = (const struct bf_program *)(const void *)data;
    const struct bf_operand *operands;
    struct bounds b = {data, 0, 0};
    uint32_t count, at;

    if (((uintptr_t)data & 15u) != 0 || bytes < sizeof *program || program->magic != BF_PROGRAM_MAGIC)
        return BF_BAD_MODEL;
    if (program->version != BF_PROGRAM_VERSION || !isa_is_known(program->isa))
        return BF_WRONG_VERSION;
    if (program->bytes < sizeof *program || program->bytes > bytes ||
        crc32(data + 16, program->bytes - 16) != program->crc32)
        return BF_BAD_MODEL;
    b.program_bytes = program->bytes;
    b.arena_bytes = program->arena_bytes & ~BF_IN_PROGRAM;
    count = (uint32_t)program->input_count + program->output_count;
    if (!constants(&b, program->operands, count * (uint32_t)sizeof *operands))
        return BF_BAD_MODEL;
    operands = (const struct bf_operand *)(const void *)(data + program->operands);
    for (; count > 0; count--, operands++)
        if (!writable(&b, operands->place, operands->bytes))
            return BF_BAD_MODEL;
    for (at = program->operators, count = program->operator_count; count > 0; count--) {
        const struct bf_operator *op = (const struct bf_operator *)(const void *)(data + at);
        enum bf_status status;

        if (!constants(&b, at, sizeof *op))
            return BF_BAD_MODEL;
        if (!kernel_is_known(op))
            return BF_UNSUPPORTED;
        if (op->bytes % 16 != 0 || op->bytes < descriptor_bytes(op->kind) || !inside(at, op->bytes, b.program_bytes))
            return BF_BAD_MODEL;
        status = check_operator(&b, op);
        if (status != BF_OK)
            return status;
        at += op->bytes;
    }
    return BF_OK;
}
