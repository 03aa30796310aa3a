/* NMI: delivery with interrupts off, blocking until IRET, faults inside its handler. */
#include "lib.h"

static volatile unsigned nmis, nested, in_handler;
static volatile word nmi_ip;
static volatile bool fault_inside, iret_inside;

static void wait(void)
{
	unsigned n;

	for (n = 0; n < 1000; n++)
		asm volatile("pause");
}

static void on_nmi(struct frame *f)
{
	nmis++;
	nmi_ip = f->ip;
	if (in_handler)
		nested++;
	in_handler++;
	if (nmis == 1) {
		lapic_self_nmi(); /* must wait for our IRET */
		wait();
		if (fault_inside)
			asm volatile("ud2"); /* its IRET ends the blocking */
		wait();
	}
	in_handler--;
}
static void skip_ud(struct frame *f)
{
	f->ip += 2;
}

static void go(void)
{
	nmis = nested = in_handler = 0;
	lapic_self_nmi();
	wait();
}

void test_main(void)
{
	lapic_enable();
	handlers[2] = on_nmi;
	handlers[6] = skip_ud;
	asm volatile("cli");
	go();
	check_eq("NMI comes with IF clear; the second after IRET", nmis, 2);
	check_eq("  not inside the first", nested, 0);
	fault_inside = true;
	go();
	check_eq("a fault's IRET inside the handler lets it in", nmis, 2);
	check_eq("  nested", nested, 1);
	fault_inside = false;
	go();
	check_eq("blocking is gone afterwards", nmis, 2);
	/* Taken right behind the instruction that made it, as far as the APIC is quick. */
	nmis = 5;
	in_handler = 0;
	asm volatile("movl $0x4400, %%eax\n mov $0xfee00300, %%ebx\n movl %%eax, (%%ebx)\n nop\n nop\n nop\n" ::: "eax", "ebx",
		     "memory");
	wait();
	check_eq("NMI by its ICR write", nmis, 6);
}
