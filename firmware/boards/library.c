/* No board at all: what the native runtime needs of one when it is a shared library on a PC (targets/runners/native.py).
 * Nothing is timed there. */
#include "board.h"

uint32_t board_ticks(void)
{
    return 0;
}
