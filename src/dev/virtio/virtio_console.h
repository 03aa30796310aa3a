/*
 * virtio console (virtio 1.2, 5.3) with several ports, each against a chardev.
 * Port 0 is a console (hvc0) in the usual set-up; named ports appear in the
 * guest as /dev/virtio-ports/NAME.
 */
#ifndef INSULA_DEV_VIRTIO_VIRTIO_CONSOLE_H
#define INSULA_DEV_VIRTIO_VIRTIO_CONSOLE_H

#include <stdbool.h>
#include <stdint.h>

struct chardev;
struct loop;
struct pci_host;
struct ram;
struct virtio_console;

#define VIRTIO_CONSOLE_PORTS_MAX 16
#define VIRTIO_CONSOLE_NAME_MAX  64

struct virtio_console_port_config {
	const char *name;    /* NULL: a port without a name; copied */
	bool console;        /* offer it to the guest as a console */
	struct chardev *chr; /* borrowed; NULL forgets what is written */
};

/* Port n of the device is ports[n], 1..VIRTIO_CONSOLE_PORTS_MAX of them. NULL with errno on
 * failure. */
struct virtio_console *virtio_console_new(struct pci_host *host, unsigned slot, struct ram *ram,
					  struct loop *loop,
					  const struct virtio_console_port_config *ports,
					  unsigned count);
/* Vcpus are stopped; the loop may run. */
void virtio_console_free(struct virtio_console *con);

/* The size of the terminal behind a console port changed. Any thread. */
void virtio_console_resize(struct virtio_console *con, unsigned port, uint16_t columns,
			   uint16_t rows);

/* Whether the guest has the port open (a process holds it). Any thread. */
bool virtio_console_guest_open(struct virtio_console *con, unsigned port);

#endif
