/* The firmware's main loop: reads the serial line, answers frames (service.c) and MLPerf Tiny commands (mlperf.c).
 * Speaks only when asked, uses no heap, and knows the rest of the firmware by board.h and engine.h alone. */
#ifndef BF_SERVICE_H
#define BF_SERVICE_H
#include <stdint.h>

/* Take all bytes that have come; returns when there are none left. */
void bf_service(void);
void bf_service_forever(void);

/* mlperf.c: one byte that stood outside of any frame; and forget a command that is not finished. */
void mlperf_byte(uint8_t byte);
void mlperf_forget(void);
#endif
