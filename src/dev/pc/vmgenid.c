/* See the header. Called by the board, which also notifies the guest. */
#include "dev/pc/vmgenid.h"

#include <errno.h>
#include <stdint.h>
#include <sys/random.h>

#include "mem/dma.h"

int vmgenid_renew(struct ram *ram, gpa_t gpa)
{
	uint8_t bytes[VMGENID_LEN];

	/* So few come at once, and all of them. */
	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		return -EIO;
	return dma_write(ram, gpa, bytes, sizeof(bytes));
}
