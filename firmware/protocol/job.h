/* The one model that is open, its inputs, and runs of it: what both protocols (frames and MLPerf Tiny) share. Functions
 * return a status of runtime/engine.h or wire.h; what the status says about is left in `job_refusal`. */
#ifndef BF_JOB_H
#define BF_JOB_H
#include "../runtime/engine.h"
#include "wire.h"

extern struct bf_refusal job_refusal;

/* The model in the slot; `keep_bytes` of the arena's end are not the model's but keep its inputs. */
uint32_t job_open(uint32_t offset, uint32_t bytes, uint32_t keep_bytes, struct bf_model *model);
void job_close(void);
/* A number of its own for every opened model, so that one protocol never runs what the other opened; 0: none is open. */
uint32_t job_number(void);
uint32_t job_input_bytes(void);
const uint8_t *job_kept_inputs(void); /* or 0, where a run spends them */

/* Set a part of an input, or have all inputs filled from a seed before every run. */
uint32_t job_input(uint32_t index, uint32_t offset, const uint8_t *data, uint32_t bytes);
uint32_t job_fill(uint32_t seed);

/* Runs of the whole model. `ticks` has an entry for every repetition; operators' ticks are kept for job_operators. */
uint32_t job_run(const struct bf_run *run, struct bf_run_reply *reply, uint32_t *ticks);
const uint32_t *job_operators(uint32_t *count);

/* An output of the last run, or 0. */
const uint8_t *job_output(uint32_t index, uint32_t *bytes);
#endif
