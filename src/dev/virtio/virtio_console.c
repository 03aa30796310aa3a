/*
 * The console's ports: bytes between guest buffers and chardevs. Both ways go
 * through a small stage, and a full stage is all the back pressure there is:
 * the guest's buffers stay in its queue, the back end hears of no room.
 *
 * Back ends may call straight back into us, so they are never called with the
 * device lock held: the loop's thread sets `talking`, drops the lock and calls.
 * A reset or a pause waits for it to be silent.
 */
#include "dev/virtio/virtio_console.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "dev/virtio/virtio_console_priv.h"

#define QUEUE_SIZE        128
#define CLASS_COMM_SERIAL 0x078000

static void begin_talk(struct virtio_console *con)
{
	ASSERT(!con->talking);
	con->talking = true;
	pthread_mutex_unlock(&con->vdev.lock);
}

static void end_talk(struct virtio_console *con)
{
	pthread_mutex_lock(&con->vdev.lock);
	con->talking = false;
	pthread_cond_broadcast(&con->silent);
}

/* Whether the port's queues are in use: without multiport only port 0 is. */
static bool port_usable(const struct console_port *port)
{
	return port->index == 0 || virtio_device_has(&port->con->vdev, VIRTIO_CONSOLE_F_MULTIPORT);
}

/* Fills the tx stage from the queue's head. False if there was nothing. */
static bool tx_fill(struct console_port *port)
{
	struct virtio_console *con = port->con;
	struct virtio_device *vdev = &con->vdev;
	unsigned queue = port_tx_queue(port->index);
	struct console_port_state *s = &port->state;
	ssize_t got;

	if (!virtio_device_pop(vdev, queue, &con->chain))
		return false;
	got = virtq_chain_read(vdev->ram, &con->chain, s->tx_offset, s->tx.bytes,
			       sizeof(s->tx.bytes));
	if (got < 0) {
		virtio_device_fail(vdev, "console output outside memory");
		return false;
	}
	s->tx.start = 0;
	s->tx.count = (uint32_t)got;
	s->tx_offset += (uint64_t)got;
	if (s->tx_offset >= con->chain.out_bytes) {
		s->tx_offset = 0;
		virtio_device_push(vdev, queue, con->chain.head, 0);
	} else {
		virtq_unpop(&vdev->queues[queue]);
	}
	return true;
}

/* Empties the tx stage into the back end. False if that refused some. */
static bool tx_flush(struct console_port *port)
{
	struct console_stage *tx = &port->state.tx;
	size_t accepted;

	if (!tx->count)
		return true;
	begin_talk(port->con);
	accepted = chardev_write(port->chr, tx->bytes + tx->start, tx->count);
	end_talk(port->con);
	ASSERT(accepted <= tx->count);
	tx->start += (uint32_t)accepted;
	tx->count -= (uint32_t)accepted;
	return tx->count == 0;
}

/* The loop's thread, device lock held. */
static void tx_work(struct console_port *port)
{
	struct virtio_device *vdev = &port->con->vdev;
	unsigned queue = port_tx_queue(port->index);
	struct virtq *vq = &vdev->queues[queue];

	if (!vq->state.running || !port_usable(port))
		return;
	virtq_kicks_suspend(vq);
	for (unsigned taken = 0; virtio_device_live(vdev) && vq->state.running; taken++) {
		if (taken == VIRTIO_WORK_BUDGET) {
			virtio_device_kick(vdev, queue);
			break;
		}
		/* A refusal: `writable` will call again, and kicks stay suspended till then. */
		if (!tx_flush(port) || !virtio_device_live(vdev))
			break;
		if (tx_fill(port))
			continue;
		virtq_kicks_resume(vq);
		if (!virtio_device_live(vdev) || !virtq_waiting(vq))
			break;
	}
	if (virtio_device_answers(vdev))
		virtio_device_signal(vdev, queue);
}

/* Hands staged input to the guest as far as it has buffers. Device lock held. */
static void rx_pump(struct console_port *port)
{
	struct virtio_console *con = port->con;
	struct virtio_device *vdev = &con->vdev;
	unsigned queue = port_rx_queue(port->index);
	struct virtq *vq = &vdev->queues[queue];
	struct console_stage *rx = &port->state.rx;

	if (!vq->state.running || !virtio_device_live(vdev) || !port_usable(port))
		return;
	virtq_kicks_suspend(vq);
	while (rx->count) {
		ssize_t written;

		if (!virtio_device_pop(vdev, queue, &con->chain)) {
			virtq_kicks_resume(vq);
			if (virtio_device_live(vdev) && virtq_waiting(vq))
				continue;
			break;
		}
		written = virtq_chain_write(vdev->ram, &con->chain, 0, rx->bytes + rx->start,
					    rx->count);
		if (written < 0) {
			virtio_device_fail(vdev, "a console buffer outside memory");
			return;
		}
		rx->start += (uint32_t)written;
		rx->count -= (uint32_t)written;
		virtio_device_push(vdev, queue, con->chain.head, (uint32_t)written);
	}
	virtio_device_signal(vdev, queue);
	if (!rx->count)
		console_control_input_done(port);
}

/* Input for a port that no process holds open would be thrown away by the driver. */
static size_t rx_room(const struct console_port *port)
{
	const struct console_port_state *s = &port->state;

	if (!port->console && !s->guest_open)
		return 0;
	return sizeof(s->rx.bytes) - s->rx.count;
}

/* The loop's thread, device lock held: the guest gave buffers or opened the port. */
static void rx_work(struct console_port *port)
{
	struct virtio_console *con = port->con;

	rx_pump(port);
	if (rx_room(port)) {
		begin_talk(con);
		chardev_kick_input(port->chr);
		end_talk(con);
	}
}

static void work(struct virtio_device *vdev, unsigned queue)
{
	struct virtio_console *con = (struct virtio_console *)vdev;
	unsigned port = queue < 2 ? 0 : queue / 2 - 1;
	uint8_t was_open[VIRTIO_CONSOLE_PORTS_MAX];

	switch (queue) {
	case CONTROL_RX_QUEUE:
		console_control_send(con);
		break;
	case CONTROL_TX_QUEUE:
		for (unsigned i = 0; i < con->port_count; i++)
			was_open[i] = con->ports[i].state.guest_open;
		console_control_receive(con);
		console_control_send(con);
		for (unsigned i = 0; i < con->port_count; i++)
			if (con->ports[i].state.guest_open && !was_open[i])
				rx_work(&con->ports[i]);
		break;
	default:
		if (queue % 2)
			tx_work(&con->ports[port]);
		else
			rx_work(&con->ports[port]);
	}
}

/* From the back end, on the loop's thread. */

static size_t frontend_room(void *ctx)
{
	struct console_port *port = ctx;
	size_t room;

	pthread_mutex_lock(&port->con->vdev.lock);
	room = rx_room(port);
	pthread_mutex_unlock(&port->con->vdev.lock);
	return room;
}

static void frontend_receive(void *ctx, const uint8_t *bytes, size_t count)
{
	struct console_port *port = ctx;
	struct console_stage *rx = &port->state.rx;

	pthread_mutex_lock(&port->con->vdev.lock);
	memmove(rx->bytes, rx->bytes + rx->start, rx->count);
	rx->start = 0;
	ASSERT(count <= sizeof(rx->bytes) - rx->count);
	memcpy(rx->bytes + rx->count, bytes, count);
	rx->count += (uint32_t)count;
	rx_pump(port);
	pthread_mutex_unlock(&port->con->vdev.lock);
}

/* May come from within chardev_write itself, so it only asks for work. */
static void frontend_writable(void *ctx)
{
	struct console_port *port = ctx;

	virtio_device_kick(&port->con->vdev, port_tx_queue(port->index));
}

static void frontend_closed(void *ctx)
{
	struct console_port *port = ctx;

	pthread_mutex_lock(&port->con->vdev.lock);
	port->state.host_closed = true;
	if (!port->console && virtio_device_live(&port->con->vdev))
		console_control_input_done(port);
	pthread_mutex_unlock(&port->con->vdev.lock);
}

static void settle(struct virtio_device *vdev)
{
	struct virtio_console *con = (struct virtio_console *)vdev;

	pthread_mutex_lock(&vdev->lock);
	while (con->talking)
		pthread_cond_wait(&con->silent, &vdev->lock);
	pthread_mutex_unlock(&vdev->lock);
}

/* Staged bytes survive: output of a kernel that reboots, input typed ahead of the next. */
static void reset(struct virtio_device *vdev)
{
	struct virtio_console *con = (struct virtio_console *)vdev;

	for (unsigned i = 0; i < con->port_count; i++) {
		struct console_port_state *s = &con->ports[i].state;

		s->owes = 0;
		s->ready = false;
		s->guest_open = false;
		s->tx_offset = 0;
	}
}

/* The end of input may have come during the pause, when nothing could be told. */
static void resume(struct virtio_device *vdev)
{
	struct virtio_console *con = (struct virtio_console *)vdev;

	for (unsigned i = 0; i < con->port_count; i++)
		if (con->ports[i].state.host_closed && !con->ports[i].console)
			console_control_input_done(&con->ports[i]);
}

static const struct virtio_device_ops device_ops = {
	.work = work,
	.reset = reset,
	.settle = settle,
	.resume = resume,
	.save = console_state_save,
	.load = console_state_load,
};

static void write_size(struct virtio_console *con, uint16_t columns, uint16_t rows)
{
	struct virtio_console_config config = {
		.cols = htole16(columns),
		.rows = htole16(rows),
		.max_nr_ports = htole32(con->port_count),
	};

	memcpy(con->vdev.config, &config, sizeof(config));
	memcpy(con->vdev.config_legacy, &config, sizeof(config));
	con->vdev.config_len = sizeof(config);
}

/* On the loop's thread, where back ends call us. */
static void connect_ports(void *ctx)
{
	struct virtio_console *con = ctx;

	for (unsigned i = 0; i < con->port_count; i++) {
		struct chardev_frontend frontend = {
			.room = frontend_room,
			.receive = frontend_receive,
			.writable = frontend_writable,
			.closed = frontend_closed,
			.ctx = &con->ports[i],
		};

		chardev_connect(con->ports[i].chr, &frontend);
		chardev_kick_input(con->ports[i].chr);
	}
}

static void disconnect_ports(void *ctx)
{
	static const struct chardev_frontend nobody;
	struct virtio_console *con = ctx;

	for (unsigned i = 0; i < con->port_count; i++)
		chardev_connect(con->ports[i].chr, &nobody);
}

struct virtio_console *virtio_console_new(struct pci_host *host, unsigned slot, struct ram *ram,
					  struct loop *loop,
					  const struct virtio_console_port_config *ports,
					  unsigned count)
{
	static const struct virtio_pci_class class = { .class_code = CLASS_COMM_SERIAL };
	struct virtio_console *con;
	int err;

	if (!count || count > VIRTIO_CONSOLE_PORTS_MAX) {
		errno = EINVAL;
		return NULL;
	}
	con = calloc(1, sizeof(*con));
	if (!con)
		return NULL;
	pthread_cond_init(&con->silent, NULL);
	virtio_device_init(&con->vdev, "virtio-console", VIRTIO_ID_CONSOLE, &device_ops, ram, loop,
			   2 * (count + 1), QUEUE_SIZE);
	con->vdev.offered |= 1ull << VIRTIO_CONSOLE_F_MULTIPORT | 1ull << VIRTIO_CONSOLE_F_SIZE;
	con->port_count = count;
	write_size(con, 0, 0);
	for (unsigned i = 0; i < count; i++) {
		struct console_port *port = &con->ports[i];

		port->con = con;
		port->index = i;
		port->console = ports[i].console;
		port->chr = ports[i].chr;
		if (ports[i].name)
			strncpy(port->name, ports[i].name, sizeof(port->name) - 1);
	}
	err = virtio_pci_attach(&con->pci, &con->vdev, host, slot, &class);
	if (err) {
		virtio_device_fini(&con->vdev);
		pthread_cond_destroy(&con->silent);
		free(con);
		errno = -err;
		return NULL;
	}
	loop_call(loop, connect_ports, con);
	return con;
}

void virtio_console_free(struct virtio_console *con)
{
	if (!con)
		return;
	loop_call(con->vdev.loop, disconnect_ports, con);
	virtio_pci_detach(&con->pci);
	virtio_device_fini(&con->vdev);
	pthread_cond_destroy(&con->silent);
	free(con);
}

void virtio_console_resize(struct virtio_console *con, unsigned index, uint16_t columns,
			   uint16_t rows)
{
	struct console_port *port;

	if (index >= con->port_count || !con->ports[index].console)
		return;
	port = &con->ports[index];
	pthread_mutex_lock(&con->vdev.lock);
	port->state.columns = columns;
	port->state.rows = rows;
	if (index == 0) {
		write_size(con, columns, rows);
		virtio_device_config_changed(&con->vdev);
	}
	if (port->state.ready) {
		port->state.owes |= OWES_RESIZE;
		virtio_device_kick(&con->vdev, CONTROL_RX_QUEUE);
	}
	pthread_mutex_unlock(&con->vdev.lock);
}

bool virtio_console_guest_open(struct virtio_console *con, unsigned port)
{
	bool open;

	if (port >= con->port_count)
		return false;
	pthread_mutex_lock(&con->vdev.lock);
	open = con->ports[port].state.guest_open;
	pthread_mutex_unlock(&con->vdev.lock);
	return open;
}
