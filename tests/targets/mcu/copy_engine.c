/* A runtime for tests of the protocol: its models are a few words, and what they do can be foretold. A model is "TEST",
 * then words: bytes of the input, of the output, operators, arena bytes, flags. Output byte i is the sum of all inputs'
 * bytes i modulo their length, plus i. As a real runtime may, it spoils its inputs. */
#include "../../../firmware/runtime/engine.h"
#include "../../../firmware/boards/board.h"

enum { CHANGES = 1, FAILS = 2, TWO_INPUTS = 4, STACK = 8 };

const char bf_engine_name[] = "copy";
const char bf_engine_version[] = "test";
volatile uint32_t bf_constant_lines;

static struct {
    uint32_t magic, input, output, operators, arena, flags;
} model;
static uint8_t *memory;
static uint32_t runs;

enum bf_status bf_open(const uint8_t *data, uint32_t bytes, uint8_t *arena, uint32_t arena_bytes, struct bf_model *found)
{
    memory = 0;
    if (bytes < sizeof model)
        return BF_BAD_MODEL;
    for (uint32_t i = 0; i < sizeof model; i++)
        ((uint8_t *)&model)[i] = data[i];
    if (model.magic != 0x54534554u)
        return BF_BAD_MODEL;
    uint32_t inputs = model.flags & TWO_INPUTS ? 2 : 1;
    found->arena_bytes = model.arena;
    found->operators = (uint16_t)model.operators;
    found->inputs = (uint8_t)inputs;
    found->outputs = 1;
    if (model.arena > arena_bytes)
        return BF_NO_MEMORY;
    if (inputs * model.input + model.output > model.arena)
        return BF_BAD_MODEL;
    memory = arena;
    return BF_OK;
}

uint8_t *bf_input(uint32_t index, uint32_t *bytes)
{
    if (!memory || index >= (model.flags & TWO_INPUTS ? 2u : 1u))
        return 0;
    *bytes = model.input;
    return memory + index * model.input;
}

const uint8_t *bf_output(uint32_t index, uint32_t *bytes)
{
    if (!memory || index)
        return 0;
    *bytes = model.output;
    return memory + (model.flags & TWO_INPUTS ? 2u : 1u) * model.input;
}

static uint32_t deep(uint32_t levels)
{
    volatile uint8_t room[1000];
    for (uint32_t i = 0; i < sizeof room; i++)
        room[i] = (uint8_t)levels;
    return levels ? deep(levels - 1) + room[levels] : room[0];
}

enum bf_status bf_invoke(int32_t only, uint32_t *ticks, uint32_t count)
{
    uint32_t inputs = model.flags & TWO_INPUTS ? 2 : 1;
    uint8_t *out = memory + inputs * model.input;
    (void)only;
    if (!memory)
        return BF_NO_MODEL;
    if (model.flags & FAILS)
        return BF_FAILED;
    if (model.flags & STACK)
        deep(10);
    for (uint32_t i = 0; i < model.output; i++) {
        out[i] = (uint8_t)i;
        for (uint32_t k = 0; k < inputs; k++)
            out[i] = (uint8_t)(out[i] + memory[k * model.input + i % model.input]);
    }
    if (model.flags & CHANGES)
        out[0] = (uint8_t)(out[0] + runs);
    for (uint32_t i = 0; i < inputs * model.input; i++)
        memory[i] = 0xEE;
    for (uint32_t i = 0; ticks && i < count; i++) {
        uint32_t start = board_ticks();
        ticks[i] = board_ticks() - start;
    }
    bf_constant_lines += 7;
    runs++;
    return BF_OK;
}
