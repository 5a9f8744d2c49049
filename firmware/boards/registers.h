/* How the board files reach registers, and the facts that every family shares (ARMv7-M / ARMv6-M architecture manuals). */
#ifndef BF_REGISTERS_H
#define BF_REGISTERS_H
#include <stdint.h>

static inline volatile uint32_t *reg(uint32_t address)
{
    return (volatile uint32_t *)(uintptr_t)address;
}

static inline void set_bits(uint32_t address, uint32_t bits)
{
    *reg(address) |= bits;
}

static inline void set_field(uint32_t address, uint32_t mask, uint32_t value)
{
    *reg(address) = (*reg(address) & ~mask) | value;
}

/* 1 once (register & mask) == value; 0 when it does not come to that. Bounded, so that a part (or an emulator) that
 * never gets ready ends in an error, not in a hang. */
static inline uint32_t wait_until(uint32_t address, uint32_t mask, uint32_t value, uint32_t tries)
{
    while ((*reg(address) & mask) != value)
        if (tries-- == 0)
            return 0;
    return 1;
}

/* The longest start-up (PLL lock, regulator) takes some 200 us; this is at least a millisecond at any clock. */
#define READY_TRIES 20000u

/* Four bytes from any address, little-endian; a word load would fault on a Cortex-M0+ that is not aligned. */
static inline uint32_t read_word(const uint8_t *data)
{
    return data[0] | ((uint32_t)data[1] << 8) | ((uint32_t)data[2] << 16) | ((uint32_t)data[3] << 24);
}

#define BIT(n) (1u << (n))

/* Implemented once per family (stm32XX.c), used by board.c. */
void clock_init(void);
/* Both act on flash addresses that slot.c has checked: whole pages, multiples of the write unit. 0 or the status. */
uint32_t flash_erase(uint32_t address, uint32_t bytes);
uint32_t flash_program(uint32_t address, const uint8_t *data, uint32_t bytes);

/* ticks.c, uart.c */
void ticks_init(void);
void uart_init(void);
#endif
