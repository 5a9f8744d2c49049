/* COBS: S. Cheshire and M. Baker, Consistent Overhead Byte Stuffing, IEEE/ACM Transactions on Networking 7(2), 1999. No
 * byte of a frame is 0, so a receiver that lost its place finds it again at the next 0. */
#include "frame.h"
#include "../boards/board.h"

uint32_t frame_crc32(uint32_t crc, const uint8_t *data, uint32_t bytes)
{
    /* Four bits at a time: 64 bytes of table, where eight bits would take 1 KiB of flash. */
    static const uint32_t table[16] = {
        0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u, 0x5005713Cu,
        0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu,
    };
    crc = ~crc;
    for (uint32_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        crc = (crc >> 4) ^ table[crc & 15u];
        crc = (crc >> 4) ^ table[crc & 15u];
    }
    return ~crc;
}

uint32_t frame_decode(uint8_t *data, uint32_t bytes)
{
    uint32_t in = 0, out = 0;
    while (in < bytes) {
        uint32_t code = data[in++];
        if (code == 0 || code - 1u > bytes - in)
            return 0;
        for (uint32_t i = 1; i < code; i++)
            data[out++] = data[in++];
        if (code < 255u && in < bytes)
            data[out++] = 0;
    }
    if (out < 4)
        return 0;
    out -= 4;
    uint32_t sent = data[out] | (uint32_t)data[out + 1] << 8 | (uint32_t)data[out + 2] << 16 | (uint32_t)data[out + 3] << 24;
    return frame_crc32(0, data, out) == sent ? out : 0;
}

struct sender {
    uint8_t block[256]; /* a code and up to 254 bytes */
    uint32_t count;     /* of bytes behind the code */
};

static void flush(struct sender *sender)
{
    sender->block[0] = (uint8_t)(sender->count + 1u);
    board_write(sender->block, sender->count + 1u);
    sender->count = 0;
}

static void put(struct sender *sender, uint8_t byte)
{
    if (byte == 0) {
        flush(sender);
        return;
    }
    sender->block[++sender->count] = byte;
    if (sender->count == 254u)
        flush(sender);
}

void frame_send(const uint8_t *data, uint32_t bytes)
{
    static const uint8_t zero = 0;
    struct sender sender;
    sender.count = 0;
    uint32_t crc = frame_crc32(0, data, bytes);
    board_write(&zero, 1);
    for (uint32_t i = 0; i < bytes; i++)
        put(&sender, data[i]);
    for (uint32_t i = 0; i < 4; i++)
        put(&sender, (uint8_t)(crc >> (8u * i)));
    flush(&sender);
    board_write(&zero, 1);
}
