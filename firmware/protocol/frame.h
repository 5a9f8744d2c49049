/* Frames on the wire: COBS between zero bytes, CRC-32 at the end (docs/wire-protocol.md, "Frame"). */
#ifndef BF_FRAME_H
#define BF_FRAME_H
#include <stdint.h>

/* CRC-32 of IEEE 802.3, as zlib's; start with 0, feed the last result to continue. */
uint32_t frame_crc32(uint32_t crc, const uint8_t *data, uint32_t bytes);

/* Decode what stood between two zero bytes, in place. The bytes of header and payload, or 0 when it is no frame. */
uint32_t frame_decode(uint8_t *data, uint32_t bytes);

/* Send header and payload as a frame. */
void frame_send(const uint8_t *data, uint32_t bytes);
#endif
