/*
 * Logging for people: set-up, failures, rare events. Never at a rate a guest
 * can choose; use log_once_per_second() where a guest can reach the line.
 */
#ifndef INSULA_BASE_LOG_H
#define INSULA_BASE_LOG_H

#include <stdbool.h>

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

#endif
