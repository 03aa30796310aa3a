/* The keys that leave. Called for every byte typed while the terminal is raw. */
#include "cli/terminal.h"

size_t escape_filter(struct escape *escape, const uint8_t *bytes, size_t count, uint8_t *out,
		     bool *quit)
{
	size_t made = 0;

	*quit = false;
	for (size_t i = 0; i < count; i++) {
		if (!escape->armed) {
			escape->armed = bytes[i] == ESCAPE_KEY;
			if (!escape->armed)
				out[made++] = bytes[i];
			continue;
		}
		escape->armed = false;
		if (bytes[i] == 'q') {
			*quit = true;
			return made;
		}
		out[made++] = ESCAPE_KEY;
		if (bytes[i] != ESCAPE_KEY)
			out[made++] = bytes[i];
	}
	return made;
}
