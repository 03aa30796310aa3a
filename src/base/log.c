/*
 * One line on stderr per call, written with one write(2) so that lines of
 * several threads do not mix. Called from everywhere; holds no lock.
 */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static _Atomic int log_level = LOG_WARN;

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&log_level, (int)level, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
	return (int)level <= atomic_load_explicit(&log_level, memory_order_relaxed);
}

void log_print(enum log_level level, const char *format, ...)
{
	static const char *const prefix[] = { "insula: ", "insula: warning: ", "insula: ",
					      "insula: debug: " };
	char line[1024];
	va_list args;
	int len, body;

	if (!log_enabled(level))
		return;
	len = snprintf(line, sizeof(line), "%s", prefix[level]);
	va_start(args, format);
	body = vsnprintf(line + len, sizeof(line) - (size_t)len - 1, format, args);
	va_end(args);
	if (body < 0)
		return;
	len += body;
	if (len > (int)sizeof(line) - 2)
		len = sizeof(line) - 2;
	line[len++] = '\n';
	/* A closed stderr is no reason to fail. */
	if (write(STDERR_FILENO, line, (size_t)len) < 0)
		return;
}

bool log_allowed(struct log_limit *limit)
{
	struct timespec ts;
	uint64_t now, next;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	now = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	next = atomic_load_explicit(&limit->next_ns, memory_order_relaxed);
	if (now < next)
		return false;
	return atomic_compare_exchange_strong(&limit->next_ns, &next, now + 1000000000u);
}
