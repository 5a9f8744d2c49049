/* The firmware as a Linux process, for tests: the line is stdin and stdout, the slot a file in memory with the manners of
 * flash, the cycle counter a sequence of its own. Arguments are pairs of a name and a number, all optional:
 *
 *     slot, arena   bytes                                     stuck 1        the cycle counter stands still
 *     slow N        wait N ms before each write               die-read N     end after N bytes were read
 *     mute N        N bytes are written, further ones lost    die-write N    end after N bytes were written
 *     fault N       a fault at N came before this start       flash-fails N  the controller refuses to write at N
 *                                                             flash-lies N   a bit of the slot's byte N stays 1
 */
#define _GNU_SOURCE
#include "board.h"
#include "../protocol/service.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NOWHERE 0xFFFFFFFF
#define STACK_BYTES (1u << 20)
#define PAINT 0xA5u
#define SLOT_FD "BOARDFIT_SLOT_FD" /* flash outlives a reset, which is an exec */

enum { SLOT, ARENA, STUCK, SLOW, MUTE, DIE_READ, DIE_WRITE, FAULT, FLASH_FAILS, FLASH_LIES, OPTIONS };
static const char *const names[OPTIONS] = {"slot",     "arena",     "stuck", "slow",        "mute",
                                           "die-read", "die-write", "fault", "flash-fails", "flash-lies"};
static uint32_t option[OPTIONS] = {1 << 18, 1 << 16, 0, 0, NOWHERE, NOWHERE, NOWHERE, 0, NOWHERE, NOWHERE};

const char board_name[] = "host";
const char board_tick_source[] = "sequence";
const uint32_t board_clock_hz = 100000000;
const uint32_t board_slot_page_bytes = 4096;
const uint32_t board_slot_write_bytes = 8;

static char **arguments;
static uint8_t *slot, *arena, *stack;
static uint32_t bytes_read, bytes_written;

static void fail(const char *what)
{
    perror(what);
    _exit(2);
}

/* --- line ------------------------------------------------------------------------------------------------------------ */

int board_read(void)
{
    static uint8_t buffer[4096];
    static ssize_t count, at;
    if (at == count) {
        struct pollfd line = {0, POLLIN, 0};
        if (poll(&line, 1, 5) <= 0) /* not 0, or an idle board would take a whole processor */
            return -1;
        count = read(0, buffer, sizeof buffer);
        at = 0;
        if (count <= 0)
            _exit(0); /* the host has gone */
    }
    if (bytes_read++ == option[DIE_READ])
        _exit(3);
    return buffer[at++];
}

void board_write(const uint8_t *data, uint32_t bytes)
{
    if (option[SLOW])
        usleep(1000u * option[SLOW]);
    for (uint32_t i = 0; i < bytes;) {
        uint32_t now = bytes - i;
        if (option[DIE_WRITE] != NOWHERE || option[MUTE] != NOWHERE)
            now = 1;
        if (bytes_written == option[DIE_WRITE])
            _exit(3);
        if (bytes_written < option[MUTE]) {
            ssize_t done = write(1, data + i, now);
            if (done <= 0)
                _exit(0);
            now = (uint32_t)done;
        }
        bytes_written += now;
        i += now;
    }
}

uint32_t board_lost(void)
{
    return 0;
}

/* --- time ------------------------------------------------------------------------------------------------------------ */

/* Not a clock: the same steps on every machine, of unequal length, and over the wrap of 32 bits soon after the start. */
uint32_t board_ticks(void)
{
    static uint32_t ticks = 0xFFFFF000u, step = 1;
    if (option[STUCK])
        return ticks;
    step = step * 1664525u + 1013904223u;
    ticks += 1000u + (step >> 26);
    return ticks;
}

uint32_t board_ticks_ok(void)
{
    return !option[STUCK];
}

uint32_t board_milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)(now.tv_sec * 1000 + now.tv_nsec / 1000000);
}

/* --- flash ----------------------------------------------------------------------------------------------------------- */

const uint8_t *board_slot(void)
{
    return slot;
}

uint32_t board_slot_bytes(void)
{
    return option[SLOT];
}

static uint32_t in_slot(uint32_t offset, uint32_t bytes, uint32_t unit)
{
    return offset <= option[SLOT] && bytes <= option[SLOT] - offset && offset % unit == 0 && bytes % unit == 0;
}

uint32_t board_slot_erase(uint32_t offset, uint32_t bytes)
{
    if (!in_slot(offset, bytes, board_slot_page_bytes))
        return BOARD_SLOT_RANGE;
    memset(slot + offset, 0xFF, bytes);
    return 0;
}

/* STM32L4's manners (RM0432 section 3.3.7): a unit is written once between two erasures, as a whole. */
uint32_t board_slot_write(uint32_t offset, const uint8_t *data, uint32_t bytes)
{
    if (!in_slot(offset, bytes, board_slot_write_bytes))
        return BOARD_SLOT_RANGE;
    for (uint32_t i = 0; i < bytes; i++) {
        if (offset + i == option[FLASH_FAILS])
            return 1u << 4; /* WRPERR */
        if (slot[offset + i] != 0xFF)
            return 1u << 3; /* PROGERR */
        slot[offset + i] = data[i];
        if (offset + i == option[FLASH_LIES])
            slot[offset + i] |= 1;
    }
    return memcmp(slot + offset, data, bytes) ? BOARD_SLOT_VERIFY : 0;
}

static void open_slot(void)
{
    const char *open = getenv(SLOT_FD);
    int fd = open ? atoi(open) : memfd_create("slot", 0);
    if (fd < 0 || (!open && ftruncate(fd, option[SLOT])))
        fail("slot");
    slot = mmap(NULL, option[SLOT], PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (slot == MAP_FAILED)
        fail("slot");
    if (!open) {
        char text[16];
        memset(slot, 0xFF, option[SLOT]);
        snprintf(text, sizeof text, "%d", fd);
        setenv(SLOT_FD, text, 1);
    }
}

/* --- RAM ------------------------------------------------------------------------------------------------------------- */

uint8_t *board_arena(void)
{
    return arena;
}

uint32_t board_arena_bytes(void)
{
    return option[ARENA];
}

/* The service runs on a stack of its own, so that its depth can be painted and counted as on a board. What lies below the
 * frames in use belongs to nobody, which the sanitizer cannot know. */
__attribute__((no_sanitize("address"), noinline)) void board_stack_paint(void)
{
    volatile uint8_t *end = (uint8_t *)__builtin_frame_address(0) - 512;
    for (volatile uint8_t *at = stack; at < end; at++)
        *at = PAINT;
}

__attribute__((no_sanitize("address"), noinline)) uint32_t board_stack_used(void)
{
    uint32_t at = 0;
    while (at < STACK_BYTES && ((volatile uint8_t *)stack)[at] == PAINT)
        at++;
    return STACK_BYTES - at;
}

/* --- start ----------------------------------------------------------------------------------------------------------- */

uint32_t board_fault(struct board_fault *fault)
{
    if (!option[FAULT])
        return 0;
    *fault = (struct board_fault){option[FAULT], 0x08000101, 1u << 17, 0};
    option[FAULT] = 0;
    return 1;
}

void board_reset(void)
{
    execv("/proc/self/exe", arguments);
    fail("reset");
}

void board_init(void)
{
    open_slot();
    arena = mmap(NULL, option[ARENA], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED || stack == MAP_FAILED)
        fail("memory");
}

static void *serve(void *nothing)
{
    fputs("ready\n", stderr); /* a test that waits for it need not guess how long a process takes to start */
    bf_service_forever();
    return nothing;
}

int main(int count, char **given)
{
    arguments = given;
    for (int i = 1; i < count; i += 2) {
        uint32_t which = 0;
        while (which < OPTIONS && strcmp(given[i], names[which]))
            which++;
        if (which == OPTIONS || i + 1 == count) {
            fprintf(stderr, "no such option, or no value: %s\n", given[i]);
            return 2;
        }
        option[which] = (uint32_t)strtoul(given[i + 1], NULL, 0);
    }
    signal(SIGPIPE, SIG_IGN); /* the host has gone: board_write sees it */
    board_init();
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    if (pthread_attr_setstack(&attributes, stack, STACK_BYTES) || pthread_create(&thread, &attributes, serve, NULL))
        fail("thread");
    pthread_join(thread, NULL);
    return 0;
}
