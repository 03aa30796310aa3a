/*
 * Logging for people: set-up, failures, rare events. Never at a rate a guest
 * can choose; use log_once_per_second() where a guest can reach the line.
 */
#ifndef INSULA_BASE_LOG_H
#define INSULA_BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);
/* One line on stderr, "insula: " before it, newline added. Any thread. */
void log_print(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_print(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_print(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_print(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                                                         \
	do {                                                                   \
		if (log_enabled(LOG_DEBUG))                                    \
			log_print(LOG_DEBUG, __VA_ARGS__);                     \
	} while (0)

/* True at most once per second for one limit. Any thread. */
struct log_limit {
	_Atomic uint64_t next_ns;
};
bool log_allowed(struct log_limit *limit);

/* For lines a guest can reach: each place in the code speaks at most once per second. */
#define log_once_per_second(level, ...)                                        \
	do {                                                                   \
		static struct log_limit log_here_;                             \
		if (log_enabled(level) && log_allowed(&log_here_))             \
			log_print(level, __VA_ARGS__);                         \
	} while (0)

#endif
