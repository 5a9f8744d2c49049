/* What a board offers the rest of the firmware. One file of boards/ implements it for a family of parts; facts of the
 * part (addresses, clock, sizes) come as BF_... macros from targets/boards/NAME.toml, so no fact is written twice.
 * boards/host.c implements it for a Linux process, for tests. */
#ifndef BF_BOARD_H
#define BF_BOARD_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

extern const char board_name[];       /* as in targets/boards, without "virtual:" */
extern const uint32_t board_clock_hz; /* of the core */

void board_init(void);

/* Serial line to the host. The device speaks only when asked. */
int board_read(void); /* the next byte, or -1 when none has come */
void board_write(const uint8_t *data, uint32_t bytes);
uint32_t board_lost(void); /* bytes lost to overruns since the last call */

/* Cycle counter, 32 bits, wraps. On a core without DWT: SysTick, extended by counting its wraps. */
uint32_t board_ticks(void);
extern const char board_tick_source[]; /* "dwt", "systick", or "tim2" (QEMU, which counts nothing else exactly) */
/* 0: the counter stood still when the board started (QEMU's DWT does); its numbers must not be reported. */
uint32_t board_ticks_ok(void);

/* The model slot: flash behind the firmware, to the end of the part (or of the bank that the firmware lies in). Offsets
 * are from its first byte. Erase takes whole pages, write multiples of board_slot_write_bytes. 0 is success, else a
 * status register of the flash controller. */
const uint8_t *board_slot(void);
uint32_t board_slot_bytes(void);
extern const uint32_t board_slot_page_bytes;  /* erase unit (the largest, where they differ) */
extern const uint32_t board_slot_write_bytes; /* write unit */
/* Both check by reading back. A result with bit 31 set is not the controller's: */
#define BOARD_SLOT_RANGE 0x80000001u   /* outside of the slot, or not at multiples of the unit */
#define BOARD_SLOT_TIMEOUT 0x80000002u /* the controller stayed busy */
#define BOARD_SLOT_VERIFY 0x80000003u  /* no error was reported, and yet the flash reads otherwise */
uint32_t board_slot_erase(uint32_t offset, uint32_t bytes);
uint32_t board_slot_write(uint32_t offset, const uint8_t *data, uint32_t bytes);

/* RAM that is left for a model: between the firmware's own data and its stack. */
uint8_t *board_arena(void);
uint32_t board_arena_bytes(void);

/* Stack depth: paint what is unused, later count what was reached (bytes from the top). */
void board_stack_paint(void);
uint32_t board_stack_used(void);

/* The fault that ended the program before this start, kept over the reset that follows it. */
struct board_fault {
    uint32_t program_counter, link_register;
    uint32_t status;  /* CFSR; 0 on a core without one (M0+) */
    uint32_t address; /* BFAR or MMFAR where the status says that it is valid, else 0 */
};
/* 1 and the fault when there was one (once: it is forgotten with the call), else 0. */
uint32_t board_fault(struct board_fault *fault);

void board_reset(void);
/* Time since the start, for time-outs in the protocol; right only while it is asked at least every 100 ms. */
uint32_t board_milliseconds(void);

#ifdef __cplusplus
}
#endif
#endif
