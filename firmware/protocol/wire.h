/* The wire protocol, version 1: what docs/wire-protocol.md says, as C. targets/mcu/wire.py is the host's side, and
 * tests/targets/mcu/test_wire_page.py compares the three.
 *
 * A frame is 00, COBS(header, payload, CRC-32), 00; numbers are little-endian. Every struct below holds 32-bit words only,
 * so its layout is the same for every compiler. */
#ifndef BF_WIRE_H
#define BF_WIRE_H
#include <stdint.h>

#define BF_WIRE_VERSION 1u
#define BF_CHUNK_BYTES 512u    /* data of one frame, beside the words before it */
#define BF_MAX_REPETITIONS 64u /* of one RUN: its ticks travel in one reply */
#define BF_MAX_OPERATORS 256u  /* whose ticks are kept */
#define BF_MAX_TENSORS 64u     /* inputs and outputs of a model */
#define BF_QUIET_MS 1000u      /* a frame that stops for so long is given up */

struct bf_header {
    uint8_t version;
    uint8_t command; /* of the request; a reply has BF_REPLY set */
    uint16_t session;
    uint16_t request;
    uint8_t status; /* 0 in a request */
    uint8_t reserved;
};

#define BF_REPLY 0x80u
#define BF_NO_SESSION 0xFFFFFFFFu /* limit of BF_WIRE_BAD_SESSION where none is open: the board has started anew */

enum bf_command {
    BF_HELLO = 1,
    BF_SLOT_ERASE = 2,
    BF_SLOT_WRITE = 3,
    BF_SLOT_CRC = 4,
    BF_OPEN = 5,
    BF_INPUT = 6,
    BF_FILL = 7,
    BF_RUN = 8,
    BF_OPERATOR_TICKS = 9,
    BF_OUTPUT = 10,
    BF_RESET = 11,
};

/* Statuses below 16 are those of runtime/engine.h. A reply with one that is not 0 carries struct bf_refusal. */
enum bf_wire_status {
    BF_WIRE_BAD_VERSION = 16,     /* the request is of another protocol version */
    BF_WIRE_BAD_COMMAND = 17,     /* no such command */
    BF_WIRE_BAD_LENGTH = 18,      /* the payload is too short or too long for the command */
    BF_WIRE_BAD_SESSION = 19,     /* no HELLO since the start, or another host said one */
    BF_WIRE_SLOT_RANGE = 20,      /* outside of the slot, or not at multiples of the page or write unit */
    BF_WIRE_FLASH = 21,           /* the flash controller refused, or the flash reads otherwise than written */
    BF_WIRE_NO_INPUT = 22,        /* the inputs are not set, or spent by an earlier run */
    BF_WIRE_NOT_RUN = 23,         /* nothing has run since the model was opened or its inputs were set */
    BF_WIRE_TICKS_STUCK = 24,     /* the cycle counter stands still */
    BF_WIRE_OUTPUTS_DIFFER = 25,  /* the same inputs gave different outputs in two repetitions */
    BF_WIRE_TOO_MANY = 26,        /* operators, repetitions or tensors */
};

struct bf_refusal {
    uint32_t value; /* what was wrong: a size, an offset, a status register */
    uint32_t limit; /* what would have been right, or 0 */
};

/* Followed by text, each with a 0 behind it: board, tick source, engine, its version, fingerprint of the firmware. */
struct bf_hello_reply {
    uint32_t clock_hz;
    uint32_t ticks_ok;
    uint32_t slot_bytes;
    uint32_t page_bytes;
    uint32_t write_bytes;
    uint32_t arena_bytes;
    uint32_t chunk_bytes;
    uint32_t max_repetitions;
    uint32_t max_operators;
    uint32_t lost_bytes; /* by overruns of the line since the last HELLO */
    uint32_t faulted;    /* 1: a fault ended the program before this start; the next four words say which */
    uint32_t fault_program_counter;
    uint32_t fault_link_register;
    uint32_t fault_status;
    uint32_t fault_address;
};

struct bf_slot_erase {
    uint32_t offset;
    uint32_t bytes;
};

struct bf_slot_write { /* followed by the data */
    uint32_t offset;
};

struct bf_slot_crc {
    uint32_t offset;
    uint32_t bytes;
};

struct bf_slot_crc_reply {
    uint32_t crc32;
};

struct bf_open {
    uint32_t offset;
    uint32_t bytes;
    uint32_t keep_bytes; /* of the arena's end, where the inputs are kept from run to run; 0: a run spends them */
};

struct bf_open_reply { /* followed by a word for each input and output: its bytes */
    uint32_t arena_bytes;
    uint32_t operators;
    uint32_t inputs;
    uint32_t outputs;
};

struct bf_input_data { /* followed by the data */
    uint32_t index;
    uint32_t offset;
};

struct bf_fill {
    uint32_t seed;
};

#define BF_RUN_TIMED 1u     /* read the cycle counter around every repetition */
#define BF_RUN_OPERATORS 2u /* and around every operator */

struct bf_run {
    uint32_t warmup;
    uint32_t repetitions;
    uint32_t flags;
};

struct bf_run_reply { /* followed, when timed, by a word for each repetition: its ticks */
    uint32_t input_crc32; /* of all inputs in order, as they were before the first invoke */
    uint32_t output_crc32;
    uint32_t stack_bytes;
    uint32_t constant_lines; /* read from flash by the last repetition */
};

struct bf_operator_ticks { /* the reply is a word for each operator */
    uint32_t first;
    uint32_t count;
};

struct bf_output_data { /* the reply is the data */
    uint32_t index;
    uint32_t offset;
    uint32_t bytes;
};
#endif
