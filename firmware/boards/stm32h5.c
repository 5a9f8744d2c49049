/* STM32H5 without TrustZone (TZEN off, as delivered): clock and flash. RM0481, chapters RCC, PWR, ICACHE, embedded
 * flash memory. */
#include "board.h"
#include "registers.h"

#define RCC_CR 0x44020C00u
#define RCC_CFGR1 0x44020C1Cu
#define RCC_PLL1CFGR 0x44020C28u
#define RCC_PLL1DIVR 0x44020C34u
#define PWR_VOSCR 0x44020810u
#define PWR_VOSSR 0x44020814u
#define ICACHE_CR 0x40030400u
#define ICACHE_SR 0x40030404u
#define FLASH_ACR 0x40022000u
#define FLASH_NSKEYR 0x40022004u
#define FLASH_NSSR 0x40022020u
#define FLASH_NSCR 0x40022028u
#define FLASH_NSCCR 0x40022030u

/* HSI (64 MHz, halved after a reset) -> PLL1 -> core; all buses at the core's clock. */
void clock_init(void)
{
    set_bits(PWR_VOSCR, 3u << 4); /* VOS0: above 200 MHz */
    wait_until(PWR_VOSSR, BIT(3) | BIT(13), BIT(3) | BIT(13), READY_TRIES);
    /* PLL input 2 to 4 MHz, wide VCO, output P on */
    *reg(RCC_PLL1CFGR) = 1u | (1u << 2) | ((uint32_t)BF_PLL_M << 8) | BIT(16);
    *reg(RCC_PLL1DIVR) = (BF_PLL_N - 1u) | ((BF_PLL_DIVIDER - 1u) << 9) | (1u << 16) | (1u << 24);
    set_bits(RCC_CR, BIT(24));
    *reg(FLASH_ACR) = BF_FLASH_WAIT_STATES | (2u << 4) | BIT(8); /* programming delay for 250 MHz, prefetch */
    wait_until(FLASH_ACR, 0xFu, BF_FLASH_WAIT_STATES, READY_TRIES);
    wait_until(RCC_CR, BIT(25), BIT(25), READY_TRIES);
    set_field(RCC_CFGR1, 7u, 3u);
    wait_until(RCC_CFGR1, 7u << 3, 3u << 3, READY_TRIES);
    set_bits(ICACHE_CR, 1u);
}

#define CR_LOCK BIT(0)
#define CR_PG BIT(1)
#define CR_SER BIT(2)
#define CR_START BIT(5)
#define CR_BKSEL BIT(31)
#define SR_BUSY (BIT(0) | BIT(1) | BIT(3)) /* BSY, and data that wait in the write buffer */
#define SR_ERRORS 0x00FE0000u
#define BUSY_TRIES (BF_CLOCK_HZ / 50u) /* some 0.1 s; a sector takes a few ms */

static uint32_t done(void)
{
    if (!wait_until(FLASH_NSSR, SR_BUSY, 0, BUSY_TRIES))
        return BOARD_SLOT_TIMEOUT;
    return *reg(FLASH_NSSR) & SR_ERRORS;
}

/* The cache must not stand between us and the array while it changes; switching it off empties it. */
static uint32_t unlock(void)
{
    set_field(ICACHE_CR, 1u, 0);
    wait_until(ICACHE_SR, 1u, 0, READY_TRIES);
    if (done() == BOARD_SLOT_TIMEOUT)
        return BOARD_SLOT_TIMEOUT;
    if (*reg(FLASH_NSCR) & CR_LOCK) {
        *reg(FLASH_NSKEYR) = 0x45670123u;
        *reg(FLASH_NSKEYR) = 0xCDEF89ABu;
    }
    *reg(FLASH_NSCCR) = SR_ERRORS | BIT(16);
    return 0;
}

/* Ends an operation. Some errors show only when it ends. */
static uint32_t lock(uint32_t status)
{
    *reg(FLASH_NSCR) = CR_LOCK;
    set_bits(ICACHE_CR, 1u);
    return status ? status : *reg(FLASH_NSSR) & SR_ERRORS;
}

uint32_t flash_erase(uint32_t address, uint32_t bytes)
{
    uint32_t status = unlock();
    uint32_t offset = address - BF_FLASH_ADDRESS;
    for (uint32_t end = offset + bytes; offset < end && !status; offset += BF_FLASH_PAGE_BYTES) {
        uint32_t bank = offset >= BF_FLASH_BYTES / 2u;
        uint32_t sector = (offset - bank * (BF_FLASH_BYTES / 2u)) / BF_FLASH_PAGE_BYTES;
        *reg(FLASH_NSCR) = CR_SER | (sector << 6) | (bank ? CR_BKSEL : 0);
        set_bits(FLASH_NSCR, CR_START);
        status = done();
    }
    return lock(status);
}

uint32_t flash_program(uint32_t address, const uint8_t *data, uint32_t bytes)
{
    uint32_t status = unlock();
    if (!status)
        *reg(FLASH_NSCR) = CR_PG;
    for (uint32_t at = 0; at < bytes && !status; at += 16) {
        for (uint32_t word = 0; word < 16; word += 4) /* a quad word goes to the array as one */
            *reg(address + at + word) = read_word(data + at + word);
        status = done();
    }
    return lock(status);
}
