/* A triple fault ends the machine: no line after the first, no debug exit. */
#include "lib.h"

void test_main(void)
{
	struct {
		uint16_t limit;
		uint32_t base;
	} __attribute__((packed)) r = { 0, 0 };

	check(true, "about to triple-fault");
	asm volatile("lidt %0; ud2" ::"m"(r));
	check(false, "not reached");
}
