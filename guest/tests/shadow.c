/*
 * When interrupts are taken: after STI, POPF, IRET, at HLT, by priority, by
 * TPR. A pending interrupt is made by the local APIC's self shorthand.
 */
#include "lib.h"

#define V1 0x51
#define V2 0x62

static word ips[8], axs[8];
static uint8_t vectors[8];
static volatile unsigned count;

static void on_interrupt(struct frame *f)
{
	if (count < 8) {
		ips[count] = f->ip;
		vectors[count] = (uint8_t)f->vector;
		axs[count] = f->ax;
	}
	count++;
	lapic_eoi();
}

/* The APIC may answer so when TPR rises over a pending interrupt. No EOI. */
static void on_spurious(struct frame *f)
{
}

static void pend(uint8_t vector)
{
	unsigned n;

	asm volatile("cli");
	count = 0;
	lapic_self(vector);
	/* The IPI is in IRR now on a software APIC; give others a moment. */
	for (n = 0; n < 1000; n++)
		asm volatile("pause");
}

#define LABEL(name) ".globl " name "\n" name ":\n"
extern uint8_t l1[], l2[], l3[], l4[], l5[], l6[], l7[], l8[], l9[];
#define TPR (*(volatile uint32_t *)0xfee00080)

void test_main(void)
{
	lapic_enable();
	handlers[0xff] = on_spurious;
	handlers[V1] = on_interrupt;
	handlers[V2] = on_interrupt;

	pend(V1);
	asm volatile("sti\n nop\n" LABEL("l1") "nop\n nop\n cli" ::: "memory");
	check(count == 1 && ips[0] == (word)l1, "STI lets one instruction pass");
	pend(V1);
	asm volatile("sti\n cli\n nop\n nop" ::: "memory");
	check_eq("STI CLI lets nothing in", count, 0);
	asm volatile("sti; nop; nop; cli" ::: "memory");
	check_eq("it comes later", count, 1);
	pend(V1);
	asm volatile("pushf; orl $0x200, (%%esp); popf\n" LABEL("l2") "nop\n nop\n cli" ::: "memory", "cc");
	check(count == 1 && ips[0] == (word)l2, "POPF lets none pass");
	pend(V1);
	asm volatile("pushf; orl $0x200, (%%esp); push %%cs; push $l3; iret\n ud2\n" LABEL("l3") "nop\n nop\n cli" ::: "memory",
		     "cc");
	check(count == 1 && ips[0] == (word)l3, "IRET lets none pass");
	pend(V1);
	asm volatile("sti\n hlt\n" LABEL("l4") "cli" ::: "memory");
	check(count == 1 && ips[0] == (word)l4, "STI HLT: taken behind HLT");
	pend(V1);
	asm volatile("sti\n jmp 1f\n ud2\n 1:" LABEL("l5") "nop\n cli" ::: "memory");
	check(count == 1 && ips[0] == (word)l5, "STI and a jump: taken at its target");
	pend(V1);
	asm volatile("xor %%eax, %%eax\n mov %%ss, %%ecx\n sti\n mov %%ecx, %%ss\n inc %%eax\n inc %%eax\n cli" ::: "eax", "ecx",
		     "memory", "cc");
	check(count == 1 && axs[0] <= 1, "STI MOV SS: before or after one more instruction");

	pend(V1);
	lapic_self(V2);
	asm volatile("sti; nop; nop; nop; cli" ::: "memory");
	check(count == 2 && vectors[0] == V2 && vectors[1] == V1, "the higher vector first");
	pend(V1);
	TPR = 0x50;
	asm volatile("sti; nop; nop; nop" ::: "memory");
	check_eq("TPR of its class holds it back", count, 0);
	TPR = 0x40;
	asm volatile("jmp 1f; 1: nop; jmp 2f; 2: nop; cli" ::: "memory");
	check_eq("lowering TPR lets it in", count, 1);
	TPR = 0;
}
