/* The native runtime under a sanitizer: cases come on standard input, program and arena lie in heap blocks of exactly
 * their size. A case: program bytes, arena bytes, input bytes, mode (uint32 each), then program and inputs. The answer:
 * status, arena bytes, operators, payload bytes, then the outputs (mode 0), or the arena after each operator alone and
 * the ticks of a whole run (mode 1). */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../firmware/boards/board.h"
#include "../../firmware/runtime/engine.h"

static uint32_t now;

uint32_t board_ticks(void)
{
    return now += 7;
}

static void *block(uint32_t bytes)
{
    void *found = NULL;

    if (posix_memalign(&found, 16, bytes ? bytes : 1) != 0)
        exit(3);
    return found;
}

static void take(void *to, uint32_t bytes)
{
    if (bytes && fread(to, 1, bytes, stdin) != bytes)
        exit(bytes == 16 ? 0 : 4);
}

static void give(const void *from, uint32_t bytes)
{
    if (bytes && fwrite(from, 1, bytes, stdout) != bytes)
        exit(5);
}

static void fill(const struct bf_model *model, const uint8_t *inputs)
{
    for (uint32_t i = 0; i < model->inputs; i++) {
        uint32_t bytes;
        uint8_t *to = bf_input(i, &bytes);
        memcpy(to, inputs, bytes);
        inputs += bytes;
    }
}

int main(void)
{
    for (;;) {
        uint32_t sizes[4], answer[4] = {0}, bytes;
        struct bf_model model;

        take(sizes, sizeof sizes);
        uint8_t *program = block(sizes[0]), *arena = block(sizes[1]), *inputs = block(sizes[2]);
        take(program, sizes[0]);
        take(inputs, sizes[2]);
        memset(arena, 0x55, sizes[1]);
        answer[0] = bf_open(program, sizes[0], arena, sizes[1], &model);
        answer[1] = model.arena_bytes;
        answer[2] = model.operators;
        if (answer[0] != BF_OK) {
            give(answer, sizeof answer);
        } else {
            uint32_t needed = 0;
            for (uint32_t i = 0; bf_input(i, &bytes); i++)
                needed += bytes;
            if (needed > sizes[2])
                model.inputs = 0; /* a damaged program; it runs on what lies there */
            fill(&model, inputs);
        }
        if (answer[0] == BF_OK && sizes[3] == 0) {
            answer[0] = bf_invoke(-1, NULL, 0);
            for (uint32_t i = 0; bf_output(i, &bytes); i++)
                answer[3] += bytes;
            give(answer, sizeof answer);
            for (uint32_t i = 0; bf_output(i, &bytes); i++)
                give(bf_output(i, &bytes), bytes);
        } else if (answer[0] == BF_OK) {
            uint32_t *ticks = block(4 * model.operators + 4);
            answer[3] = model.operators * (sizes[1] + 4);
            give(answer, sizeof answer);
            for (uint32_t i = 0; i < model.operators; i++) {
                if (bf_invoke((int32_t)i, NULL, 0) != BF_OK)
                    return 6;
                give(arena, sizes[1]);
            }
            fill(&model, inputs);
            if (bf_invoke(-1, ticks, model.operators) != BF_OK || bf_invoke(model.operators, NULL, 0) != BF_BAD_REQUEST)
                return 7;
            give(ticks, 4 * model.operators);
            free(ticks);
        }
        fflush(stdout);
        free(program);
        free(arena);
        free(inputs);
    }
}
