#include "service.h"
#include "../boards/board.h"
#include "frame.h"
#include "job.h"
#include "wire.h"

#ifndef BF_FINGERPRINT
#define BF_FINGERPRINT "" /* of the firmware's sources and options; the build gives it */
#endif

#define HEADER_BYTES 8u
#define ARGUMENT_BYTES 16u /* the most words that stand before data */
#define MESSAGE_BYTES (HEADER_BYTES + ARGUMENT_BYTES + BF_CHUNK_BYTES)
#define ENCODED_BYTES (MESSAGE_BYTES + 4u + 3u) /* CRC; COBS adds a byte per 254 */

static uint8_t received[ENCODED_BYTES];
/* The last reply, kept: a host that missed it repeats its request, and the work is not done twice. */
static uint32_t kept[MESSAGE_BYTES / 4u];
static uint32_t kept_bytes;

static struct {
    uint32_t open, resetting;
    uint32_t model;           /* job_number() of what this session opened */
    uint16_t number, request; /* of the session, and of the last request in it */
} session;

static struct {
    uint32_t in_frame, count, overlong;
    uint32_t quiet, quiet_since;
} line;

/* --- requests: each gives a status, and appends to the reply --------------------------------------------------------- */

static void copy(void *to, const void *from, uint32_t bytes)
{
    uint8_t *out = to;
    const uint8_t *in = from;
    for (uint32_t i = 0; i < bytes; i++)
        out[i] = in[i];
}

static void append(const void *data, uint32_t bytes)
{
    copy((uint8_t *)kept + kept_bytes, data, bytes);
    kept_bytes += bytes;
}

static void append_text(const char *text)
{
    uint32_t length = 0;
    while (text[length] && length < 63u)
        length++;
    append(text, length);
    append("", 1);
}

static uint32_t refuse(uint32_t status, uint32_t value, uint32_t limit)
{
    job_refusal.value = value;
    job_refusal.limit = limit;
    return status;
}

static uint32_t hello(const uint8_t *payload, uint32_t bytes)
{
    (void)payload, (void)bytes;
    struct board_fault fault = {0, 0, 0, 0};
    struct bf_hello_reply reply;
    reply.faulted = board_fault(&fault);
    reply.clock_hz = board_clock_hz;
    reply.ticks_ok = board_ticks_ok();
    reply.slot_bytes = board_slot_bytes();
    reply.page_bytes = board_slot_page_bytes;
    reply.write_bytes = board_slot_write_bytes;
    reply.arena_bytes = board_arena_bytes() & ~15u;
    reply.chunk_bytes = BF_CHUNK_BYTES;
    reply.max_repetitions = BF_MAX_REPETITIONS;
    reply.max_operators = BF_MAX_OPERATORS;
    reply.lost_bytes = board_lost();
    reply.fault_program_counter = fault.program_counter;
    reply.fault_link_register = fault.link_register;
    reply.fault_status = fault.status;
    reply.fault_address = fault.address;
    append(&reply, sizeof reply);
    append_text(board_name);
    append_text(board_tick_source);
    append_text(bf_engine_name);
    append_text(bf_engine_version);
    append_text(BF_FINGERPRINT);
    return BF_OK;
}

/* 0, or the status of a place that is not in the slot. */
static uint32_t outside(uint32_t offset, uint32_t bytes, uint32_t unit)
{
    uint32_t slot = board_slot_bytes();
    if (offset > slot)
        return refuse(BF_WIRE_SLOT_RANGE, offset, slot);
    if (bytes > slot - offset)
        return refuse(BF_WIRE_SLOT_RANGE, bytes, slot - offset);
    if (offset % unit || bytes % unit)
        return refuse(BF_WIRE_SLOT_RANGE, offset % unit ? offset : bytes, unit);
    return BF_OK;
}

static uint32_t slot_erase(const uint8_t *payload, uint32_t bytes)
{
    struct bf_slot_erase ask;
    copy(&ask, payload, bytes);
    uint32_t status = outside(ask.offset, ask.bytes, board_slot_page_bytes);
    if (status != BF_OK)
        return status;
    job_close(); /* its weights may be what goes */
    uint32_t flash = board_slot_erase(ask.offset, ask.bytes);
    return flash ? refuse(BF_WIRE_FLASH, flash, 0) : BF_OK;
}

static uint32_t slot_write(const uint8_t *payload, uint32_t bytes)
{
    struct bf_slot_write ask;
    copy(&ask, payload, sizeof ask);
    uint32_t count = bytes - (uint32_t)sizeof ask;
    uint32_t status = outside(ask.offset, count, board_slot_write_bytes);
    if (status != BF_OK)
        return status;
    job_close();
    uint32_t flash = board_slot_write(ask.offset, payload + sizeof ask, count);
    return flash ? refuse(BF_WIRE_FLASH, flash, 0) : BF_OK;
}

static uint32_t slot_crc(const uint8_t *payload, uint32_t bytes)
{
    struct bf_slot_crc ask;
    copy(&ask, payload, bytes);
    uint32_t status = outside(ask.offset, ask.bytes, 1);
    if (status != BF_OK)
        return status;
    struct bf_slot_crc_reply reply = {frame_crc32(0, board_slot() + ask.offset, ask.bytes)};
    append(&reply, sizeof reply);
    return BF_OK;
}

static uint32_t open_model(const uint8_t *payload, uint32_t bytes)
{
    struct bf_open ask;
    struct bf_model model = {0, 0, 0, 0};
    copy(&ask, payload, bytes);
    uint32_t status = job_open(ask.offset, ask.bytes, ask.keep_bytes, &model);
    if (status != BF_OK)
        return status;
    session.model = job_number();
    struct bf_open_reply reply = {model.arena_bytes, model.operators, model.inputs, model.outputs};
    append(&reply, sizeof reply);
    for (uint32_t i = 0; i < reply.inputs + reply.outputs; i++) {
        uint32_t size = 0;
        if (i < reply.inputs)
            bf_input(i, &size);
        else
            bf_output(i - reply.inputs, &size);
        append(&size, sizeof size);
    }
    return BF_OK;
}

static uint32_t set_input(const uint8_t *payload, uint32_t bytes)
{
    struct bf_input_data ask;
    copy(&ask, payload, sizeof ask);
    return job_input(ask.index, ask.offset, payload + sizeof ask, bytes - (uint32_t)sizeof ask);
}

static uint32_t fill_inputs(const uint8_t *payload, uint32_t bytes)
{
    struct bf_fill ask;
    copy(&ask, payload, bytes);
    return job_fill(ask.seed);
}

static uint32_t run_model(const uint8_t *payload, uint32_t bytes)
{
    struct bf_run ask;
    struct bf_run_reply reply = {0, 0, 0, 0};
    copy(&ask, payload, bytes);
    uint32_t status = job_run(&ask, &reply, kept + (HEADER_BYTES + sizeof reply) / 4u);
    if (status != BF_OK)
        return status;
    append(&reply, sizeof reply);
    kept_bytes += ask.flags ? 4u * ask.repetitions : 0; /* the ticks are there already */
    return BF_OK;
}

static uint32_t operator_ticks(const uint8_t *payload, uint32_t bytes)
{
    struct bf_operator_ticks ask;
    uint32_t count;
    const uint32_t *ticks = job_operators(&count);
    copy(&ask, payload, bytes);
    if (count == 0)
        return refuse(BF_WIRE_NOT_RUN, 0, 0);
    if (ask.first > count || ask.count > count - ask.first)
        return refuse(BF_BAD_REQUEST, ask.first + ask.count, count);
    if (ask.count > BF_CHUNK_BYTES / 4u)
        return refuse(BF_WIRE_TOO_MANY, ask.count, BF_CHUNK_BYTES / 4u);
    append(ticks + ask.first, 4u * ask.count);
    return BF_OK;
}

static uint32_t read_output(const uint8_t *payload, uint32_t bytes)
{
    struct bf_output_data ask;
    uint32_t size = 0;
    copy(&ask, payload, bytes);
    const uint8_t *data = job_output(ask.index, &size);
    if (!data)
        return job_output(0, &size) ? refuse(BF_BAD_REQUEST, ask.index, 0) : refuse(BF_WIRE_NOT_RUN, 0, 0);
    if (ask.offset > size || ask.bytes > size - ask.offset)
        return refuse(BF_BAD_REQUEST, ask.offset + ask.bytes, size);
    if (ask.bytes > BF_CHUNK_BYTES)
        return refuse(BF_WIRE_BAD_LENGTH, ask.bytes, BF_CHUNK_BYTES);
    append(data + ask.offset, ask.bytes);
    return BF_OK;
}

static uint32_t reset(const uint8_t *payload, uint32_t bytes)
{
    (void)payload, (void)bytes;
    session.resetting = 1;
    return BF_OK;
}

static const struct {
    uint32_t (*answer)(const uint8_t *payload, uint32_t bytes);
    uint16_t least, most; /* bytes of the payload */
} requests[] = {
    [BF_HELLO] = {hello, 0, 0},
    [BF_SLOT_ERASE] = {slot_erase, sizeof(struct bf_slot_erase), sizeof(struct bf_slot_erase)},
    [BF_SLOT_WRITE] = {slot_write, sizeof(struct bf_slot_write), sizeof(struct bf_slot_write) + BF_CHUNK_BYTES},
    [BF_SLOT_CRC] = {slot_crc, sizeof(struct bf_slot_crc), sizeof(struct bf_slot_crc)},
    [BF_OPEN] = {open_model, sizeof(struct bf_open), sizeof(struct bf_open)},
    [BF_INPUT] = {set_input, sizeof(struct bf_input_data), sizeof(struct bf_input_data) + BF_CHUNK_BYTES},
    [BF_FILL] = {fill_inputs, sizeof(struct bf_fill), sizeof(struct bf_fill)},
    [BF_RUN] = {run_model, sizeof(struct bf_run), sizeof(struct bf_run)},
    [BF_OPERATOR_TICKS] = {operator_ticks, sizeof(struct bf_operator_ticks), sizeof(struct bf_operator_ticks)},
    [BF_OUTPUT] = {read_output, sizeof(struct bf_output_data), sizeof(struct bf_output_data)},
    [BF_RESET] = {reset, 0, 0},
};

/* --- the session ----------------------------------------------------------------------------------------------------- */

static void finish(struct bf_header *header, uint32_t status)
{
    header->version = BF_WIRE_VERSION;
    header->command |= BF_REPLY;
    header->status = (uint8_t)status;
    header->reserved = 0;
}

/* Refuse without touching the kept reply: whoever sent this is not in the session. */
static void send_away(struct bf_header *header, uint32_t status, uint32_t value, uint32_t limit)
{
    uint8_t reply[HEADER_BYTES + sizeof(struct bf_refusal)];
    struct bf_refusal why = {value, limit};
    finish(header, status);
    copy(reply, header, HEADER_BYTES);
    copy(reply + HEADER_BYTES, &why, sizeof why);
    frame_send(reply, sizeof reply);
}

static void answer(struct bf_header *header, const uint8_t *payload, uint32_t bytes)
{
    uint32_t status;
    kept_bytes = HEADER_BYTES;
    if (header->command >= sizeof requests / sizeof requests[0] || !requests[header->command].answer)
        status = refuse(BF_WIRE_BAD_COMMAND, header->command, sizeof requests / sizeof requests[0] - 1u);
    else if (bytes < requests[header->command].least)
        status = refuse(BF_WIRE_BAD_LENGTH, bytes, requests[header->command].least);
    else if (bytes > requests[header->command].most)
        status = refuse(BF_WIRE_BAD_LENGTH, bytes, requests[header->command].most);
    else if (header->command >= BF_INPUT && header->command <= BF_OUTPUT && job_number() != session.model)
        status = refuse(BF_NO_MODEL, 0, 0); /* MLPerf's commands opened another, or none is open */
    else
        status = requests[header->command].answer(payload, bytes);
    if (status != BF_OK) {
        kept_bytes = HEADER_BYTES;
        append(&job_refusal, sizeof job_refusal);
    }
    finish(header, status);
    copy(kept, header, HEADER_BYTES);
    frame_send((const uint8_t *)kept, kept_bytes);
}

/* 1 when the bytes were a request, whatever became of it. */
static uint32_t take_frame(uint32_t encoded)
{
    struct bf_header header;
    uint32_t bytes = frame_decode(received, encoded);
    if (bytes < HEADER_BYTES)
        return 0;
    copy(&header, received, HEADER_BYTES);
    if (header.command & BF_REPLY)
        return 1; /* an echo of our own words */
    if (header.version != BF_WIRE_VERSION) {
        send_away(&header, BF_WIRE_BAD_VERSION, header.version, BF_WIRE_VERSION);
        return 1;
    }
    uint32_t same = session.open && header.session == session.number;
    if (!same && header.command != BF_HELLO) {
        send_away(&header, BF_WIRE_BAD_SESSION, header.session, session.open ? session.number : BF_NO_SESSION);
        return 1;
    }
    uint16_t ahead = (uint16_t)(header.request - session.request);
    if (same && ahead == 0 && kept_bytes) {
        frame_send((const uint8_t *)kept, kept_bytes);
        return 1;
    }
    if (same && ahead >= 0x8000u)
        return 1; /* came late; the host has gone on */
    if (!same)
        session.model = 0;
    session.open = 1;
    session.number = header.session;
    session.request = header.request;
    answer(&header, received + HEADER_BYTES, bytes - HEADER_BYTES);
    if (session.resetting) {
        uint32_t start = board_milliseconds();
        while (board_milliseconds() - start < 20u)
            ; /* the last byte is still in the shift register */
        session.resetting = 0;
        board_reset();
    }
    return 1;
}

/* --- the line -------------------------------------------------------------------------------------------------------- */

static void take_byte(uint8_t byte)
{
    line.quiet = 0;
    if (byte == 0) {
        uint32_t whole = line.in_frame && line.count && !line.overlong && take_frame(line.count);
        /* When this 0 ends no frame, it may begin one: the 0 before it was lost, or was noise. */
        line.in_frame = !whole;
        line.count = 0;
        line.overlong = 0;
        mlperf_forget();
    } else if (!line.in_frame) {
        mlperf_byte(byte);
    } else if (line.count < ENCODED_BYTES) {
        received[line.count++] = byte;
    } else {
        line.overlong = 1;
    }
}

/* A host that died within a frame must not make the line deaf for MLPerf's text. */
static void be_quiet(void)
{
    if (!line.in_frame)
        return;
    uint32_t now = board_milliseconds();
    if (!line.quiet) {
        line.quiet = 1;
        line.quiet_since = now;
    } else if (now - line.quiet_since >= BF_QUIET_MS) {
        line.in_frame = 0;
    }
}

void bf_service(void)
{
    int byte;
    while ((byte = board_read()) >= 0)
        take_byte((uint8_t)byte);
    be_quiet();
}

void bf_service_forever(void)
{
    for (;;)
        bf_service();
}
