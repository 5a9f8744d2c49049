/* Does what board.h offers, one letter at a time, so that a test can see every function of a board's files on its own.
 * A request is a letter and, where it takes some, 32-bit numbers; the answer is 32-bit numbers. Little-endian. */
#include "board.h"

static uint8_t buffer[1024];

static uint32_t number(void)
{
    uint32_t value = 0;
    for (uint32_t i = 0; i < 4; i++) {
        int byte;
        while ((byte = board_read()) < 0)
            ;
        value |= (uint32_t)byte << (8 * i);
    }
    return value;
}

static void answer(uint32_t value)
{
    uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24)};
    board_write(bytes, 4);
}

/* Uses `depth` frames of the stack. */
static uint32_t dig(uint32_t depth)
{
    volatile uint32_t here[8] = {depth};
    return depth ? dig(depth - 1) + here[0] : 0;
}

static void erase(void)
{
    uint32_t offset = number();
    answer(board_slot_erase(offset, number()));
}

static void program(void)
{
    uint32_t offset = number(), bytes = number();
    for (uint32_t at = 0; at < bytes && at < sizeof buffer; at += 4) {
        uint32_t word = number();
        for (uint32_t i = 0; i < 4; i++)
            buffer[at + i] = (uint8_t)(word >> (8 * i));
    }
    answer(board_slot_write(offset, buffer, bytes));
}

static void passed(uint32_t loops)
{
    uint32_t before = board_ticks();
    for (uint32_t i = 0; i < loops; i++)
        __asm volatile("nop");
    answer(board_ticks() - before);
}

static void facts(void)
{
    answer(board_clock_hz);
    answer((uint32_t)(uintptr_t)board_slot());
    answer(board_slot_bytes());
    answer(board_slot_page_bytes);
    answer(board_slot_write_bytes);
    answer((uint32_t)(uintptr_t)board_arena());
    answer(board_arena_bytes());
    answer(board_ticks_ok());
}

static void fault_of_before(void)
{
    struct board_fault fault = {0, 0, 0, 0};
    answer(board_fault(&fault));
    answer(fault.program_counter);
    answer(fault.status);
    answer(fault.address);
}

int main(void)
{
    board_init();
    for (;;) {
        int letter = board_read();
        switch (letter) {
        case 'f':
            facts();
            break;
        case 'e':
            erase();
            break;
        case 'w':
            program();
            break;
        case 't':
            passed(number());
            break;
        case 'm':
            answer(board_milliseconds());
            break;
        case 's':
            board_stack_paint();
            dig(number());
            answer(board_stack_used());
            break;
        case 'p':
            for (uint32_t loops = number(), i = 0; i < loops; i++) /* does not look at the line meanwhile */
                __asm volatile("nop");
            answer(board_lost());
            break;
        case 'q':
            fault_of_before();
            break;
        case 'x':
            *(volatile uint32_t *)(uintptr_t)number() = 1; /* where nothing is */
            break;
        case 'r':
            board_reset();
            break;
        }
    }
}
