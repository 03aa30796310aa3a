/* The kernel itself. Used by the engine and by the probe; tests have their own. */
#include "engine/kvm/kvm_calls.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int host_open(void)
{
	return open("/dev/kvm", O_RDWR | O_CLOEXEC);
}

static int host_ioctl(int fd, unsigned long request, uintptr_t arg)
{
	return ioctl(fd, request, arg);
}

static void *host_map(int fd, size_t len)
{
	void *address = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return address == MAP_FAILED ? NULL : address;
}

static void host_unmap(void *address, size_t len)
{
	munmap(address, len);
}

const struct kvm_calls kvm_calls_host = {
	.open = host_open,
	.close = close,
	.ioctl = host_ioctl,
	.map = host_map,
	.unmap = host_unmap,
};
