/* STM32F4: clock and flash. RM0390 (F446), RM0090 (F405); chapters RCC, PWR, embedded flash memory. */
#include "board.h"
#include "registers.h"

#define RCC_CR 0x40023800u
#define RCC_PLLCFGR 0x40023804u
#define RCC_CFGR 0x40023808u
#define RCC_APB1ENR 0x40023840u
#define PWR_CR 0x40007000u
#define PWR_CSR 0x40007004u
#define FLASH_ACR 0x40023C00u
#define FLASH_KEYR 0x40023C04u
#define FLASH_SR 0x40023C0Cu
#define FLASH_CR 0x40023C10u

#define ACR_CACHES (BIT(8) | BIT(9) | BIT(10)) /* prefetch, instruction cache, data cache */
#define ACR_DCEN BIT(10)
#define ACR_DCRST BIT(12)

/* HSI (16 MHz) -> PLL -> core; APB1 at a quarter, APB2 at half of it. */
void clock_init(void)
{
    set_bits(RCC_APB1ENR, BIT(28)); /* PWR */
    set_bits(PWR_CR, BF_PLL_VOS);   /* regulator scale 1 */
    *reg(RCC_PLLCFGR) = BF_PLL_M | ((uint32_t)BF_PLL_N << 6) | ((BF_PLL_DIVIDER / 2u - 1u) << 16) |
                        ((uint32_t)BF_PLL_Q << 24) | (2u << 28);
    set_bits(RCC_CR, BIT(24));
#if BF_PLL_BOOST /* above 168 MHz */
    set_bits(PWR_CR, BIT(16));
    wait_until(PWR_CSR, BIT(16), BIT(16), READY_TRIES);
    set_bits(PWR_CR, BIT(17));
    wait_until(PWR_CSR, BIT(17), BIT(17), READY_TRIES);
#endif
    *reg(FLASH_ACR) = ACR_CACHES | BF_FLASH_WAIT_STATES;
    wait_until(RCC_CR, BIT(25), BIT(25), READY_TRIES);
    set_field(RCC_CFGR, 0xFC00u, (5u << 10) | (4u << 13)); /* APB1 / 4, APB2 / 2 */
    set_field(RCC_CFGR, 3u, 2u);
    wait_until(RCC_CFGR, 3u << 2, 2u << 2, READY_TRIES);
}

#define CR_PG BIT(0)
#define CR_SER BIT(1)
#define CR_WORDS (2u << 8) /* PSIZE: 32 bits at once, for 2.7 to 3.6 V */
#define CR_STRT BIT(16)
#define CR_LOCK BIT(31)
#define SR_ERRORS 0x1F2u
#define SR_BSY BIT(16)
#define BUSY_TRIES (BF_CLOCK_HZ / 2u) /* some seconds: a 128-KiB sector may take two */

static uint32_t done(void)
{
    if (!wait_until(FLASH_SR, SR_BSY, 0, BUSY_TRIES))
        return BOARD_SLOT_TIMEOUT;
    return *reg(FLASH_SR) & SR_ERRORS;
}

static uint32_t unlock(void)
{
    if (done() == BOARD_SLOT_TIMEOUT)
        return BOARD_SLOT_TIMEOUT;
    if (*reg(FLASH_CR) & CR_LOCK) {
        *reg(FLASH_KEYR) = 0x45670123u;
        *reg(FLASH_KEYR) = 0xCDEF89ABu;
    }
    *reg(FLASH_SR) = SR_ERRORS | 1u; /* what an earlier operation left: written to be cleared */
    return 0;
}

/* Ends an operation. Some errors show only when it ends. */
static uint32_t lock(uint32_t status)
{
    *reg(FLASH_CR) = CR_LOCK;
    /* The data cache does not see what was written. It may be reset only while it is off. */
    set_field(FLASH_ACR, ACR_DCEN, 0);
    set_bits(FLASH_ACR, ACR_DCRST);
    set_field(FLASH_ACR, ACR_DCRST | ACR_DCEN, ACR_DCEN);
    return status ? status : *reg(FLASH_SR) & SR_ERRORS;
}

/* Sectors are 4 x 16, 64, then all 128 KiB; a slot has only those of 128 KiB, so number 5 starts at 128 KiB. */
uint32_t flash_erase(uint32_t address, uint32_t bytes)
{
    uint32_t status = unlock();
    for (uint32_t at = 0; at < bytes && !status; at += BF_FLASH_PAGE_BYTES) {
        uint32_t sector = 4u + (address + at - BF_FLASH_ADDRESS) / BF_FLASH_PAGE_BYTES;
        *reg(FLASH_CR) = CR_SER | (sector << 3) | CR_WORDS;
        set_bits(FLASH_CR, CR_STRT);
        status = done();
    }
    return lock(status);
}

uint32_t flash_program(uint32_t address, const uint8_t *data, uint32_t bytes)
{
    uint32_t status = unlock();
    if (!status)
        *reg(FLASH_CR) = CR_PG | CR_WORDS;
    for (uint32_t at = 0; at < bytes && !status; at += 4) {
        *reg(address + at) = read_word(data + at);
        status = done();
    }
    return lock(status);
}
