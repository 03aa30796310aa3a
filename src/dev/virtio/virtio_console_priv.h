/* Inside the virtio console: its ports, and what the data and control halves call in each other. */
#ifndef INSULA_DEV_VIRTIO_VIRTIO_CONSOLE_PRIV_H
#define INSULA_DEV_VIRTIO_VIRTIO_CONSOLE_PRIV_H

#include "chardev/chardev.h"
#include "dev/virtio/virtio_console.h"
#include "dev/virtio/virtio_device.h"
#include "dev/virtio/virtio_pci.h"

#define CONSOLE_STAGE_BYTES 4096

#define CONTROL_RX_QUEUE 2 /* device to driver */
#define CONTROL_TX_QUEUE 3

/* Control messages that a port owes the driver, in the order they must be sent. */
enum {
	OWES_ADD = 1 << 0,
	OWES_CONSOLE = 1 << 1,
	OWES_NAME = 1 << 2,
	OWES_OPEN = 1 << 3,
	OWES_RESIZE = 1 << 4,
	OWES_ALL = (1 << 5) - 1,
};

/* Bytes between guest and back end; [start, start + count) of bytes wait. */
struct console_stage {
	uint32_t start, count;
	uint8_t bytes[CONSOLE_STAGE_BYTES];
};

/* What a port has to remember; saved. Device lock. */
struct console_port_state {
	uint8_t owes;
	uint8_t ready;       /* the driver has the port */
	uint8_t guest_open;  /* a process in the guest has it open */
	uint8_t host_closed; /* the back end's input ended */
	uint16_t columns, rows;
	uint64_t tx_offset;      /* how much of the chain at the head of the tx queue is in `tx` */
	struct console_stage rx; /* from the back end, waiting for guest buffers */
	struct console_stage tx; /* from the guest, waiting for the back end */
};

struct console_port {
	struct virtio_console *con;
	unsigned index;
	char name[VIRTIO_CONSOLE_NAME_MAX];
	bool console;
	struct chardev *chr; /* borrowed; never called with the device lock held */
	struct console_port_state state;
};

struct virtio_console {
	struct virtio_device vdev;
	struct virtio_pci pci;
	unsigned port_count;
	bool talking; /* the loop's thread is in a back end, without the lock */
	pthread_cond_t silent;
	struct virtq_chain chain; /* scratch of whoever holds the lock */
	struct console_port ports[VIRTIO_CONSOLE_PORTS_MAX];
};

static inline unsigned port_rx_queue(unsigned port)
{
	return port ? 2 * port + 2 : 0;
}

static inline unsigned port_tx_queue(unsigned port)
{
	return port_rx_queue(port) + 1;
}

/* virtio_console_state.c: virtio_device_ops */
void console_state_save(struct virtio_device *vdev, const char *name, struct state_writer *writer);
int console_state_load(struct virtio_device *vdev, const char *name, struct state_reader *reader);

/* virtio_console_control.c; device lock held */
void console_control_receive(struct virtio_console *con); /* from the driver */
void console_control_send(struct virtio_console *con);    /* what the ports owe */
/* The port's pending input went to the guest; tells it of the end if that was all. */
void console_control_input_done(struct console_port *port);

#endif
