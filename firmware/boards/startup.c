/* From reset to main, and what happens at a fault. ARMv7-M Architecture Reference Manual, part B (exceptions, SCB). */
#include "board.h"
#include "registers.h"

#define SCB_VTOR 0xE000ED08u
#define SCB_AIRCR 0xE000ED0Cu
#define SCB_CFSR 0xE000ED28u
#define SCB_MMFAR 0xE000ED34u
#define SCB_BFAR 0xE000ED38u
#define SCB_CPACR 0xE000ED88u

extern uint32_t bf_data_start[], bf_data_end[], bf_data_image[], bf_bss_start[], bf_bss_end[], bf_stack_top[];
extern void (*const bf_init_start[])(void);
extern void (*const bf_init_end[])(void);
int main(void);
void reset_handler(void);
void fault_handler(void);
void fault_record(const uint32_t *frame);
void tick_handler(void);

#define FAULT_VALID 0x464C5431u /* set in a record that a fault left; RAM after power-on is anything else */
#define FAULTS_BEFORE_STOP 3u

static struct {
    uint32_t valid, count;
    struct board_fault fault;
} record __attribute__((section(".noinit")));

/* No interrupt of a peripheral is used, so the table ends with the system exceptions. */
__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))(uintptr_t)bf_stack_top,
    reset_handler,
    fault_handler, /* NMI */
    fault_handler, /* HardFault */
    fault_handler, /* MemManage */
    fault_handler, /* BusFault */
    fault_handler, /* UsageFault */
    fault_handler, /* SecureFault */
    0, 0, 0,
    fault_handler, /* SVCall */
    fault_handler, /* DebugMonitor */
    0,
    fault_handler, /* PendSV */
    tick_handler,
};

void reset_handler(void)
{
    *reg(SCB_VTOR) = (uint32_t)(uintptr_t)vectors;
#if defined(__ARM_FP)
    set_bits(SCB_CPACR, 0xFu << 20); /* the FPU: full access to CP10 and CP11 */
    __asm volatile("dsb\n\tisb" ::: "memory");
#endif
    const uint32_t *from = bf_data_image;
    for (uint32_t *to = bf_data_start; to < bf_data_end;)
        *to++ = *from++;
    for (uint32_t *to = bf_bss_start; to < bf_bss_end;)
        *to++ = 0;
    for (void (*const *call)(void) = bf_init_start; call < bf_init_end; call++)
        (*call)();
    main();
    board_reset(); /* main does not return */
}

/* The stack may be what is broken (it lies at the lowest addresses of the RAM, so an overflow leaves the RAM and
 * faults): take its top again before any C runs. Main stack only, nothing here uses the process stack. */
__attribute__((naked)) void fault_handler(void)
{
    __asm volatile("mrs r0, msp\n\t"
                   "ldr r1, =bf_stack_top\n\t"
                   "msr msp, r1\n\t"
                   "ldr r1, =fault_record\n\t"
                   "bx r1\n\t"
                   ".ltorg");
}

__attribute__((used)) void fault_record(const uint32_t *frame)
{
    uint32_t at = (uint32_t)(uintptr_t)frame;
    uint32_t whole = at >= BF_RAM_ADDRESS && at + 32u <= BF_RAM_ADDRESS + BF_RAM_BYTES;
    if (record.valid != FAULT_VALID)
        record.count = 0;
    record.count++;
    record.fault.link_register = whole ? frame[5] : 0;
    record.fault.program_counter = whole ? frame[6] : 0;
    record.fault.status = 0;
    record.fault.address = 0;
#if __ARM_ARCH >= 7 /* ARMv6-M has neither */
    uint32_t status = *reg(SCB_CFSR);
    record.fault.status = status;
    if (status & BIT(15))
        record.fault.address = *reg(SCB_BFAR);
    else if (status & BIT(7))
        record.fault.address = *reg(SCB_MMFAR);
#endif
    record.valid = FAULT_VALID;
    if (record.count < FAULTS_BEFORE_STOP)
        board_reset();
    for (;;) /* it faults again and again, and nobody asks why: stand still for a debugger */
        __asm volatile("wfi");
}

uint32_t board_fault(struct board_fault *fault)
{
    if (record.valid != FAULT_VALID)
        return 0;
    *fault = record.fault;
    record.valid = 0;
    return 1;
}

void board_reset(void)
{
    __asm volatile("dsb" ::: "memory");
    *reg(SCB_AIRCR) = 0x05FA0004u; /* VECTKEY, SYSRESETREQ */
    __asm volatile("dsb" ::: "memory");
    for (;;)
        __asm volatile("nop");
}
