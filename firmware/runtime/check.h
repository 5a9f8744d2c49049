/* Is this program whole, and does it stay inside its arena? */
#ifndef BF_CHECK_H
#define BF_CHECK_H
#include "engine.h"

/* Everything that a program's operators read and write lies inside it and inside an arena of its arena_bytes. Values of
 * weights and multipliers are not looked at: wrong ones give wrong outputs, in the right place. */
enum bf_status bf_check_program(const uint8_t *data, uint32_t bytes);

#endif
