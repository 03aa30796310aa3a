/*
 * Frames of the guest agent's protocol (docs/formats/agent.md), for both ends:
 * the monitor (vm/agent.c) and the guest's init. Pure; no libc beyond memcpy.
 */
#ifndef INSULA_VM_AGENT_WIRE_H
#define INSULA_VM_AGENT_WIRE_H

#include <stddef.h>
#include <stdint.h>

#define WIRE_VERSION     1u
#define WIRE_MAGIC       "insula-agent"
#define WIRE_MAGIC_LEN   12u
#define WIRE_HEADER_LEN  8u
#define WIRE_PAYLOAD_MAX (128u << 10) /* RUN; everything else is far smaller */
#define WIRE_DATA_MAX    (16u << 10)
#define WIRE_WINDOW      (256u << 10) /* credit each stream begins with */

enum wire_type {
	WIRE_HELLO = 1,    /* both: magic, u32 version */
	WIRE_DATA = 2,     /* both: bytes of a stream */
	WIRE_CREDIT = 3,   /* both: u32 bytes that the receiver of a stream has got rid of */
	WIRE_EOF = 4,      /* to the guest: stdin has ended */
	WIRE_EXIT = 5,     /* from the guest: u32 status 0..255; last frame */
	WIRE_HELD = 6,     /* from the guest: the answer to HOLD, when nothing of the user's runs */
	WIRE_RUN = 16,     /* to the guest: struct wire_run and strings; once */
	WIRE_WINSIZE = 17, /* to the guest: u16 rows, u16 columns */
	WIRE_SIGNAL = 18,  /* to the guest: u32 signal number, Linux's */
	WIRE_POWER_OFF = 19,
	WIRE_RENEW = 20, /* to the guest: another moment, perhaps another machine; see below */
	WIRE_HOLD = 21,  /* to the guest: let no process of the user's run until RENEW */
};

#define WIRE_RUN_TTY  1u
/* Head of a RUN payload, little-endian; then NUL-terminated strings: cwd (may be empty), argv, env.
 */
#define WIRE_RUN_HEAD 16u /* u32 flags, u16 rows, u16 columns, u32 argc, u32 envc */

/* A RENEW payload: u32 flags, bytes for the random generator; then, if the flag says so, a
 * machine-id of 16 bytes and a host name, without an end. */
#define WIRE_RENEW_IDENTITY 1u
#define WIRE_SEED_LEN       32u
#define WIRE_MACHINE_ID_LEN 16u
#define WIRE_HOST_NAME_MAX  64u

struct wire_frame {
	uint32_t len;
	uint8_t type;
	uint8_t stream; /* 0 stdin, 1 stdout, 2 stderr */
	const uint8_t *payload;
};

struct wire_reader {
	uint8_t *buffer;
	uint32_t capacity; /* longest frame taken, header included */
	uint32_t used;
};

/* Takes bytes until a frame is complete or count is used up; returns the number taken. */
size_t wire_feed(struct wire_reader *reader, const uint8_t *bytes, size_t count);

/*
 * 1: *frame is complete, its payload valid until wire_drop(). 0: more bytes are
 * needed. -1: what came is no frame, or longer than the reader takes.
 */
int wire_next(const struct wire_reader *reader, struct wire_frame *frame);
void wire_drop(struct wire_reader *reader);

void wire_header(uint8_t *bytes, uint32_t len, enum wire_type type, uint8_t stream);
uint32_t wire_load32(const uint8_t *bytes);
uint16_t wire_load16(const uint8_t *bytes);
void wire_store32(uint8_t *bytes, uint32_t value);
void wire_store16(uint8_t *bytes, uint16_t value);

#endif
