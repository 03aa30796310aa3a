/*
 * Control queues of the multiport console (virtio 1.2, 5.3.6.2): how driver
 * and device agree on ports. What a port has to say is a set of bits, so that
 * a guest which never takes messages cannot make us collect them.
 */
#include <endian.h>
#include <linux/virtio_console.h>
#include <string.h>

#include "dev/virtio/virtio_console_priv.h"

static void owe(struct console_port *port, uint8_t what)
{
	port->state.owes |= what;
}

/* The driver has set the port up and wants to know what it is. */
static void port_ready(struct console_port *port)
{
	port->state.ready = true;
	if (port->console)
		owe(port, OWES_CONSOLE);
	if (port->name[0])
		owe(port, OWES_NAME);
	owe(port, OWES_OPEN);
	if (port->console && port->state.columns)
		owe(port, OWES_RESIZE);
}

static void control_message(struct virtio_console *con, const struct virtio_console_control *msg)
{
	uint32_t id = le32toh(msg->id);
	bool value = le16toh(msg->value) != 0;

	if (le16toh(msg->event) == VIRTIO_CONSOLE_DEVICE_READY) {
		for (unsigned i = 0; value && i < con->port_count; i++)
			owe(&con->ports[i], OWES_ADD);
		return;
	}
	if (id >= con->port_count)
		return;
	switch (le16toh(msg->event)) {
	case VIRTIO_CONSOLE_PORT_READY:
		if (value)
			port_ready(&con->ports[id]);
		break;
	case VIRTIO_CONSOLE_PORT_OPEN:
		con->ports[id].state.guest_open = value;
		break;
	}
}

void console_control_receive(struct virtio_console *con)
{
	struct virtio_device *vdev = &con->vdev;
	struct virtq *vq = &vdev->queues[CONTROL_TX_QUEUE];
	struct virtio_console_control msg;

	virtq_kicks_suspend(vq);
	for (unsigned taken = 0;; taken++) {
		if (taken == VIRTIO_WORK_BUDGET) {
			virtio_device_kick(vdev, CONTROL_TX_QUEUE);
			break;
		}
		if (!virtio_device_pop(vdev, CONTROL_TX_QUEUE, &con->chain)) {
			virtq_kicks_resume(vq);
			if (virtio_device_live(vdev) && virtq_waiting(vq))
				continue;
			break;
		}
		/* Short messages are read as if zeroes followed: harmless in every event. */
		memset(&msg, 0, sizeof(msg));
		if (virtq_chain_read(vdev->ram, &con->chain, 0, &msg, sizeof(msg)) < 0) {
			virtio_device_fail(vdev, "a control message outside memory");
			break;
		}
		control_message(con, &msg);
		virtio_device_push(vdev, CONTROL_TX_QUEUE, con->chain.head, 0);
	}
	virtio_device_signal(vdev, CONTROL_TX_QUEUE);
}

struct reply {
	struct virtio_console_control header;
	union {
		char name[VIRTIO_CONSOLE_NAME_MAX];
		struct {
			uint16_t columns, rows;
		} size;
	} body;
};

/* Composes the one message for the lowest bit owed; returns its length. */
static size_t compose(const struct console_port *port, uint8_t what, struct reply *reply)
{
	size_t len = sizeof(reply->header);
	uint16_t event = VIRTIO_CONSOLE_PORT_ADD, value = 1;

	memset(reply, 0, sizeof(*reply));
	switch (what) {
	case OWES_CONSOLE:
		event = VIRTIO_CONSOLE_CONSOLE_PORT;
		break;
	case OWES_NAME:
		event = VIRTIO_CONSOLE_PORT_NAME;
		memcpy(reply->body.name, port->name, sizeof(port->name));
		len += strnlen(port->name, sizeof(port->name));
		break;
	case OWES_OPEN:
		event = VIRTIO_CONSOLE_PORT_OPEN;
		/* The end of input counts once all input was handed over; a console has no end. */
		value = port->console || !port->state.host_closed || port->state.rx.count;
		break;
	case OWES_RESIZE:
		event = VIRTIO_CONSOLE_RESIZE;
		reply->body.size.columns = htole16(port->state.columns);
		reply->body.size.rows = htole16(port->state.rows);
		len += sizeof(reply->body.size);
		break;
	}
	reply->header.id = htole32(port->index);
	reply->header.event = htole16(event);
	reply->header.value = htole16(value);
	return len;
}

void console_control_send(struct virtio_console *con)
{
	struct virtio_device *vdev = &con->vdev;
	struct virtq *vq = &vdev->queues[CONTROL_RX_QUEUE];
	struct reply reply;

	for (unsigned i = 0; i < con->port_count; i++) {
		struct console_port *port = &con->ports[i];

		while (port->state.owes) {
			uint8_t what = port->state.owes & (uint8_t)-port->state.owes;
			size_t len = compose(port, what, &reply);
			ssize_t written;

			if (!virtio_device_live(vdev))
				goto out;
			if (!virtio_device_pop(vdev, CONTROL_RX_QUEUE, &con->chain)) {
				virtq_kicks_resume(vq);
				if (virtio_device_live(vdev) && virtq_waiting(vq))
					continue;
				goto out;
			}
			written = virtq_chain_write(vdev->ram, &con->chain, 0, &reply, len);
			if (written < 0) {
				virtio_device_fail(vdev, "a control buffer outside memory");
				goto out;
			}
			virtio_device_push(vdev, CONTROL_RX_QUEUE, con->chain.head,
					   (uint32_t)written);
			port->state.owes &= ~what;
		}
	}
	virtq_kicks_suspend(vq);
out:
	virtio_device_signal(vdev, CONTROL_RX_QUEUE);
}

void console_control_input_done(struct console_port *port)
{
	if (port->state.host_closed && port->state.ready && !port->state.rx.count) {
		owe(port, OWES_OPEN);
		console_control_send(port->con);
	}
}
