/*
 * The engine side: a vcpu with RAM, page tables that map what the native child
 * maps, and an IDT whose handlers halt. A case runs at CPL 3 under Linux's
 * selectors; it ends with whatever exception stops it, the privileged HLT at
 * STUB_BASE being the regular end.
 */
#include "bus/bus.h"
#include "bus/vclock.h"
#include "cpu/excp.h"
#include "cpu/fpstate.h"
#include "cpu/lapic.h"
#include "cpu/mmu.h"
#include "cpu/model.h"
#include "cpu/post.h"
#include "cpu/xsave.h"
#include "engine/engine.h"
#include "engine/interpret/insn.h"
#include "engine/translate/translate.h"
#include "mem/dma.h"
#include "mem/ram.h"
#include "oracle.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#define RAM_SIZE      (1u << 20)
#define SYSTEM_BASE   0xffffffff80000000ull /* supervisor pages: descriptors, handlers, stack */
#define GPA_TABLES    0x1000u               /* page tables grow from here */
#define GPA_DATA      0x40000u
#define GPA_CODE      0x50000u
#define GPA_STUB      0x60000u
#define GPA_LOW_STUB  0x61000u
#define GPA_SYSTEM    0x70000u
#define SYSTEM_PAGES  8u
#define SYS_GDT       0x0u
#define SYS_TSS       0x800u
#define SYS_IDT       0x1000u
#define SYS_HANDLERS  0x2000u /* 16 bytes each: HLT */
#define SYS_STACK_TOP 0x8000u

#define PTE_P  1ull
#define PTE_W  2ull
#define PTE_U  4ull
#define PTE_NX (1ull << 63)

#define USER32_CS    0x23
#define USER_CS      0x33
#define USER_SS      0x2b
#define KERNEL_CS    0x10
#define TSS_SELECTOR 0x40
#define VECTORS      256u

struct target {
	struct vcpu v;
	struct vcpu_arch initial;
	const uint8_t *pristine;
	uint8_t *pages[DATA_PAGES];
	gpa_t next_table;
	bool stepping;
};

static struct vcpu *watched;

/* Far longer than any case: a trace that does not end is an engine's bug, and must not hang the
 * test. */
static void on_alarm(int sig)
{
	vcpu_request(watched, REQ_PAUSE);
}

static uint64_t *table_entry(struct target *t, gpa_t table, unsigned index)
{
	return (uint64_t *)ram_page(t->v.ram, table) + index;
}

static void map(struct target *t, uint64_t linear, gpa_t gpa, uint64_t flags)
{
	gpa_t table = GPA_TABLES;

	for (unsigned shift = 39; shift > 12; shift -= 9) {
		uint64_t *e = table_entry(t, table, linear >> shift & 511);

		if (!(*e & PTE_P)) {
			t->next_table += PAGE;
			*e = t->next_table | PTE_P | PTE_W | PTE_U;
		}
		table = *e & 0xffffffffff000ull;
	}
	*table_entry(t, table, linear >> 12 & 511) = gpa | flags | PTE_P;
}

static void map_all(struct target *t)
{
	for (unsigned i = 0; i < DATA_PAGES; i++) {
		t->pages[i] = ram_page(t->v.ram, GPA_DATA + i * PAGE);
		memcpy(t->pages[i], t->pristine + i * PAGE, PAGE);
		if (DATA_PRESENT >> i & 1)
			map(t, DATA_BASE + i * PAGE, GPA_DATA + i * PAGE,
			    PTE_U | PTE_NX | (DATA_WRITABLE >> i & 1 ? PTE_W : 0));
	}
	for (unsigned i = 0; i < CODE_PAGES; i++) {
		memset(ram_page(t->v.ram, GPA_CODE + i * PAGE), 0xcc, PAGE);
		map(t, CODE_BASE + i * PAGE, GPA_CODE + i * PAGE, PTE_U);
	}
	memset(ram_page(t->v.ram, GPA_STUB), 0xf4, PAGE);
	map(t, STUB_BASE, GPA_STUB, PTE_U);
	memset(ram_page(t->v.ram, GPA_LOW_STUB), 0xcc, PAGE);
	memcpy(ram_page(t->v.ram, GPA_LOW_STUB), low_stub_code, EPILOGUE_SIZE);
	map(t, LOW_STUB_BASE, GPA_LOW_STUB, PTE_U);
	for (unsigned i = 0; i < SYSTEM_PAGES; i++)
		map(t, SYSTEM_BASE + i * PAGE, GPA_SYSTEM + i * PAGE, PTE_W);
	memset(ram_page(t->v.ram, GPA_SYSTEM + SYS_HANDLERS), 0xf4, PAGE);
}

static void descriptors(struct target *t)
{
	uint64_t *gdt = ram_page(t->v.ram, GPA_SYSTEM + SYS_GDT);
	uint64_t *idt = ram_page(t->v.ram, GPA_SYSTEM + SYS_IDT);
	uint64_t tss = SYSTEM_BASE + SYS_TSS, rsp0 = SYSTEM_BASE + SYS_STACK_TOP;

	gdt[KERNEL_CS / 8] = 0x00af9b000000ffff;
	gdt[3] = 0x00cf93000000ffff;
	gdt[USER32_CS / 8] = 0x00cffb000000ffff;
	gdt[USER_SS / 8] = 0x00cff3000000ffff;
	gdt[USER_CS / 8] = 0x00affb000000ffff;
	gdt[TSS_SELECTOR / 8] =
		0x00008b0000000067 | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56;
	gdt[TSS_SELECTOR / 8 + 1] = tss >> 32;
	memcpy((uint8_t *)gdt + SYS_TSS + 4, &rsp0, 8);
	((uint8_t *)gdt)[SYS_TSS + 102] = 104; /* no I/O permission bitmap */
	for (unsigned i = 0; i < VECTORS; i++) {
		uint64_t to = SYSTEM_BASE + SYS_HANDLERS + 16 * i,
			 dpl = i == VEC_BP || i == VEC_OF ? 3 : 0;

		idt[2 * i] = (to & 0xffff) | (uint64_t)KERNEL_CS << 16 |
			     (0x8e00ull | dpl << 13) << 32 | (to >> 16 & 0xffff) << 48;
		idt[2 * i + 1] = to >> 32;
	}
}

static void initial_arch(struct target *t, bool compat)
{
	struct vcpu_arch *a = &t->initial;

	*a = t->v.arch;
	a->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	a->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	a->cr3 = GPA_TABLES;
	a->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	a->xcr0 = t->v.model->xcr0_mask & 7;
	a->cpl = 3;
	a->activity = ACTIVITY_RUN;
	for (unsigned i = 0; i < 6; i++)
		a->seg[i] = (struct segment){ 0 };
	a->seg[SEG_GS].base = GS_BASE;
	a->seg[SEG_CS] =
		(struct segment){ .selector = USER_CS, .limit = 0xffffffff, .attr = 0xa0fb };
	a->seg[SEG_SS] =
		(struct segment){ .selector = USER_SS, .limit = 0xffffffff, .attr = 0xc0f3 };
	if (compat) {
		a->seg[SEG_CS] = (struct segment){ .selector = USER32_CS,
						   .limit = 0xffffffff,
						   .attr = 0xc0fb };
		a->seg[SEG_DS] = a->seg[SEG_ES] = a->seg[SEG_SS];
	}
	a->seg[SEG_TR] = (struct segment){
		.selector = TSS_SELECTOR, .base = SYSTEM_BASE + SYS_TSS, .limit = 0x67, .attr = 0x8b
	};
	a->seg[SEG_LDTR] = (struct segment){ 0 };
	a->gdtr = (struct dtable){ SYSTEM_BASE + SYS_GDT, TSS_SELECTOR + 15 };
	a->idtr = (struct dtable){ SYSTEM_BASE + SYS_IDT, VECTORS * 16 - 1 };
}

struct target *target_new(const uint8_t *pristine, const struct cpu_model *model, bool stepping,
			  bool compat, const struct translate_options *translate)
{
	struct target *t = aligned_alloc(64, (sizeof(*t) + 63) & ~63ul);
	const char *error = NULL;

	if (!t)
		return NULL;
	memset(t, 0, sizeof(*t));
	t->pristine = pristine;
	t->stepping = stepping;
	t->next_table = GPA_TABLES;
	t->v.model = model;
	t->v.ram = ram_new(RAM_SIZE);
	t->v.pio = bus_new(0x10000);
	t->v.mmio = bus_new(1ull << 52);
	t->v.clock = vclock_new_manual(model->tsc_khz);
	t->v.engine = &engine_interpret;
	if (translate) {
		translate_options = *translate;
		t->v.engine = &engine_translate;
	}
	if (!t->v.ram || !t->v.pio || !t->v.mmio || !t->v.clock ||
	    apic_bus_attach(apic_bus_new(), &t->v)) {
		perror("oracle: machine");
		return NULL;
	}
	map_all(t);
	descriptors(t);
	if (t->v.engine->vcpu_open(&t->v, &error)) {
		fprintf(stderr, "oracle: engine: %s\n", error);
		return NULL;
	}
	vcpu_reset(&t->v, false);
	initial_arch(t, compat);
	t->v.arch = t->initial;
	t->v.engine->enter(&t->v);
	watched = &t->v;
	/* Translated code has the vcpu in RSP: handlers need a stack of their own. */
	sigaltstack(&(stack_t){ .ss_sp = malloc(65536), .ss_size = 65536 }, NULL);
	sigaction(SIGALRM, &(struct sigaction){ .sa_handler = on_alarm, .sa_flags = SA_ONSTACK },
		  NULL);
	return t;
}

void target_free(struct target *t)
{
	t->v.engine->leave(&t->v);
	t->v.engine->vcpu_close(&t->v);
	apic_bus_free(t->v.apics);
	vclock_free(t->v.clock);
	bus_free(t->v.pio);
	bus_free(t->v.mmio);
	ram_free(t->v.ram);
	free(t);
}

static void put_code(struct target *t, const struct oracle_case *c, const uint8_t *bytes)
{
	/* As a device would, so that code decoded from here is forgotten. */
	if (dma_write(t->v.ram, GPA_CODE + c->offset, bytes, c->code_len))
		abort();
}

/* The frame that delivery left on the stack of CPL 0. */
static void take_frame(struct target *t, struct oracle_result *out)
{
	uint64_t top = SYSTEM_BASE + SYS_STACK_TOP, frame = t->v.arch.gpr[RSP],
		 at = frame - SYSTEM_BASE;
	const uint64_t *words;

	out->vector = (uint8_t)((t->v.arch.rip - 1 - SYSTEM_BASE - SYS_HANDLERS) / 16);
	out->error = 0;
	out->cr2 = t->v.arch.cr2;
	if (top - frame != 40 && top - frame != 48) {
		out->done = 0;
		return;
	}
	words = (const uint64_t *)((const uint8_t *)ram_page(t->v.ram,
							     GPA_SYSTEM + (at & ~(PAGE - 1ull))) +
				   (at & (PAGE - 1)));
	if (top - frame == 48)
		out->error = (uint32_t)*words++;
	out->state.rip = words[0];
	out->state.rflags = words[2];
	out->state.gpr[RSP] = words[3];
	if (out->vector == VEC_GP && out->state.rip == STUB_BASE) {
		out->vector = NO_VECTOR;
		out->state.rflags &= ~(uint64_t)FLAG_RF; /* of the fault that ended the case */
	}
}

void target_run(struct target *t, struct oracle_case *c)
{
	static uint8_t int3[CASE_CODE_MAX];
	struct itimerval limit = { .it_value.tv_sec = 5 };
	struct oracle_result *out = &c->engine;
	struct vcpu *v = &t->v;
	struct xsave_image *image = (struct xsave_image *)v->arch.xsave;
	enum vcpu_exit why;

	memset(int3, 0xcc, sizeof(int3));
	put_code(t, c, c->code);
	/*
	 * Between cases the engine is not left: everything that enter() derives
	 * from the state is the same for all, except what is derived here.
	 */
	v->arch = t->initial;
	memcpy(v->arch.gpr, c->initial.gpr, sizeof(v->arch.gpr));
	memcpy(v->arch.xsave, c->initial.fx, FX_SIZE);
	v->arch.rip = c->initial.rip;
	v->arch.rflags = c->initial.rflags;
	if (image->header.xstate_bv & XFEATURE_X87) {
		v->arch.fpu_ip = image->fip;
		v->arch.fpu_dp = image->fdp;
		v->arch.fpu_op = image->fop;
	}
	flags_from_arch(v);
	vcpu_mode_changed(v);
	if (c->seed % 64 == 0)
		setitimer(ITIMER_REAL, &limit, NULL);
	why = v->engine->run(v, t->stepping ? 100000 : RUN_UNLIMITED);
	flags_to_arch(v);
	vcpu_fp_park(v);
	atomic_store(&v->req, 0);
	memcpy(out->state.gpr, v->arch.gpr, sizeof(out->state.gpr));
	memcpy(out->state.fx, v->arch.xsave, FX_SIZE);
	out->done = why == EXIT_HALT;
	if (out->done)
		take_frame(t, out);
	data_collect(out, t->pages, t->pristine);
	put_code(t, c, int3);
}
