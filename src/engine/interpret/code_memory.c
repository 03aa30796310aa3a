/*
 * Executable memory for native thunks and the code of traces. Invariant: no
 * page is ever writable and executable through one mapping.
 */
#include "engine/interpret/code_memory.h"
#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010u
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define PAGE_BYTES 4096u
#define STEP       (4ull << 20)
/* What a 32-bit displacement spans, but for the text's own size. Several vcpus share it. */
#define REACH      (1920ull << 20)

/* A place below the text, where neither heap nor libraries grow. */
static void *map_near(int fd, size_t bytes, int protection, int flags)
{
	uintptr_t text = (uintptr_t)&code_memory_open & ~(uintptr_t)(STEP - 1), down;

	for (down = (bytes + STEP) & ~(STEP - 1); down < REACH && down < text; down += STEP) {
		void *p = mmap((void *)(text - down), bytes, protection,
			       flags | MAP_FIXED_NOREPLACE, fd, 0);

		if (p != MAP_FAILED && (uintptr_t)p == text - down)
			return p;
		if (p != MAP_FAILED)
			munmap(p, bytes); /* a kernel before 4.17 took the address for a hint */
		else if (errno != EEXIST && errno != EINVAL && errno != ENOMEM)
			return NULL; /* refused, not occupied */
	}
	return NULL;
}

int code_memory_open(struct code_memory *m, size_t bytes, const char **error)
{
	int fd = memfd_create("insula-code", MFD_CLOEXEC | MFD_EXEC);
	bool full;

	*m = (struct code_memory){ .bytes = bytes };
	if (fd < 0 && errno == EINVAL) /* kernels before 6.3 do not know MFD_EXEC */
		fd = memfd_create("insula-code", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)bytes)) {
		*error = "cannot create a memory file for native code (memfd_create)";
		if (fd >= 0)
			close(fd);
		return -ENOMEM;
	}
	m->rw = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (m->rw == MAP_FAILED)
		m->rw = NULL;
	m->rx = map_near(fd, bytes, PROT_READ | PROT_EXEC, MAP_SHARED);
	full = !m->rx && errno == EEXIST;
	close(fd);
	if (m->rw && m->rx)
		return 0;
	code_memory_close(m);
	if (full) {
		*error = "no address space is left near the program for native code: try fewer "
			 "--cpus";
		return -ENOMEM;
	}
	*error = "this host forbids executable shared memory, which the interpreter needs for its "
		 "traces and for "
		 "vector instructions (mmap PROT_EXEC of a memfd refused: SELinux execmem, noexec "
		 "memfd or a "
		 "seccomp policy)";
	return -EPERM;
}

void code_memory_settle(struct code_memory *m, size_t from, size_t to)
{
	from &= ~(CODE_MEMORY_SETTLE - 1);
	to &= ~(CODE_MEMORY_SETTLE - 1);
	if (from < to)
		madvise(m->rw + from, to - from, MADV_DONTNEED);
}

void code_memory_release(struct code_memory *m, size_t from)
{
	from = (from + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
	if (from < m->bytes)
		madvise(m->rw + from, m->bytes - from, MADV_REMOVE);
}

void *code_memory_data(size_t bytes)
{
	return map_near(-1, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
}

void code_memory_close(struct code_memory *m)
{
	if (m->rw)
		munmap(m->rw, m->bytes);
	if (m->rx)
		munmap((void *)(uintptr_t)m->rx, m->bytes);
	m->rw = NULL;
	m->rx = NULL;
}
