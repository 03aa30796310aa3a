/*
 * The few system calls through which this room reaches the kernel, so that a
 * test may stand in for it. The results are those of libc: -1 and errno.
 */
#ifndef INSULA_ENGINE_KVM_KVM_CALLS_H
#define INSULA_ENGINE_KVM_KVM_CALLS_H

#include <stddef.h>
#include <stdint.h>

struct kvm_calls {
	int (*open)(void); /* /dev/kvm */
	int (*close)(int fd);
	/* arg: a number, or a pointer as one. */
	int (*ioctl)(int fd, unsigned long request, uintptr_t arg);
	void *(*map)(int fd, size_t len); /* NULL and errno on failure */
	void (*unmap)(void *address, size_t len);
};

extern const struct kvm_calls kvm_calls_host;

#endif
