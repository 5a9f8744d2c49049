/* Sends back every byte that comes, in upper case; the smallest program that uses a board's files. */
#include "board.h"

int main(void)
{
    board_init();
    for (;;) {
        int byte = board_read();
        if (byte < 0)
            continue;
        uint8_t answer = (uint8_t)(byte >= 'a' && byte <= 'z' ? byte - 32 : byte);
        board_write(&answer, 1);
    }
}
