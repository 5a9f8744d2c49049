/* The firmware: get the board ready, then answer the host for ever. */
#include "board.h"
#include "service.h"

int main(void)
{
    board_init();
    bf_service_forever();
    return 0;
}
