/*
 * Saving and loading the console's ports: what each owes the driver, and the
 * bytes that are between guest and back end. Quiesced, device lock held.
 */
#include <stdio.h>

#include "dev/virtio/virtio_console_priv.h"
#include "state/stream.h"

static const struct state_field stage_fields[] = { STATE_FIELD(struct console_stage, start),
						   STATE_FIELD(struct console_stage, count),
						   STATE_ARRAY(struct console_stage, bytes),
						   STATE_END };

static const struct state_table stage_table = {
	.name = "console-stage",
	.version = 1,
	.size = sizeof(struct console_stage),
	.fields = stage_fields,
};

static const struct state_field port_fields[] = {
	STATE_FIELD(struct console_port_state, owes),
	STATE_FIELD(struct console_port_state, ready),
	STATE_FIELD(struct console_port_state, guest_open),
	STATE_FIELD(struct console_port_state, host_closed),
	STATE_FIELD(struct console_port_state, columns),
	STATE_FIELD(struct console_port_state, rows),
	STATE_FIELD(struct console_port_state, tx_offset),
	STATE_STRUCT_FIELD(struct console_port_state, rx, &stage_table),
	STATE_STRUCT_FIELD(struct console_port_state, tx, &stage_table),
	STATE_END
};

static bool stage_sound(const struct console_stage *stage)
{
	return stage->start <= sizeof(stage->bytes) &&
	       stage->count <= sizeof(stage->bytes) - stage->start;
}

static int port_post_load(void *object, const char **error)
{
	struct console_port_state *state = object;

	if (!stage_sound(&state->rx) || !stage_sound(&state->tx)) {
		*error = "a console port holds more than it can";
		return -1;
	}
	state->owes &= OWES_ALL;
	return 0;
}

static const struct state_table port_table = {
	.name = "console-port",
	.version = 1,
	.size = sizeof(struct console_port_state),
	.fields = port_fields,
	.post_load = port_post_load,
};

void console_state_save(struct virtio_device *vdev, const char *name, struct state_writer *writer)
{
	struct virtio_console *con = (struct virtio_console *)vdev;
	char section[STATE_NAME_MAX + 1];

	for (unsigned i = 0; i < con->port_count; i++) {
		snprintf(section, sizeof(section), "%s.port.%u", name, i);
		state_save_named(&port_table, section, &con->ports[i].state, writer);
	}
}

int console_state_load(struct virtio_device *vdev, const char *name, struct state_reader *reader)
{
	struct virtio_console *con = (struct virtio_console *)vdev;
	char section[STATE_NAME_MAX + 1];
	int err = 0;

	for (unsigned i = 0; i < con->port_count && !err; i++) {
		struct console_port_state *s = &con->ports[i].state;
		bool host_closed = s->host_closed;

		snprintf(section, sizeof(section), "%s.port.%u", name, i);
		err = state_load_named(&port_table, section, s, reader);
		/* Whether input has ended is this run's back end to say. */
		if (!err && s->host_closed != host_closed) {
			s->host_closed = host_closed;
			if (s->ready)
				s->owes |= OWES_OPEN;
		}
	}
	return err;
}
