/* Runs weighted kernels case by case for tests/firmware/weighted.py: lengths and bytes come on stdin, outputs go to
 * stdout. Every buffer has exactly the promised size, so that the sanitizer sees the first byte too many. */
#include <stdio.h>
#include <stdlib.h>

#include "kernels.h"

static void get(void *to, size_t bytes)
{
    if (bytes > 0 && fread(to, 1, bytes, stdin) != bytes) {
        exit(0);
    }
}

int main(void)
{
    for (;;) {
        struct bf_window op;
        uint32_t sizes[4]; /* program, input, output, scratch */
        get(&op, sizeof op);
        get(sizes, sizeof sizes);
        uint8_t *program = malloc(sizes[0]);
        int8_t *input = malloc(sizes[1]), *output = malloc(sizes[2]);
        void *scratch = malloc(sizes[3]);
        get(program, sizes[0]);
        get(input, sizes[1]);
        if (!bf_has_weighted(op.head.kind, op.head.kernel)) {
            return 2;
        }
        switch (op.head.kind) {
        case BF_CONV2D:
            bf_conv2d(&op, program, input, output, scratch);
            break;
        case BF_DEPTHWISE:
            bf_depthwise_conv2d(&op, program, input, output, scratch);
            break;
        case BF_FULLY_CONNECTED:
            bf_fully_connected(&op, program, input, output, scratch);
            break;
        }
        fwrite(output, 1, sizes[2], stdout);
        fflush(stdout);
        free(program);
        free(input);
        free(output);
        free(scratch);
    }
}
