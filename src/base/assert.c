/*
 * The end of the road for our own bugs: say what was false, then abort so that
 * a core file shows why. Called by ASSERT from any thread; never returns.
 */
#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

noreturn void assert_failed(const char *expression, const char *file, int line)
{
	char text[512];
	int len = snprintf(text, sizeof(text), "insula: bug: %s is false at %s:%d\n", expression,
			   file, line);
	if (len > (int)sizeof(text) - 1)
		len = sizeof(text) - 1;
	/* No stdio: its lock may be held by the thread that failed. */
	if (len > 0 && write(STDERR_FILENO, text, (size_t)len) < 0)
		_exit(134);
	abort();
}
