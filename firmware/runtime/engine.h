/* What the protocol asks of a runtime. Two implement it: the native one (runtime/native.c) and TensorFlow Lite Micro
 * (tflm/engine.cc, linked with a library that the user built). One model is open at a time. */
#ifndef BF_ENGINE_H
#define BF_ENGINE_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum bf_status {
    BF_OK = 0,
    BF_BAD_MODEL = 1,    /* not a model, truncated, or its checksum is wrong */
    BF_WRONG_VERSION = 2,/* another format or kernel set than this firmware has */
    BF_NO_MEMORY = 3,    /* the arena is too small: see bf_model.arena_bytes */
    BF_UNSUPPORTED = 4,  /* an operator or kernel that this firmware does not have */
    BF_NO_MODEL = 5,     /* nothing is open */
    BF_BAD_REQUEST = 6,  /* an index or size out of range */
    BF_FAILED = 7,       /* the runtime failed while it ran */
};

struct bf_model {
    uint32_t arena_bytes; /* that the model takes; with BF_NO_MEMORY: at least, 0 where that is not known */
    uint16_t operators;
    uint8_t inputs, outputs;
};

extern const char bf_engine_name[];    /* "native" or "tflm" */
extern const char bf_engine_version[]; /* of the format, or of the library */

/* Open a model that lies at `data` (flash, 16-aligned); it must stay there. `arena` is 16-aligned. */
enum bf_status bf_open(const uint8_t *data, uint32_t bytes, uint8_t *arena, uint32_t arena_bytes, struct bf_model *model);

/* Where input or output `index` lies, or 0 when there is none. Inputs are valid until the next invoke, which may
 * overwrite them; outputs from an invoke to the next. */
uint8_t *bf_input(uint32_t index, uint32_t *bytes);
const uint8_t *bf_output(uint32_t index, uint32_t *bytes);

/* Run the open model once. With `ticks` (one entry per operator, at most `count`) each operator is timed; NULL: none.
 * With `only` >= 0 only that operator runs. */
enum bf_status bf_invoke(int32_t only, uint32_t *ticks, uint32_t count);

/* Constants read from flash since reset, in 16-byte lines, by the operators' descriptors: a virtual board adds the wait
 * for them to its cycle counter. A runtime that does not know leaves it 0. */
extern volatile uint32_t bf_constant_lines;

#ifdef __cplusplus
}
#endif
#endif
