/* STM32L4+, G4 and G0: clock and flash. One flash controller and one power block; the PLL's fields differ by a few bits.
 * RM0432 (L4R5), RM0440 (G491), RM0444 (G071); chapters RCC, PWR, embedded flash memory. */
#include "board.h"
#include "registers.h"

#define RCC_CR 0x40021000u
#define RCC_CFGR 0x40021008u
#define RCC_PLLCFGR 0x4002100Cu
#define PWR_CR2 0x40007004u
#define PWR_SR2 0x40007014u
#define PWR_CR5 0x40007080u
#define FLASH_ACR 0x40022000u
#define FLASH_KEYR 0x40022008u
#define FLASH_SR 0x40022010u
#define FLASH_CR 0x40022014u
#define FLASH_OPTR 0x40022020u

#if defined(BF_FAMILY_G0)
#define RCC_PWR_ENABLE 0x4002103Cu /* APBENR1 */
#define PLL_OUTPUT (BIT(28) | ((BF_PLL_DIVIDER - 1u) << 29))
#define SWITCH_MASK 7u
#define SWITCH_PLL 2u
#define SWITCH_STATUS 3u
#define ACR_CACHES (BIT(8) | BIT(9)) /* prefetch, instruction cache */
#define ACR_RESETS BIT(11)
#else
#define RCC_PWR_ENABLE 0x40021058u /* APB1ENR1 */
#define PLL_OUTPUT (BIT(24) | ((BF_PLL_DIVIDER / 2u - 1u) << 25))
#define SWITCH_MASK 3u
#define SWITCH_PLL 3u
#define SWITCH_STATUS 2u
#define ACR_CACHES (BIT(8) | BIT(9) | BIT(10)) /* and data cache */
#define ACR_RESETS (BIT(11) | BIT(12))
#endif

/* HSI16 -> PLL -> core; both peripheral buses at the core's clock. */
void clock_init(void)
{
    set_bits(RCC_PWR_ENABLE, BIT(28));
    (void)*reg(RCC_PWR_ENABLE);
#if BF_PLL_BOOST /* range 1 boost: above 80 MHz (L4+), above 150 MHz (G4) */
    set_field(PWR_CR5, BIT(8), 0);
    wait_until(PWR_SR2, BIT(10), 0, READY_TRIES);
#endif
#if BF_UART_VDDIO2 /* pins PG2 to PG15 of an L4+ have a supply of their own, cut off after a reset */
    set_bits(PWR_CR2, BIT(9));
#endif
    set_bits(RCC_CR, BIT(8));
    wait_until(RCC_CR, BIT(10), BIT(10), READY_TRIES);
    *reg(RCC_PLLCFGR) = 2u | ((BF_PLL_M - 1u) << 4) | ((uint32_t)BF_PLL_N << 8) | PLL_OUTPUT; /* 2: HSI16 */
    set_bits(RCC_CR, BIT(24));
    *reg(FLASH_ACR) = ACR_CACHES | BF_FLASH_WAIT_STATES;
    wait_until(FLASH_ACR, 7u, BF_FLASH_WAIT_STATES, READY_TRIES);
    wait_until(RCC_CR, BIT(25), BIT(25), READY_TRIES);
#if BF_PLL_BOOST /* a step of more than 80 MHz goes through half the clock for at least a microsecond */
    set_field(RCC_CFGR, 0xFu << 4, 8u << 4);
#endif
    set_field(RCC_CFGR, SWITCH_MASK, SWITCH_PLL);
    wait_until(RCC_CFGR, SWITCH_MASK << SWITCH_STATUS, SWITCH_PLL << SWITCH_STATUS, READY_TRIES);
#if BF_PLL_BOOST
    for (uint32_t i = 0; i < 200; i++)
        __asm volatile("nop");
    set_field(RCC_CFGR, 0xFu << 4, 0);
#endif
}

#define CR_PG BIT(0)
#define CR_PER BIT(1)
#define CR_BKER BIT(11)
#define CR_STRT BIT(16)
#define CR_LOCK BIT(31)
#define SR_ERRORS 0x3FAu /* OPERR, PROGERR ... FASTERR; not the read errors, which are no answer to us */
#define SR_BUSY (BIT(16) | BIT(18)) /* BSY, and CFGBSY of a G0; reserved and 0 elsewhere */
#define BUSY_TRIES (BF_CLOCK_HZ / 50u) /* some 0.1 s; a page takes 25 ms */

static uint32_t done(void)
{
    if (!wait_until(FLASH_SR, SR_BUSY, 0, BUSY_TRIES))
        return BOARD_SLOT_TIMEOUT;
    return *reg(FLASH_SR) & SR_ERRORS;
}

/* What earlier operations (or option loading at reset) left is cleared by writing it. */
static uint32_t unlock(void)
{
    if (done() == BOARD_SLOT_TIMEOUT)
        return BOARD_SLOT_TIMEOUT;
    if (*reg(FLASH_CR) & CR_LOCK) {
        *reg(FLASH_KEYR) = 0x45670123u;
        *reg(FLASH_KEYR) = 0xCDEF89ABu;
    }
    *reg(FLASH_SR) = 0xC3FBu;
    return 0;
}

/* Ends an operation. Some errors show only when it ends. */
static uint32_t lock(uint32_t status)
{
    *reg(FLASH_CR) = CR_LOCK;
    /* The caches do not see what was written. They may be reset only while they are off. */
    set_field(FLASH_ACR, ACR_CACHES, 0);
    set_bits(FLASH_ACR, ACR_RESETS);
    set_field(FLASH_ACR, ACR_RESETS | ACR_CACHES, ACR_CACHES);
    return status ? status : *reg(FLASH_SR) & SR_ERRORS;
}

static uint32_t erase_page(uint32_t page)
{
    *reg(FLASH_CR) = CR_PER | (page << 3);
    set_bits(FLASH_CR, CR_STRT);
    return done();
}

uint32_t flash_erase(uint32_t address, uint32_t bytes)
{
    uint32_t status = unlock();
    uint32_t offset = address - BF_FLASH_ADDRESS;
    for (uint32_t end = offset + bytes; offset < end && !status; offset += BF_FLASH_PAGE_BYTES) {
#if BF_FLASH_DUAL_BANK
        /* As delivered (DBANK = 1) a bank is half of the flash and a page 4 KiB; with DBANK = 0 a page has 8 KiB. A page
         * of ours is 8 KiB in both cases. */
        if (*reg(FLASH_OPTR) & BIT(22)) {
            uint32_t bank = offset >= BF_FLASH_BYTES / 2u;
            uint32_t page = (offset - bank * (BF_FLASH_BYTES / 2u)) / (BF_FLASH_PAGE_BYTES / 2u);
            uint32_t select = bank ? CR_BKER >> 3 : 0;
            status = erase_page(page | select);
            if (!status)
                status = erase_page((page + 1u) | select);
            continue;
        }
#endif
        status = erase_page(offset / BF_FLASH_PAGE_BYTES);
    }
    return lock(status);
}

uint32_t flash_program(uint32_t address, const uint8_t *data, uint32_t bytes)
{
    uint32_t status = unlock();
    if (!status)
        *reg(FLASH_CR) = CR_PG;
    for (uint32_t at = 0; at < bytes && !status; at += 8) {
        /* Both halves of a double word, with no other access to the flash's array between them. */
        uint32_t low = read_word(data + at), high = read_word(data + at + 4);
        *reg(address + at) = low;
        *reg(address + at + 4) = high;
        status = done();
    }
    return lock(status);
}
