/* When a page of code is held to be restless, and when calm. */
#include "engine/interpret/unrest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define SECOND 3000000000ull /* of a TSC */

static bool shout(struct unrest *u, uint64_t now)
{
	bool restless = false;

	for (unsigned n = 0; n < 1000 && !restless; n++)
		restless = unrest_noise(u, UNREST_KILL, now);
	return restless;
}

static void noise_counts_while_it_is_fresh(void **state)
{
	struct unrest u = { 0 };

	/* One a millisecond is nothing, and much in the same one is. */
	for (uint64_t n = 0; n < 10000; n++)
		assert_false(unrest_noise(&u, UNREST_KILL, n * (SECOND / 1000)));
	assert_true(shout(&u, 20 * SECOND));
	assert_true(u.restless);
	/* Said once. */
	assert_false(unrest_noise(&u, 1000, 20 * SECOND));
}

static void calm_without_a_change(void **state)
{
	struct unrest u = { 0 };

	assert_true(shout(&u, SECOND));
	u.changed = true;
	assert_false(unrest_ask(&u, SECOND));
	assert_true(unrest_ask(&u, SECOND));
	assert_false(u.restless);
	assert_true(unrest_ask(&u, SECOND)); /* who asks late hears the same */
}

static void patience_grows_with_mistakes(void **state)
{
	struct unrest u = { 0 };
	int32_t first, last;

	assert_true(shout(&u, SECOND));
	first = last = unrest_patience(&u);
	for (unsigned n = 0; n < 30; n++) {
		assert_true(unrest_ask(&u, SECOND));
		assert_true(shout(&u, SECOND));
		assert_true(unrest_patience(&u) >= last);
		last = unrest_patience(&u);
	}
	assert_true(last >= 1000 * first && last <= 1 << 24);
	/* After long enough in peace it begins anew. */
	assert_true(unrest_ask(&u, SECOND));
	assert_true(shout(&u, 1000 * SECOND));
	assert_int_equal(unrest_patience(&u), first);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(noise_counts_while_it_is_fresh),
		cmocka_unit_test(calm_without_a_change),
		cmocka_unit_test(patience_grows_with_mistakes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
