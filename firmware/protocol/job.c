#include "job.h"
#include "../boards/board.h"
#include "frame.h"

struct bf_refusal job_refusal;

static struct {
    uint32_t open;        /* 0, or the number of this opening */
    uint32_t openings;
    uint32_t ran;         /* outputs are valid */
    uint32_t timed;       /* operators whose ticks are valid */
    uint32_t input_bytes; /* of all inputs */
    uint8_t *keep;        /* where inputs are kept, or 0: an invoke may overwrite them, so they last for one */
    enum { NONE, GIVEN, FILLED } inputs;
    uint32_t seed;
    struct bf_model model;
} job;

static uint32_t operator_ticks[BF_MAX_OPERATORS];

static uint32_t refuse(uint32_t status, uint32_t value, uint32_t limit)
{
    job_refusal.value = value;
    job_refusal.limit = limit;
    return status;
}

void job_close(void)
{
    job.open = 0;
    job.ran = 0;
    job.timed = 0;
    job.keep = 0;
    job.inputs = NONE;
}

uint32_t job_number(void)
{
    return job.open;
}

const uint8_t *job_kept_inputs(void)
{
    return job.keep;
}

uint32_t job_input_bytes(void)
{
    return job.input_bytes;
}

uint32_t job_open(uint32_t offset, uint32_t bytes, uint32_t keep_bytes, struct bf_model *model)
{
    job_close();
    uint32_t slot = board_slot_bytes(), arena = board_arena_bytes() & ~15u;
    if (offset > slot || bytes > slot - offset)
        return refuse(BF_WIRE_SLOT_RANGE, offset > slot ? offset : bytes, offset > slot ? slot : slot - offset);
    if (offset & 15u)
        return refuse(BF_WIRE_SLOT_RANGE, offset, 16);
    if (keep_bytes > arena)
        return refuse(BF_NO_MEMORY, keep_bytes, arena);
    uint32_t kept = (keep_bytes + 15u) & ~15u; /* the arena is a multiple of 16, so this fits when keep_bytes does */
    job.model.arena_bytes = 0;
    enum bf_status status = bf_open(board_slot() + offset, bytes, board_arena(), arena - kept, &job.model);
    if (status == BF_NO_MEMORY)
        return refuse(status, job.model.arena_bytes, arena - kept);
    if (status != BF_OK)
        return refuse(status, 0, 0);
    if ((uint32_t)job.model.inputs + job.model.outputs > BF_MAX_TENSORS)
        return refuse(BF_WIRE_TOO_MANY, (uint32_t)job.model.inputs + job.model.outputs, BF_MAX_TENSORS);
    job.input_bytes = 0;
    for (uint32_t i = 0; i < job.model.inputs; i++) {
        uint32_t size = 0;
        if (!bf_input(i, &size))
            return refuse(BF_FAILED, i, job.model.inputs);
        job.input_bytes += size;
    }
    if (keep_bytes && keep_bytes < job.input_bytes)
        return refuse(BF_BAD_REQUEST, keep_bytes, job.input_bytes);
    job.keep = keep_bytes ? board_arena() + (arena - kept) : 0;
    job.open = ++job.openings;
    *model = job.model;
    return BF_OK;
}

uint32_t job_input(uint32_t index, uint32_t offset, const uint8_t *data, uint32_t bytes)
{
    uint32_t size = 0, before = 0;
    if (!job.open)
        return refuse(BF_NO_MODEL, 0, 0);
    if (index >= job.model.inputs)
        return refuse(BF_BAD_REQUEST, index, job.model.inputs);
    uint8_t *to = bf_input(index, &size);
    if (offset > size || bytes > size - offset)
        return refuse(BF_BAD_REQUEST, offset + bytes, size);
    if (job.keep) {
        for (uint32_t i = 0; i < index; i++) {
            uint32_t other = 0;
            bf_input(i, &other);
            before += other;
        }
        to = job.keep + before;
    }
    job.ran = 0;
    job.inputs = GIVEN;
    for (uint32_t i = 0; i < bytes; i++)
        to[offset + i] = data[i];
    return BF_OK;
}

uint32_t job_fill(uint32_t seed)
{
    if (!job.open)
        return refuse(BF_NO_MODEL, 0, 0);
    job.ran = 0;
    job.inputs = FILLED;
    job.seed = seed;
    return BF_OK;
}

/* Four bytes of noise for a counter: a multiply-xorshift mixer. A counter, not a chain, so that the host makes the same
 * bytes with array operations (targets/mcu/wire.py, `noise`). */
static uint32_t mix(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    return x ^ (x >> 16);
}

static void fill(uint8_t *to, uint32_t bytes, uint32_t seed, uint32_t index)
{
    uint32_t start = mix(seed + index * 0x9E3779B9u), word = 0;
    for (uint32_t i = 0; i < bytes; i++) {
        if ((i & 3u) == 0)
            word = mix(start + (i >> 2));
        to[i] = (uint8_t)(word >> (8u * (i & 3u)));
    }
}

/* Inputs as the next invoke must find them. */
static void prepare(void)
{
    const uint8_t *from = job.keep;
    for (uint32_t index = 0; index < job.model.inputs; index++) {
        uint32_t size = 0;
        uint8_t *to = bf_input(index, &size);
        if (job.inputs == FILLED) {
            fill(to, size, job.seed, index);
        } else if (from) {
            for (uint32_t i = 0; i < size; i++)
                to[i] = from[i];
            from += size;
        }
    }
}

static uint32_t inputs_crc32(void)
{
    uint32_t crc = 0, size = 0;
    for (uint32_t i = 0; i < job.model.inputs; i++) {
        const uint8_t *data = bf_input(i, &size);
        crc = frame_crc32(crc, data, size);
    }
    return crc;
}

static uint32_t outputs_crc32(void)
{
    uint32_t crc = 0, size = 0;
    for (uint32_t i = 0; i < job.model.outputs; i++) {
        const uint8_t *data = bf_output(i, &size);
        if (data)
            crc = frame_crc32(crc, data, size);
    }
    return crc;
}

/* Whether the run makes sense now; nothing has been touched when it does not. */
static uint32_t check(const struct bf_run *run)
{
    uint32_t times = run->warmup + run->repetitions;
    if (!job.open)
        return refuse(BF_NO_MODEL, 0, 0);
    if (run->repetitions == 0 || run->repetitions > BF_MAX_REPETITIONS)
        return refuse(BF_WIRE_TOO_MANY, run->repetitions, BF_MAX_REPETITIONS);
    if (run->warmup > BF_MAX_REPETITIONS)
        return refuse(BF_WIRE_TOO_MANY, run->warmup, BF_MAX_REPETITIONS);
    if ((run->flags & BF_RUN_OPERATORS) && job.model.operators > BF_MAX_OPERATORS)
        return refuse(BF_WIRE_TOO_MANY, job.model.operators, BF_MAX_OPERATORS);
    if (job.model.inputs && (job.inputs == NONE || (job.inputs == GIVEN && !job.keep && times > 1)))
        return refuse(BF_WIRE_NO_INPUT, times, job.inputs == NONE ? 0 : 1);
    if (run->flags && !board_ticks_ok())
        return refuse(BF_WIRE_TICKS_STUCK, 0, 0);
    return BF_OK;
}

uint32_t job_run(const struct bf_run *run, struct bf_run_reply *reply, uint32_t *ticks)
{
    uint32_t status = check(run);
    if (status != BF_OK)
        return status;
    uint32_t operators = run->flags & BF_RUN_OPERATORS ? job.model.operators : 0;
    job.ran = 0;
    job.timed = 0;
    board_stack_paint();
    for (uint32_t i = 0; i < run->warmup + run->repetitions; i++) {
        uint32_t warm = i < run->warmup;
        prepare();
        if (i == 0)
            reply->input_crc32 = inputs_crc32();
        if (!job.keep && job.inputs == GIVEN)
            job.inputs = NONE;
        uint32_t lines = bf_constant_lines;
        uint32_t start = board_ticks();
        status = bf_invoke(-1, !warm && operators ? operator_ticks : 0, warm ? 0 : operators);
        uint32_t passed = board_ticks() - start;
        reply->constant_lines = bf_constant_lines - lines;
        if (status != BF_OK)
            return refuse(status, i, 0);
        if (warm)
            continue;
        if (run->flags && passed == 0)
            return refuse(BF_WIRE_TICKS_STUCK, 0, 0);
        if (run->flags)
            ticks[i - run->warmup] = passed;
        uint32_t crc = outputs_crc32();
        if (i > run->warmup && crc != reply->output_crc32)
            return refuse(BF_WIRE_OUTPUTS_DIFFER, crc, reply->output_crc32);
        reply->output_crc32 = crc;
    }
    reply->stack_bytes = board_stack_used();
    job.ran = 1;
    job.timed = operators;
    return BF_OK;
}

const uint32_t *job_operators(uint32_t *count)
{
    *count = job.timed;
    return operator_ticks;
}

const uint8_t *job_output(uint32_t index, uint32_t *bytes)
{
    return job.ran && index < job.model.outputs ? bf_output(index, bytes) : 0;
}
