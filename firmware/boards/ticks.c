/* The cycle counter, and the milliseconds that are counted from it. */
#include "board.h"
#include "registers.h"

#define SYST_CSR 0xE000E010u
#define SYST_RVR 0xE000E014u
#define SYST_CVR 0xE000E018u
#define SYST_BITS 0x00FFFFFFu
#define SCB_ICSR 0xE000ED04u
#define ICSR_PENDSTSET BIT(26)
#define ICSR_PENDSTCLR BIT(25)

static uint32_t wraps; /* of SysTick's 24 bits; written with interrupts off, or by its handler */
static uint32_t running;

void tick_handler(void);

void tick_handler(void)
{
    wraps++;
}

/* SysTick counts down from 2^24 - 1 at the core's clock and interrupts once per wrap. A wrap that happened while
 * interrupts were off is still pending; it is counted here, so the result never steps back. */
static uint32_t systick_read(void)
{
    uint32_t mask;
    __asm volatile("mrs %0, primask\n\tcpsid i" : "=r"(mask)::"memory");
    uint32_t count = SYST_BITS - (*reg(SYST_CVR) & SYST_BITS);
    if (*reg(SCB_ICSR) & ICSR_PENDSTSET) {
        *reg(SCB_ICSR) = ICSR_PENDSTCLR;
        wraps++;
        count = SYST_BITS - (*reg(SYST_CVR) & SYST_BITS);
    }
    uint32_t ticks = (wraps << 24) + count;
    __asm volatile("msr primask, %0" ::"r"(mask) : "memory");
    return ticks;
}

static void systick_start(void)
{
    *reg(SYST_RVR) = SYST_BITS;
    *reg(SYST_CVR) = 0;
    *reg(SYST_CSR) = 7u; /* the core's clock, interrupt, on */
}

#if defined(BF_TICK_DWT)
/* ARMv7-M Architecture Reference Manual, part C (DWT, DEMCR); the same in ARMv8-M. */
#define DEMCR 0xE000EDFCu
#define DWT_CTRL 0xE0001000u
#define DWT_CYCCNT 0xE0001004u
const char board_tick_source[] = "dwt";

static void counter_start(void)
{
    set_bits(DEMCR, BIT(24)); /* TRCENA */
    *reg(DWT_CYCCNT) = 0;
    set_bits(DWT_CTRL, 1u);
}

uint32_t board_ticks(void)
{
    return *reg(DWT_CYCCNT);
}
#elif defined(BF_TICK_TIM2)
/* A 32-bit timer (RM0090, chapter "General-purpose timers TIM2 to TIM5"). Only QEMU's STM32F405 uses it: there it counts virtual nanoseconds. */
#define TIM2_CR1 0x40000000u
#define TIM2_CNT 0x40000024u
#define TIM2_PSC 0x40000028u
#define TIM2_ARR 0x4000002Cu
const char board_tick_source[] = "tim2";

static void counter_start(void)
{
    set_bits(0x40023840u, 1u); /* RCC_APB1ENR.TIM2EN */
    *reg(TIM2_PSC) = 0;
    *reg(TIM2_ARR) = 0xFFFFFFFFu;
    *reg(TIM2_CNT) = 0;
    *reg(TIM2_CR1) = 1u;
}

uint32_t board_ticks(void)
{
    return *reg(TIM2_CNT);
}
#else
const char board_tick_source[] = "systick";

static void counter_start(void)
{
    systick_start();
}

uint32_t board_ticks(void)
{
    return systick_read();
}
#endif

void ticks_init(void)
{
    counter_start();
    uint32_t before = board_ticks();
    for (uint32_t i = 0; i < 100; i++)
        __asm volatile("nop");
    running = board_ticks() != before;
    if (!running)
        systick_start(); /* milliseconds need some clock */
}

uint32_t board_ticks_ok(void)
{
    return running;
}

uint32_t board_milliseconds(void)
{
    static uint32_t last, rest, milliseconds;
    const uint32_t per_millisecond = (running ? BF_TICK_HZ : BF_CLOCK_HZ) / 1000u;
    uint32_t now = running ? board_ticks() : systick_read();
    uint32_t passed = now - last;
    last = now;
    milliseconds += passed / per_millisecond;
    rest += passed % per_millisecond;
    if (rest >= per_millisecond) {
        rest -= per_millisecond;
        milliseconds++;
    }
    return milliseconds;
}
