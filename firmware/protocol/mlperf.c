/* The MLPerf Tiny (EEMBC) text commands that a runner needs to drive a board, on the same line as the frames. What they
 * say is in docs/wire-protocol.md, "MLPerf Tiny"; the model is the one at the start of the slot. */
#include "../boards/board.h"
#include "job.h"
#include "service.h"

#define COMMAND_BYTES 80u /* as in the reference firmware */
#define DEFAULT_WARMUP 10u

static struct {
    char text[COMMAND_BYTES + 1];
    uint32_t count, overlong;
} command;

static struct {
    uint32_t model;            /* job_number() of our opening */
    uint32_t expected, loaded; /* bytes of the input; it is complete when they are equal */
    uint32_t ran;
} run;

/* Models whose input the runner sends as unsigned pixels; all others get their bytes as they are. */
static const struct {
    const char *name;
    uint32_t input_bytes, unsigned_input;
} models[] = {
    {"kws01", 49 * 10, 0},
    {"vww01", 96 * 96 * 3, 1},
    {"ad01", 640, 0},
    {"ic01", 32 * 32 * 3, 1},
};
#define MODELS (sizeof models / sizeof models[0])

/* --- text ------------------------------------------------------------------------------------------------------------ */

static void say(const char *text)
{
    uint32_t length = 0;
    while (text[length])
        length++;
    board_write((const uint8_t *)text, length);
}

/* Divide in place and give the rest; 64-bit division is a library call on these cores. */
static uint32_t divide(uint64_t *value, uint32_t by)
{
    uint64_t rest = 0, result = 0;
    for (uint32_t bit = 64; bit-- > 0;) {
        rest = rest << 1 | (*value >> bit & 1u);
        result <<= 1;
        if (rest >= by) {
            rest -= by;
            result |= 1u;
        }
    }
    *value = result;
    return (uint32_t)rest;
}

static void say_number(uint64_t value)
{
    char text[21];
    uint32_t at = sizeof text - 1;
    text[at] = 0;
    do
        text[--at] = (char)('0' + divide(&value, 10));
    while (value);
    say(text + at);
}

static void say_error(const char *text)
{
    say("e-[");
    say(text);
    say("]\r\n");
}

static void say_lap(uint64_t microseconds)
{
    say("m-lap-us-");
    say_number(microseconds);
    say("\r\n");
}

/* The word at *text, which is moved behind it and its spaces; 0 when there is none. */
static const char *word(char **text)
{
    char *start = *text;
    while (*start == ' ')
        start++;
    char *end = start;
    while (*end && *end != ' ')
        end++;
    *text = *end ? end + 1 : end;
    *end = 0;
    return *start ? start : 0;
}

static uint32_t same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* A decimal number without sign; 0 when it is none, or above 32 bits. */
static uint32_t number(const char *text, uint32_t *value)
{
    uint32_t sum = 0;
    for (; *text; text++) {
        uint32_t digit = (uint32_t)(*text - '0');
        if (digit > 9 || sum > (0xFFFFFFFFu - digit) / 10u)
            return 0;
        sum = sum * 10u + digit;
    }
    *value = sum;
    return 1;
}

static int32_t hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* --- the model ------------------------------------------------------------------------------------------------------- */

static uint32_t is_open(void)
{
    return run.model && job_number() == run.model;
}

/* Open the model at the start of the slot, with a place that keeps its input. 1, or an error has been said. */
static uint32_t ready(void)
{
    struct bf_model model;
    if (is_open())
        return 1;
    run.model = 0;
    run.expected = run.loaded = run.ran = 0;
    uint32_t status = job_open(0, board_slot_bytes(), 0, &model);
    if (status == BF_OK && model.inputs == 1)
        status = job_open(0, board_slot_bytes(), job_input_bytes(), &model);
    else if (status == BF_OK)
        status = BF_UNSUPPORTED;
    if (status == BF_OK) {
        run.model = job_number();
        return 1;
    }
    job_close();
    if (status == BF_NO_MEMORY)
        say_error("The model and its input do not fit into the RAM");
    else if (status == BF_UNSUPPORTED)
        say_error("The model has an operator or inputs that this firmware cannot run");
    else
        say_error("No model at the start of the slot");
    return 0;
}

static uint32_t kind(void)
{
    uint32_t i = 0;
    while (i < MODELS && models[i].input_bytes != job_input_bytes())
        i++;
    return i;
}

static uint8_t sign(void)
{
    uint32_t i = kind();
    return i < MODELS && models[i].unsigned_input ? 0x80 : 0;
}

/* --- commands -------------------------------------------------------------------------------------------------------- */

static void profile(void)
{
    if (!ready())
        return;
    uint32_t i = kind();
    say("m-profile-[ULPMark for tinyML Firmware V0.0.1]\r\nm-model-[");
    say(i < MODELS ? models[i].name : "unknown");
    say("]\r\n");
}

static void help(void)
{
    say("boardfit, MLPerf Tiny subset. Commands end in %.\r\n"
        "name              who this is\r\n"
        "profile           profile and model\r\n"
        "timestamp         microseconds since the start\r\n"
        "db load N         expect N bytes of input\r\n"
        "db HH..           input bytes, at most 31\r\n"
        "db print          what was loaded\r\n"
        "infer N [W]       W warm-ups (10), then N inferences\r\n"
        "results           outputs of the last inference\r\n");
}

static void load(char *rest)
{
    uint32_t bytes;
    const char *text = word(&rest);
    if (!text || !number(text, &bytes) || bytes == 0) {
        say_error("Command 'db load' requires a number of bytes");
        return;
    }
    if (!ready())
        return;
    if (bytes != job_input_bytes()) {
        say("e-[The model's input has ");
        say_number(job_input_bytes());
        say(" bytes]\r\n");
        return;
    }
    run.expected = bytes;
    run.loaded = run.ran = 0;
    say("m-[Expecting ");
    say_number(bytes);
    say(" bytes]\r\n");
}

static void print(void)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *data = is_open() ? job_kept_inputs() : 0;
    if (!data)
        return;
    for (uint32_t i = 0; i < run.loaded; i++) {
        uint8_t byte = data[i] ^ sign();
        char text[4] = {'-', digits[byte >> 4], digits[byte & 15], 0};
        if (i % 8 == 0)
            say("m-buffer");
        say(text);
        if (i % 8 == 7 || i + 1 == run.loaded)
            say("\r\n");
    }
}

static void hex(const char *text)
{
    uint8_t bytes[COMMAND_BYTES / 2];
    uint32_t digits = 0;
    for (; text[digits]; digits++) {
        int32_t value = hex_digit(text[digits]);
        if (value < 0) {
            char wrong[2] = {text[digits], 0};
            say("e-[Invalid hex digit '");
            say(wrong);
            say("']\r\n");
            return;
        }
        uint8_t high = digits % 2 ? bytes[digits / 2] : 0; /* the command is at most 80 characters: 40 bytes */
        bytes[digits / 2] = (uint8_t)(high << 4 | value);
    }
    if (digits % 2) {
        say_error("Insufficent number of hex digits"); /* spelled as runners know it */
        return;
    }
    if (!is_open() || run.loaded == run.expected) {
        say_error("No 'db load' is under way");
        return;
    }
    if (digits / 2 > run.expected - run.loaded) {
        say_error("More bytes than 'db load' said");
        return;
    }
    for (uint32_t i = 0; i < digits / 2; i++)
        bytes[i] ^= sign();
    if (job_input(0, run.loaded, bytes, digits / 2) != BF_OK) {
        say_error("The model was closed");
        return;
    }
    run.loaded += digits / 2;
    if (run.loaded == run.expected)
        say("m-load-done\r\n");
}

static void db(char *rest)
{
    const char *text = word(&rest);
    if (!text)
        say_error("Command 'db' requires a subcommand");
    else if (same(text, "load"))
        load(rest);
    else if (same(text, "print"))
        print();
    else
        hex(text);
}

static void results(void)
{
    uint32_t bytes = 0;
    const uint8_t *data = is_open() && run.ran ? job_output(0, &bytes) : 0;
    if (!data) {
        say_error("No results: run 'infer' first");
        return;
    }
    /* (q + 128) / 256 is what an int8 softmax means (TFLite's quantisation specification); three decimals. */
    say("m-results-[");
    for (uint32_t i = 0; i < bytes; i++) {
        uint32_t thousandths = ((data[i] ^ 0x80u) * 1000u + 128u) / 256u;
        char digits[7] = {'0', '.', (char)('0' + thousandths / 100), (char)('0' + thousandths / 10 % 10),
                          (char)('0' + thousandths % 10), i + 1 < bytes ? ',' : 0, 0};
        say(digits);
    }
    say("]\r\n");
}

static uint32_t invoke(uint32_t repetitions, uint32_t timed, uint64_t *ticks)
{
    uint32_t each[BF_MAX_REPETITIONS];
    struct bf_run ask = {0, repetitions, timed ? BF_RUN_TIMED : 0};
    struct bf_run_reply reply;
    uint32_t status = job_run(&ask, &reply, each);
    for (uint32_t i = 0; status == BF_OK && timed && i < repetitions; i++)
        *ticks += each[i];
    if (status == BF_WIRE_TICKS_STUCK)
        say_error("The cycle counter stands still");
    else if (status == BF_WIRE_OUTPUTS_DIFFER)
        say_error("Outputs differ between inferences");
    else if (status != BF_OK)
        say_error("The inference failed");
    return status == BF_OK;
}

static void infer(char *rest)
{
    uint32_t count, warmup = DEFAULT_WARMUP;
    const char *first = word(&rest);
    const char *second = first ? word(&rest) : 0;
    if (!first || !number(first, &count) || count == 0) {
        say_error("Inference iterations must be >0");
        return;
    }
    if (second && !number(second, &warmup)) {
        say_error("Warm-up iterations must be a number");
        return;
    }
    if (!ready())
        return;
    if (run.expected == 0 || run.loaded != run.expected) {
        say_error("No input: use 'db load' first");
        return;
    }
    uint64_t ticks = 0;
    run.ran = 0;
    say("m-warmup-start-");
    say_number(warmup);
    say("\r\n");
    for (uint32_t i = 0; i < warmup; i++)
        if (!invoke(1, 0, 0))
            return;
    say("m-warmup-done\r\nm-infer-start-");
    say_number(count);
    say("\r\n");
    uint64_t start = (uint64_t)board_milliseconds() * 1000u;
    for (uint32_t left = count; left;) {
        uint32_t now = left < BF_MAX_REPETITIONS ? left : BF_MAX_REPETITIONS;
        if (!invoke(now, 1, &ticks))
            return;
        left -= now;
    }
    /* The counter's cycles of the inferences alone: what lies between them does not count. */
    uint64_t seconds = ticks;
    uint64_t passed = (uint64_t)divide(&seconds, board_clock_hz) * 1000000u;
    divide(&passed, board_clock_hz);
    run.ran = 1;
    say_lap(start);
    say_lap(start + seconds * 1000000u + passed);
    say("m-infer-done\r\n");
    results();
}

static void obey(char *text)
{
    const char *name = word(&text);
    if (!name) {
        say_error("Empty command");
    } else if (same(name, "name")) {
        say("m-name-dut-[");
        say(board_name);
        say("]\r\n");
    } else if (same(name, "profile")) {
        profile();
    } else if (same(name, "timestamp")) {
        say_lap((uint64_t)board_milliseconds() * 1000u);
    } else if (same(name, "help")) {
        help();
    } else if (same(name, "db")) {
        db(text);
    } else if (same(name, "infer")) {
        infer(text);
    } else if (same(name, "results")) {
        results();
    } else {
        say("e-[Unknown command: ");
        say(name);
        say("]\r\n");
    }
}

void mlperf_forget(void)
{
    command.count = 0;
    command.overlong = 0;
}

void mlperf_byte(uint8_t byte)
{
    if (byte == '\r' || byte == '\n')
        return;
    if (byte != '%') {
        /* What is no text is line noise, or a frame whose start was lost: shown as '?', and never a command's name. */
        if (command.count < COMMAND_BYTES)
            command.text[command.count++] = byte >= ' ' && byte < 127 ? (char)byte : '?';
        else
            command.overlong = 1;
        return;
    }
    command.text[command.count] = 0;
    if (command.overlong)
        say_error("Command is longer than 80 characters");
    else
        obey(command.text);
    mlperf_forget();
    say("m-ready\r\n");
}
