/*
 * The user's terminal: raw while a guest has it, and as it was on every way
 * out: return, exit(), a signal that ends the process, a crash.
 */
#ifndef INSULA_CLI_TERMINAL_H
#define INSULA_CLI_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Makes fd raw if it is a terminal of which this process is in the foreground,
 * or will be. True if it is raw now. Installs the ways back the first time.
 * One terminal per process, since a process has no more than one.
 */
bool terminal_raw(int fd);
void terminal_restore(void);

/* Rows and columns of the terminal at fd; false if it is none. */
bool terminal_size(int fd, uint16_t *rows, uint16_t *cols);

/*
 * The keys that leave: Ctrl-] then q. Ctrl-] twice sends one Ctrl-]; before
 * any other key both are sent. Pure but for the struct.
 */
#define ESCAPE_KEY 0x1d
struct escape {
	bool armed; /* the last byte was an unsent Ctrl-] */
};

/*
 * Filters count bytes into out, which has room for 2 * count bytes. Returns how
 * many; *quit: the keys were pressed, and what followed is dropped.
 */
size_t escape_filter(struct escape *escape, const uint8_t *bytes, size_t count, uint8_t *out,
		     bool *quit);

#endif
