/* The native runtime: walks a program's descriptors where they lie in flash. Its whole state is a few words. */
#include <stddef.h>

#include "../boards/board.h"
#include "../kernels/kernels.h"
#include "check.h"
#include "engine.h"
#include "program.h"

const char bf_engine_name[] = "native";
const char bf_engine_version[] = "1"; /* BF_PROGRAM_VERSION */
volatile uint32_t bf_constant_lines;

static struct {
    const uint8_t *program; /* NULL: nothing is open */
    uint8_t *arena;
} open_model;

static const struct bf_program *header(void)
{
    return (const struct bf_program *)(const void *)open_model.program;
}

enum bf_status bf_open(const uint8_t *data, uint32_t bytes, uint8_t *arena, uint32_t arena_bytes,
                       struct bf_model *model)
{
    const struct bf_program *program = (const struct bf_program *)(const void *)data;
    enum bf_status status;

    open_model.program = NULL;
    model->arena_bytes = 0;
    model->operators = 0;
    model->inputs = model->outputs = 0;
    status = bf_check_program(data, bytes);
    if (status != BF_OK)
        return status;
    model->arena_bytes = program->arena_bytes;
    model->operators = program->operator_count;
    model->inputs = program->input_count;
    model->outputs = program->output_count;
    if (program->arena_bytes > arena_bytes)
        return BF_NO_MEMORY;
    if (((uintptr_t)arena & 7u) != 0)
        return BF_BAD_REQUEST;
    open_model.program = data;
    open_model.arena = arena;
    return BF_OK;
}

static uint8_t *operand(uint32_t index, uint32_t *bytes)
{
    const struct bf_operand *operands =
        (const struct bf_operand *)(const void *)(open_model.program + header()->operands);

    *bytes = operands[index].bytes;
    return open_model.arena + operands[index].place;
}

uint8_t *bf_input(uint32_t index, uint32_t *bytes)
{
    if (!open_model.program || index >= header()->input_count)
        return NULL;
    return operand(index, bytes);
}

const uint8_t *bf_output(uint32_t index, uint32_t *bytes)
{
    if (!open_model.program || index >= header()->output_count)
        return NULL;
    return operand(header()->input_count + index, bytes);
}

static const int8_t *place(uint32_t at)
{
    return (const int8_t *)(at & BF_IN_PROGRAM ? open_model.program + (at & ~BF_IN_PROGRAM) : open_model.arena + at);
}

static void run(const struct bf_operator *op)
{
    const uint8_t *program = open_model.program;
    const int8_t *input = place(op->input);
    int8_t *output = (int8_t *)(open_model.arena + op->output);
    void *scratch = open_model.arena + op->scratch;
    const struct bf_window *window = (const struct bf_window *)op;
    const struct bf_binary *binary = (const struct bf_binary *)op;

    switch (op->kind) {
    case BF_CONV2D:
        bf_conv2d(window, program, input, output, scratch);
        break;
    case BF_DEPTHWISE:
        bf_depthwise_conv2d(window, program, input, output, scratch);
        break;
    case BF_FULLY_CONNECTED:
        bf_fully_connected(window, program, input, output, scratch);
        break;
    case BF_ADD:
        bf_add(binary, input, place(binary->second), output);
        break;
    case BF_MUL:
        bf_mul(binary, input, place(binary->second), output);
        break;
    case BF_AVERAGE_POOL:
        bf_average_pool(window, input, output);
        break;
    case BF_MAX_POOL:
        bf_max_pool(window, input, output);
        break;
    case BF_PAD:
        bf_pad((const struct bf_pad *)op, input, output);
        break;
    case BF_COPY:
        bf_copy((const struct bf_copy *)op, input, output);
        break;
    case BF_SOFTMAX:
        bf_softmax((const struct bf_softmax *)op, program, input, output);
        break;
    case BF_TABLE:
        bf_table((const struct bf_table *)op, program, input, output);
        break;
    }
}

enum bf_status bf_invoke(int32_t only, uint32_t *ticks, uint32_t count)
{
    const uint8_t *at;
    uint32_t index, operators;

    if (!open_model.program)
        return BF_NO_MODEL;
    operators = header()->operator_count;
    if (only >= 0 && (uint32_t)only >= operators)
        return BF_BAD_REQUEST;
    at = open_model.program + header()->operators;
    for (index = 0; index < operators; index++) {
        const struct bf_operator *op = (const struct bf_operator *)(const void *)at;

        at += op->bytes;
        if (only >= 0 && index != (uint32_t)only)
            continue;
        bf_constant_lines += op->constant_lines;
        if (ticks && index < count) {
            uint32_t begin = board_ticks();
            run(op);
            ticks[index] = board_ticks() - begin;
        } else {
            run(op);
        }
    }
    return BF_OK;
}
