/* The serial line to the ST-LINK's virtual COM port, polled: 8 data bits, no parity, one stop bit.
 * Two generations of one block: SR/DR (RM0090, RM0390, chapter USART) and ISR/RDR/TDR (RM0432, RM0440, RM0444,
 * RM0481, chapter USART); LPUART (its own chapter there) is the second with another divider. */
#include "board.h"
#include "registers.h"

#define GPIO_MODER (BF_UART_GPIO + 0x00u)
#define GPIO_OSPEEDR (BF_UART_GPIO + 0x08u)
#define GPIO_PUPDR (BF_UART_GPIO + 0x0Cu)
#define GPIO_AFR(pin) (BF_UART_GPIO + 0x20u + 4u * ((pin) >> 3))

#if defined(BF_UART_SR)
#define STATUS (BF_UART_ADDRESS + 0x00u)
#define RECEIVE (BF_UART_ADDRESS + 0x04u)
#define TRANSMIT (BF_UART_ADDRESS + 0x04u)
#define DIVIDER (BF_UART_ADDRESS + 0x08u)
#define CONTROL (BF_UART_ADDRESS + 0x0Cu)
#define ENABLE (BIT(13) | BIT(3) | BIT(2)) /* UE, TE, RE */
#else
#define CONTROL (BF_UART_ADDRESS + 0x00u)
#define DIVIDER (BF_UART_ADDRESS + 0x0Cu)
#define STATUS (BF_UART_ADDRESS + 0x1Cu)
#define CLEAR (BF_UART_ADDRESS + 0x20u)
#define RECEIVE (BF_UART_ADDRESS + 0x24u)
#define TRANSMIT (BF_UART_ADDRESS + 0x28u)
#define ENABLE (BIT(0) | BIT(3) | BIT(2) | (BF_UART_FIFO ? BIT(29) : 0u)) /* UE, TE, RE, FIFOEN */
#endif

#define OVERRUN BIT(3)
#define RECEIVED BIT(5)
#define TRANSMIT_EMPTY BIT(7)

#define ROUNDED(clock, baud) ((uint32_t)(((clock) + (baud) / 2u) / (baud)))
#if defined(BF_UART_LPUART)
#define DIVISOR ROUNDED(256ull * BF_UART_CLOCK_HZ, BF_UART_BAUD)
#else
#define DIVISOR ROUNDED(BF_UART_CLOCK_HZ, BF_UART_BAUD)
#endif

static uint32_t lost;

static void pin_init(uint32_t pin)
{
    set_field(GPIO_AFR(pin), 0xFu << (4u * (pin & 7u)), (uint32_t)BF_UART_AF << (4u * (pin & 7u)));
    set_field(GPIO_PUPDR, 3u << (2u * pin), 1u << (2u * pin));   /* pulled up: an open line reads idle */
    set_field(GPIO_OSPEEDR, 3u << (2u * pin), 1u << (2u * pin)); /* medium */
    set_field(GPIO_MODER, 3u << (2u * pin), 2u << (2u * pin));   /* alternate function */
}

void uart_init(void)
{
    set_bits(BF_UART_GPIO_ENABLE, BIT(BF_UART_GPIO_ENABLE_BIT));
    set_bits(BF_UART_ENABLE, BIT(BF_UART_ENABLE_BIT));
    (void)*reg(BF_UART_ENABLE); /* a clock needs two cycles before its block can be reached: read back */
    pin_init(BF_UART_TX_PIN);
    pin_init(BF_UART_RX_PIN);
    *reg(DIVIDER) = DIVISOR;
    *reg(CONTROL) = ENABLE;
}

int board_read(void)
{
    uint32_t status = *reg(STATUS);
    if (status & OVERRUN) {
        lost++;
#if defined(CLEAR)
        *reg(CLEAR) = OVERRUN;
#else
        if (!(status & RECEIVED))
            (void)*reg(RECEIVE); /* reading the status and then the data clears it */
#endif
    }
    return status & RECEIVED ? (int)(*reg(RECEIVE) & 0xFFu) : -1;
}

void board_write(const uint8_t *data, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++) {
        while (!(*reg(STATUS) & TRANSMIT_EMPTY))
            ;
        *reg(TRANSMIT) = data[i];
    }
}

uint32_t board_lost(void)
{
    uint32_t count = lost;
    lost = 0;
    return count;
}
