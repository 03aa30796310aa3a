/*
 * System calls without libc, for the rooms that may not call it while the
 * guest's vector registers are live: the kernel preserves those registers,
 * a libc wrapper need not. Results are 0 or more, or -errno.
 */
#ifndef INSULA_BASE_SYSCALL_H
#define INSULA_BASE_SYSCALL_H

static inline long syscall6(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

#endif
