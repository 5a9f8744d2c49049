/* The fast part of a virtual board: what happens at each basic block, and at each access to the serial line and the
 * cycle counter. hooks.py is the same in Python, field for field, for machines without a C compiler; machine.py owns the
 * struct. Counts are kept as running totals, so that reading the counter costs nothing however many blocks there are.
 *
 * A block is counted when it is entered, so a counter read in its middle counts it whole. Firmware reads its counter
 * through one function, so the excess is the same at both ends of an interval and cancels.
 */
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

enum { RUNNING = 0, IDLE = 1, OUTPUT = 2, FUEL = 3, RESET = 4, BROKEN = 5, TICK = 6 };

enum { RXNE = 1u << 5, TC = 1u << 6, TXE = 1u << 7, ACKNOWLEDGED = 3u << 21 }; /* SR and ISR: RM0090 30.6.1, RM0432 48.8.9 */

/* A status register is read once before each byte sent, and over and over only by firmware that waits for input. */
enum { POLLS_THAT_MEAN_WAITING = 3 };

struct block {
    uint64_t count, taken;
    uint32_t address, size;
    uint32_t instructions, cycles;
    uint32_t taken_cycles; /* more, when the branch at its end is taken */
    uint32_t conditional;
    uint32_t loaded, addresses; /* registers of a load at the end, and of one at the begin; 0: none */
};

struct slot {
    uint32_t address, block;
};

struct state {
    /* blocks */
    struct slot *slots; /* hash table of block + 1; 0 is empty */
    struct block *blocks;
    int32_t (*resolve)(uint32_t address, uint32_t size); /* index of a block not seen before, or -1 */
    int (*stop)(void *engine);
    uint32_t mask;
    uint32_t previous, previous_end; /* block + 1, 0: none */
    uint32_t reason;
    uint64_t instructions, cycles, fuel; /* fuel in halfwords of code */
    /* time: now = the sum of factor * cycles + line_cycles * lines between readings, each rounded, + idle. A reading ends at
     * a whole cycle, so what passes between two of them does not depend on what was before. */
    uint64_t time, cycles_read;
    double factor, line_cycles;
    const volatile uint32_t *lines; /* the firmware's bf_constant_lines, in the host's memory; 0: it has none */
    uint64_t line_total;
    uint32_t line_last;
    uint32_t idle_step;
    uint64_t idle;
    /* serial line */
    uint8_t *rx, *tx;
    uint32_t rx_head, rx_tail, rx_mask; /* ring */
    uint32_t tx_count, tx_wanted, tx_size;
    uint32_t polls; /* status reads in a row that found nothing */
    uint32_t status_at, read_at, write_at;
    uint64_t waits; /* empty polls until the run ends */
    uint32_t uart[64];
    /* counters: ARMv7-M ARM C1.6.5, C1.8; SysTick B3.3 */
    uint32_t demcr, dwt_control, dwt_frozen;
    uint32_t systick_control, systick_reload;
    uint64_t dwt_zero, systick_zero;
    uint64_t systick_flagged, systick_served; /* wraps that COUNTFLAG told of, and that the interrupt handler ran for */
    uint64_t alarm; /* cycles + idle at which to look for a SysTick interrupt */
};

EXPORT uint64_t bf_now(struct state *s)
{
    uint32_t lines = 0;
    if (s->lines) {
        lines = *s->lines - s->line_last;
        s->line_last += lines;
        s->line_total += lines;
    }
    s->time += (uint64_t)(s->factor * (double)(s->cycles - s->cycles_read) + s->line_cycles * (double)lines + 0.5);
    s->cycles_read = s->cycles;
    return s->time + s->idle;
}

static uint32_t find(struct state *s, uint32_t address, uint32_t size)
{
    uint32_t i = (address >> 1) & s->mask;
    while (s->slots[i].block && s->slots[i].address != address)
        i = (i + 1) & s->mask;
    uint32_t known = s->slots[i].block;
    if (known && s->blocks[known - 1].size == size)
        return known;
    int32_t found = s->resolve(address, size);
    if (found < 0)
        return 0;
    s->slots[i].address = address;
    s->slots[i].block = (uint32_t)found + 1;
    return (uint32_t)found + 1;
}

EXPORT void bf_block(void *engine, uint64_t address, uint32_t size, struct state *s)
{
    /* The engine is stopped only here, before a block runs. From a peripheral's callback it would stop in the middle of
     * an instruction, and do that instruction's store or load a second time when it goes on. */
    if (!s->reason && s->fuel <= size / 2)
        s->reason = FUEL;
    else if (!s->reason && s->cycles + s->idle >= s->alarm)
        s->reason = TICK;
    if (s->reason) {
        s->stop(engine);
        return;
    }
    struct block *from = s->previous ? &s->blocks[s->previous - 1] : 0;
    int joined = from && (uint32_t)address == s->previous_end;
    if (from && !joined) {
        from->taken++;
        s->cycles += from->taken_cycles;
    }
    uint32_t here = find(s, (uint32_t)address, size);
    s->previous = here;
    s->previous_end = (uint32_t)address + size;
    if (!here) {
        s->reason = BROKEN;
        s->stop(engine);
        return;
    }
    struct block *block = &s->blocks[here - 1];
    block->count++;
    s->instructions += block->instructions;
    s->cycles += block->cycles;
    /* The engine ends blocks at its pages, too; loads on both sides of such an end follow each other all the same. */
    if (joined && from->loaded && block->addresses && !(from->loaded & block->addresses))
        s->cycles--;
    s->fuel -= size / 2;
}

EXPORT uint64_t bf_uart_read(void *engine, uint64_t offset, unsigned size, struct state *s)
{
    (void)engine, (void)size;
    if (offset == s->status_at) {
        if (s->rx_head != s->rx_tail) {
            s->polls = 0;
            return RXNE | TXE | TC | ACKNOWLEDGED;
        }
        if (++s->polls >= POLLS_THAT_MEAN_WAITING) {
            s->idle += s->idle_step;
            if (s->waits && --s->waits == 0 && !s->reason)
                s->reason = IDLE;
        }
        return TXE | TC | ACKNOWLEDGED;
    }
    s->polls = 0;
    if (offset == s->read_at) {
        if (s->rx_head == s->rx_tail)
            return 0;
        uint8_t byte = s->rx[s->rx_tail];
        s->rx_tail = (s->rx_tail + 1) & s->rx_mask;
        return byte;
    }
    return s->uart[(offset >> 2) & 63];
}

EXPORT void bf_uart_write(void *engine, uint64_t offset, unsigned size, uint64_t value, struct state *s)
{
    (void)engine, (void)size;
    s->polls = 0;
    if (offset != s->write_at) {
        s->uart[(offset >> 2) & 63] = (uint32_t)value;
        return;
    }
    if (s->tx_count < s->tx_size)
        s->tx[s->tx_count++] = (uint8_t)value;
    if (s->tx_count >= s->tx_wanted && !s->reason)
        s->reason = OUTPUT;
}

static int dwt_runs(const struct state *s)
{
    return (s->demcr >> 24 & 1) && (s->dwt_control & 1); /* TRCENA, CYCCNTENA */
}

static uint32_t dwt_count(struct state *s)
{
    return dwt_runs(s) ? (uint32_t)(bf_now(s) - s->dwt_zero) : s->dwt_frozen;
}

/* DWT, from 0xE0001000. */
EXPORT uint64_t bf_dwt_read(void *engine, uint64_t offset, unsigned size, struct state *s)
{
    (void)engine, (void)size;
    return offset == 4 ? dwt_count(s) : offset == 0 ? s->dwt_control : 0;
}

static void dwt_set(struct state *s, uint32_t demcr, uint32_t control, uint32_t count)
{
    s->demcr = demcr;
    s->dwt_control = control;
    s->dwt_frozen = count;
    s->dwt_zero = bf_now(s) - count;
}

EXPORT void bf_dwt_write(void *engine, uint64_t offset, unsigned size, uint64_t value, struct state *s)
{
    (void)engine, (void)size;
    if (offset == 0)
        dwt_set(s, s->demcr, (uint32_t)value, dwt_count(s));
    else if (offset == 4)
        dwt_set(s, s->demcr, s->dwt_control, (uint32_t)value);
}

/* SysTick's 24 bits count down; a wrap is counted where the counter is loaded again. */
static uint64_t systick_elapsed(struct state *s)
{
    if (!(s->systick_control & 1))
        return 0;
    uint64_t passed = bf_now(s) - s->systick_zero;
    return s->systick_control & 4 ? passed : passed / 8; /* CLKSOURCE */
}

static uint64_t systick_wraps(struct state *s)
{
    return systick_elapsed(s) / ((uint64_t)s->systick_reload + 1);
}

static void systick_restart(struct state *s)
{
    s->systick_zero = bf_now(s);
    s->systick_flagged = s->systick_served = 0;
}

/* Whether an interrupt is due; if not, when to look again. Time passes at least as fast as cycles at factor 1, so for a
 * factor below 1 the first look comes early, and for one above it late by the difference. */
EXPORT uint32_t bf_systick_due(struct state *s)
{
    s->alarm = UINT64_MAX;
    if ((s->systick_control & 3) != 3)
        return 0;
    if (systick_wraps(s) > s->systick_served) {
        s->alarm = 0; /* until it is served */
        return 1;
    }
    uint64_t period = ((uint64_t)s->systick_reload + 1) * (s->systick_control & 4 ? 1 : 8);
    s->alarm = s->cycles + s->idle + period - (bf_now(s) - s->systick_zero) % period;
    return 0;
}

EXPORT void bf_systick_serve(struct state *s)
{
    s->systick_served = systick_wraps(s);
    bf_systick_due(s);
}

/* System control space, from 0xE000E000. */
EXPORT uint64_t bf_scs_read(void *engine, uint64_t offset, unsigned size, struct state *s)
{
    (void)engine, (void)size;
    switch (offset) {
    case 0x10: { /* CSR: COUNTFLAG is cleared by reading */
        uint64_t wraps = systick_wraps(s);
        uint32_t flag = wraps != s->systick_flagged;
        s->systick_flagged = wraps;
        return s->systick_control | flag << 16;
    }
    case 0x14:
        return s->systick_reload;
    case 0x18:
        return s->systick_reload - systick_elapsed(s) % ((uint64_t)s->systick_reload + 1);
    case 0xD04: /* ICSR: PENDSTSET */
        return (uint32_t)(systick_wraps(s) > s->systick_served && (s->systick_control & 2)) << 26;
    case 0xDFC:
        return s->demcr;
    default:
        return 0;
    }
}

EXPORT void bf_scs_write(void *engine, uint64_t offset, unsigned size, uint64_t value, struct state *s)
{
    (void)engine, (void)size;
    switch (offset) {
    case 0x10:
        if ((value & 1) && !(s->systick_control & 1))
            systick_restart(s);
        s->systick_control = (uint32_t)value & 7;
        bf_systick_due(s);
        break;
    case 0x14:
        s->systick_reload = (uint32_t)value & 0xffffff;
        bf_systick_due(s);
        break;
    case 0x18:
        systick_restart(s);
        bf_systick_due(s);
        break;
    case 0xD04:
        if (value >> 25 & 1) /* PENDSTCLR */
            bf_systick_serve(s);
        break;
    case 0xDFC:
        dwt_set(s, (uint32_t)value, s->dwt_control, dwt_count(s));
        break;
    case 0xD0C: /* AIRCR: key and SYSRESETREQ, ARMv7-M ARM B3.2.6 */
        if ((value >> 16) == 0x05FA && (value & 4))
            s->reason = RESET;
        break;
    default:
        break;
    }
}

/* So that Python can see that its mirror of the struct has the same layout. */
EXPORT uint32_t bf_state_bytes(void)
{
    return (uint32_t)(sizeof(struct state) * 1000 + sizeof(struct block));
}
