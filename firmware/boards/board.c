/* What is the same on every part: start-up order, the model slot's limits, the arena, the stack's depth. */
#include "board.h"
#include "registers.h"

extern uint8_t bf_slot_start[], bf_slot_end[], bf_arena_start[], bf_arena_end[];
extern uint32_t bf_stack_limit[], bf_stack_top[];

#define PAINT 0xA5C3E1F0u

const char board_name[] = BF_BOARD;
const uint32_t board_clock_hz = BF_CLOCK_HZ;
const uint32_t board_slot_page_bytes = BF_FLASH_PAGE_BYTES;
const uint32_t board_slot_write_bytes = BF_FLASH_WRITE_BYTES;

void board_init(void)
{
    clock_init();
    ticks_init();
    uart_init();
}

/* An address as a number: the compiler may not assume that two symbols of the linker script differ. */
static uint32_t address(const void *symbol)
{
    return (uint32_t)(uintptr_t)symbol;
}

const uint8_t *board_slot(void)
{
    return bf_slot_start;
}

uint32_t board_slot_bytes(void)
{
    return address(bf_slot_end) - address(bf_slot_start);
}

static uint32_t in_slot(uint32_t offset, uint32_t bytes, uint32_t unit)
{
    uint32_t all = board_slot_bytes();
    return offset <= all && bytes <= all - offset && (offset & (unit - 1u)) == 0 && (bytes & (unit - 1u)) == 0;
}

uint32_t board_slot_erase(uint32_t offset, uint32_t bytes)
{
    if (!in_slot(offset, bytes, BF_FLASH_PAGE_BYTES))
        return BOARD_SLOT_RANGE;
    uint32_t start = address(bf_slot_start) + offset;
    uint32_t status = bytes ? flash_erase(start, bytes) : 0;
    if (status)
        return status;
    for (uint32_t at = start; at < start + bytes; at += 4)
        if (*reg(at) != 0xFFFFFFFFu)
            return BOARD_SLOT_VERIFY;
    return 0;
}

uint32_t board_slot_write(uint32_t offset, const uint8_t *data, uint32_t bytes)
{
    if (!in_slot(offset, bytes, BF_FLASH_WRITE_BYTES))
        return BOARD_SLOT_RANGE;
    uint32_t start = address(bf_slot_start) + offset;
    uint32_t status = bytes ? flash_program(start, data, bytes) : 0;
    if (status)
        return status;
    const volatile uint8_t *written = (const volatile uint8_t *)(uintptr_t)start;
    for (uint32_t i = 0; i < bytes; i++)
        if (written[i] != data[i])
            return BOARD_SLOT_VERIFY;
    return 0;
}

uint8_t *board_arena(void)
{
    return bf_arena_start;
}

uint32_t board_arena_bytes(void)
{
    return address(bf_arena_end) - address(bf_arena_start);
}

static uint32_t stack_pointer(void)
{
    uint32_t sp;
    __asm volatile("mov %0, sp" : "=r"(sp));
    return sp;
}

/* Compilers read the stack pointer before they save registers below it, so the last bytes stay unpainted. */
#define OWN_FRAME 64u

void board_stack_paint(void)
{
    uint32_t end = stack_pointer() - OWN_FRAME;
    for (uint32_t at = address(bf_stack_limit); at < end; at += 4)
        *reg(at) = PAINT;
}

uint32_t board_stack_used(void)
{
    uint32_t at = address(bf_stack_limit), top = address(bf_stack_top);
    while (at < top && *reg(at) == PAINT)
        at += 4;
    return top - at;
}
