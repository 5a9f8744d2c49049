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
extern const char board_tick_source[]; /* "dwt" or "systick" */

/* The model slot: flash behind the firmware, to the end of the part (or of the bank that the firmware lies in). Offsets
 * are from its first byte. Erase takes whole pages, write multiples of board_slot_write_bytes. 0 is success, else a
 * status register of the flash controller. */
const uint8_t *board_slot(void);
uint32_t board_slot_bytes(void);
extern const uint32_t board_slot_page_bytes;  /* erase unit (the largest, where they differ) */
extern const uint32_t board_slot_write_bytes; /* write unit */
uint32_t board_slot_erase(uint32_t offset, uint32_t bytes);
uint32_t board_slot_write(uint32_t offset, const uint8_t *data, uint32_t bytes);

/* RAM that is left for a model: between the firmware's own data and its stack. */
uint8_t *board_arena(void);
uint32_t board_arena_bytes(void);

/* Stack depth: paint what is unused, later count what was reached (bytes from the top). */
void board_stack_paint(void);
uint32_t board_stack_used(void);

void board_reset(void);
/* A few microseconds of waiting; used for time-outs in the protocol. */
uint32_t board_milliseconds(void);

#ifdef __cplusplus
}
#endif
#endif
