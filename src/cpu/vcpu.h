/*
 * The virtual CPU. `struct vcpu_arch` is the canonical state: architectural
 * values only, the same under every engine, the part that is saved. The rest
 * of `struct vcpu` belongs to the running process and is never saved.
 *
 * Owner: the vcpu's own thread. Other threads may only post (cpu/post.h).
 *
 * The rooms src/cpu, src/mem and src/engine/interpret are compiled with
 * -mgeneral-regs-only, because the guest's vector and x87 registers stay live
 * in the host's while guest code runs. Whoever in these rooms calls out of
 * them (bus, clock, libc, Zydis) calls vcpu_fp_park() first; see cpu/fpstate.h.
 */
#ifndef INSULA_CPU_VCPU_H
#define INSULA_CPU_VCPU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, SEG_COUNT };

/*
 * A segment register with its hidden part. attr is the descriptor's access
 * byte in bits 0-7 (type, S, DPL, P) and its flags nibble in bits 12-15
 * (AVL, L, D/B, G), as VMCB and VMX lay it out; limit is in bytes, granularity
 * applied. A null or unusable segment has P clear.
 */
struct segment {
	uint64_t base;
	uint32_t limit;
	uint16_t selector;
	uint16_t attr;
};
#define SEG_TYPE      0x000f
#define SEG_S         0x0010
#define SEG_DPL_SHIFT 5
#define SEG_DPL(attr) (((attr) >> 5) & 3)
#define SEG_P         0x0080
#define SEG_AVL       0x1000
#define SEG_L         0x2000
#define SEG_DB        0x4000
#define SEG_G         0x8000

struct dtable {
	uint64_t base;
	uint16_t limit;
};

/* The state a local APIC's registers hold (SDM 3A, chapter 11). Index 0..7 of the 256-bit registers
 * is vector / 32. */
enum { LVT_CMCI, LVT_TIMER, LVT_THERMAL, LVT_PMC, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };
struct lapic_state {
	uint64_t base_msr; /* IA32_APIC_BASE */
	uint32_t id;       /* xAPIC: id << 24 as read at 0x20; x2APIC: the 32-bit id */
	uint32_t tpr, ldr, dfr, svr, esr, esr_pending;
	uint32_t isr[8], tmr[8], irr[8];
	uint32_t icr_low, icr_high;
	uint32_t lvt[LVT_COUNT];
	uint32_t timer_initial, timer_divide;
	uint64_t timer_start_ns; /* guest time at which the running count began */
	uint64_t tsc_deadline;
};

struct vcpu_event { /* an exception or interrupt whose delivery was cut short; re-delivered on entry
		     */
	uint8_t pending;
	uint8_t vector;
	uint8_t type; /* enum excp_type */
	uint8_t has_error;
	uint32_t error;
	uint64_t cr2;
};

enum vcpu_activity { ACTIVITY_RUN, ACTIVITY_HALT, ACTIVITY_WAIT_SIPI, ACTIVITY_SHUTDOWN };

#define XSAVE_AREA_SIZE \
	4096 /* room for x87, SSE, AVX, AVX-512 in the standard (not compacted) format */
#define MC_BANKS      4
#define MTRR_VARIABLE 8

struct vcpu_arch {
	uint64_t gpr[16];
	uint64_t rip;
	uint64_t zero;   /* always 0: what an absent base or index register reads in decoded code */
	uint64_t rflags; /* materialised; bit 1 always set */
	struct segment seg[SEG_COUNT];
	struct dtable gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4, efer, xcr0;
	uint64_t pdpte[4]; /* PAE paging's four, loaded with CR3 (SDM 3A, 4.4.1) */
	uint64_t dr[8];    /* dr4, dr5 unused */
	uint8_t cpl;
	uint8_t shadow;     /* enum vcpu_shadow: interrupts inhibited for one instruction */
	uint8_t nmi_masked; /* between NMI delivery and IRET */
	uint8_t activity;   /* enum vcpu_activity */
	uint8_t a20_masked;
	uint8_t kicked; /* by the paravirtual hypercall while it ran: the next HLT does not wait */
	struct vcpu_event event;
	struct {
		uint64_t star, lstar, cstar, fmask, kernel_gs_base;
		uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
		uint64_t
			tsc_offset; /* added to the VM's TSC: IA32_TSC writes and IA32_TSC_ADJUST */
		uint64_t tsc_adjust, tsc_aux;
		uint64_t pat, misc_enable, feature_control, spec_ctrl, debugctl, xss;
		uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_var[2 * MTRR_VARIABLE];
		uint64_t mcg_status, mcg_ctl, mc_bank[4 * MC_BANKS];
		uint64_t kvm_wall_clock, kvm_system_time, kvm_steal_time, kvm_poll_control;
		uint64_t perfevtsel[4], pmc[4], fixed_ctr_ctrl, fixed_ctr[3], perf_global_ctrl;
	} msr;
	struct lapic_state lapic;
	/* Last x87 instruction, kept by software engines because the host's pointers would be the
	 * engine's own. */
	uint64_t fpu_ip, fpu_dp;
	uint16_t fpu_op;
	uint8_t xsave[XSAVE_AREA_SIZE] __attribute__((aligned(64)));
};

enum vcpu_shadow { SHADOW_NONE, SHADOW_STI, SHADOW_MOV_SS };

/* RFLAGS */
#define FLAG_CF     0x1u
#define FLAG_FIXED  0x2u
#define FLAG_PF     0x4u
#define FLAG_AF     0x10u
#define FLAG_ZF     0x40u
#define FLAG_SF     0x80u
#define FLAG_TF     0x100u
#define FLAG_IF     0x200u
#define FLAG_DF     0x400u
#define FLAG_OF     0x800u
#define FLAG_IOPL   0x3000u
#define FLAG_NT     0x4000u
#define FLAG_RF     0x10000u
#define FLAG_VM     0x20000u
#define FLAG_AC     0x40000u
#define FLAG_VIF    0x80000u
#define FLAG_VIP    0x100000u
#define FLAG_ID     0x200000u
#define FLAGS_ARITH (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

#define CR0_PE 0x1u
#define CR0_MP 0x2u
#define CR0_EM 0x4u
#define CR0_TS 0x8u
#define CR0_ET 0x10u
#define CR0_NE 0x20u
#define CR0_WP 0x10000u
#define CR0_AM 0x40000u
#define CR0_NW 0x20000000u
#define CR0_CD 0x40000000u
#define CR0_PG 0x80000000u

#define CR4_VME        0x1u
#define CR4_PVI        0x2u
#define CR4_TSD        0x4u
#define CR4_DE         0x8u
#define CR4_PSE        0x10u
#define CR4_PAE        0x20u
#define CR4_MCE        0x40u
#define CR4_PGE        0x80u
#define CR4_PCE        0x100u
#define CR4_OSFXSR     0x200u
#define CR4_OSXMMEXCPT 0x400u
#define CR4_UMIP       0x800u
#define CR4_FSGSBASE   0x10000u
#define CR4_PCIDE      0x20000u
#define CR4_OSXSAVE    0x40000u
#define CR4_SMEP       0x100000u
#define CR4_SMAP       0x200000u

#define EFER_SCE 0x1u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u
#define EFER_NXE 0x800u

/* An exception about to be delivered: what a failing call left in vcpu->fault. */
enum excp_type {
	EXCP_FAULT,
	EXCP_TRAP,
	EXCP_INTERRUPT,
	EXCP_NMI,
	EXCP_SOFT_INT,
	EXCP_INT3,
	EXCP_INTO,
	EXCP_ICEBP
};
struct excp {
	uint8_t vector;
	uint8_t type;
	uint8_t has_error;
	uint8_t insn_len; /* software interrupts: bytes to skip for the pushed RIP */
	uint32_t error;
	uint64_t cr2; /* #PF only: becomes CR2 when delivery begins */
	uint64_t dr6; /* #DB only: bits to OR into DR6 */
};

/* Request bits: OR-ed by any thread into vcpu->req, then kick. Cleared by the owner when it acts on
 * them. */
enum vcpu_request {
	REQ_IRQ = 1 << 0,    /* vcpu->posted has vectors */
	REQ_EXTINT = 1 << 1, /* the 8259's INTR line may have changed */
	REQ_NMI = 1 << 2,
	REQ_INIT = 1 << 3,
	REQ_SIPI = 1 << 4, /* vcpu->sipi_vector */
	REQ_TIMER = 1 << 5,
	REQ_CODE = 1 << 6,   /* code changed under us: engine's queue */
	REQ_PAUSE = 1 << 7,  /* leave run() with EXIT_REQUEST */
	REQ_SHADOW = 1 << 8, /* own use: an interrupt shadow or TF needs attention after the next
				instruction */
	REQ_WINDOW = 1 << 9, /* own use: an interrupt waits for IF */
	REQ_FLUSH = 1 << 10, /* flush the whole TLB (memory map changed) */
	REQ_KICK = 1 << 12,  /* a guest's kick hypercall ended our HLT, or the next one */
	REQ_EXCLUSIVE = 1 << 11, /* another vcpu wants to be alone: exclusive_attend() */
};

struct bus;
struct ram;
struct vclock;
struct cpu_model;
struct apic_bus;
struct exclusive;
struct halt_room;
struct lapic_port;
struct stop_sink;
struct engine;
struct soft_mmu;
struct insn;
struct jump_entry;
struct trace;
struct check;
struct vcpu;

/*
 * The software engines' fast view of arch: the soft TLB of the current address
 * space and privilege, arithmetic flags as the host's LAHF and SETO gave them,
 * and scratch through which slow paths return values (a local whose address
 * escapes would cost handlers their tail calls). Rebuilt by enter, emptied by leave.
 */
#define TLB_BITS    10
#define TLB_SIZE    (1u << TLB_BITS)
#define TLB_INVALID 1ull /* never equal to a page address */
/* For the data tables: besides, no address that is looked up in this slot lies within a page above.
 */
static inline uint64_t tlb_invalid(unsigned slot)
{
	return (uint64_t)(slot ^ TLB_SIZE / 2) << 12 | TLB_INVALID;
}
struct tlb_entry {
	uint64_t tag;    /* linear page address, or TLB_INVALID */
	uint64_t addend; /* host = linear + addend */
};
struct soft {
	struct tlb_entry *tlb_read; /* TLB_SIZE entries, indexed by linear address bits 12.. */
	struct tlb_entry *tlb_write;
	struct tlb_entry *system_read; /* as above for MMU_SYSTEM accesses, whatever the CPL */
	struct tlb_entry *system_write;
	uint16_t flags;  /* bits 8-15: AH of LAHF (SF ZF 0 AF 0 PF 1 CF); bit 0: OF. Valid while
			    flags_live */
	bool flags_live; /* arithmetic flags are here, not in arch.rflags */
	uint8_t exit;    /* engine's own: why the trace returned */
	uint32_t mode;   /* engine's mode word for decoding, kept by vcpu_mode_changed() */
	uint32_t flat;   /* bit n: segment n has base 0 and covers all addresses of the mode */
	struct jump_entry *jumps;     /* engine's cache of code addresses */
	const struct insn *link_from; /* engine's own: the branch to be linked next */
	uint64_t global_gen; /* as code_gen, for code on global pages: the same in every address
				space */
	bool fetch_global;   /* the last mmu_fetch found a global page */
	uint64_t code_gen;   /* names the (address space, mode) in which linear code addresses are
				valid now */
	uint64_t value;      /* scalar result of a slow load, operand of a slow store */
	unsigned pauses;     /* PAUSEs executed */
	uint64_t la;         /* linear address found by a checked address computation */
	struct soft_mmu *mmu;
	/* The translator's: see engine/translate/runtime.c. */
	uint64_t host_sp;     /* the thread's stack while RSP is the vcpu */
	uint64_t resume;      /* where a stub goes back to */
	uint64_t target;      /* of an indirect branch */
	uint32_t jump_mask;   /* where the jump cache's index is in an entry's distance */
	uint64_t leave_known; /* address of the stub for jumps to untranslated code */
	uint64_t callout;     /* record for the interpreter's handler */
	uint64_t kept[9];     /* registers across the filling of a TLB entry */
	uint64_t group[4];    /* addends of the running block's groups of accesses */
	int32_t exit_offset;  /* from the page: where translated code was left */
	uint32_t access;      /* of a TLB miss at la: size, MMU_FILL_WRITE */
	uint32_t link_exit;   /* 0, or the number of the exit that could be linked */
	bool gs_tables;       /* GS base is tlb_read: see mmu_use_gs() */
	bool killed;          /* some translation died since translated code was entered */
	struct trace *hot;    /* a trace that was executed often enough to be translated */
	/* While translations are checked, else NULL and false: see engine/translate/check.h. */
	struct check *check;
	void (*check_store)(struct vcpu *v, uint8_t *page, struct tlb_entry *entry);
	bool in_check;
	uint8_t bounce[64] __attribute__((aligned(64))); /* vector operand on a slow path */
};

/* cpu/halt.h. The owner's; times in ticks of the host's TSC. */
struct halt {
	struct halt_room *room; /* fixed at creation; NULL: halts sleep at once */
	uint64_t window;        /* how long the next poll lasts */
	uint64_t since;         /* the present halt began */
	uint64_t lost_at;       /* the thread last lost its CPU in a poll */
	uint64_t polled, slept; /* halts that ended in a poll; sleeps */
};

struct vcpu {
	struct vcpu_arch arch; /* first: engines address guest registers from the vcpu pointer */

	struct soft soft;  /* software engines only */
	struct excp fault; /* set by every call that returns -1 */
	bool fp_live; /* guest vector and x87 state is in the host registers, not in arch.xsave */
	bool tsc_direct; /* VM TSC = host TSC + tsc_host_offset; see vcpu_tsc_sync() */
	uint64_t tsc_host_offset;
	struct halt halt;

	/* Written by other threads. */
	_Atomic uint32_t req __attribute__((aligned(64)));
	_Atomic uint32_t sleeping; /* futex word: 1 while the thread waits for req */
	_Atomic uint32_t posted[8];
	_Atomic int32_t kick_tid; /* the owner, while only a signal makes it look at req; else 0 */
	_Atomic uint32_t
		posted_level[8]; /* trigger mode of the posted vectors: a set bit goes to TMR */
	_Atomic uint32_t sipi_vector;
	_Atomic uint32_t extint; /* level of the 8259's INTR output (LINT0 of the boot cpu) */

	/* Written by the owner, read by other threads. */
	_Atomic uint32_t presence; /* enum vcpu_presence, cpu/exclusive.h */

	/* Fixed at creation. */
	unsigned index; /* also the initial APIC id */
	struct ram *ram;
	struct bus *pio, *mmio;
	struct vclock *clock;
	const struct cpu_model *model;
	struct apic_bus *apics;
	struct lapic_port *lapic_port; /* our place on it; apic_bus_attach() */
	struct exclusive *exclusive;   /* NULL: the only vcpu, nobody to hold */
	const struct stop_sink *stop;
	/* Acknowledge the 8259: returns the vector. NULL if the machine has none. */
	int (*pic_ack)(void *ctx);
	void *pic_ctx;
	const struct engine *engine;
	void *engine_priv; /* the engine's, of this vcpu; made by its vcpu_open */
	void *engine_vm;   /* the engine's, of all vcpus; made by its vm_open */
};

/* Mode predicates on canonical state. */
static inline bool vcpu_long_mode(const struct vcpu *v)
{
	return v->arch.efer & EFER_LMA;
}
static inline bool vcpu_code64(const struct vcpu *v)
{
	return (v->arch.efer & EFER_LMA) && (v->arch.seg[SEG_CS].attr & SEG_L);
}
static inline bool vcpu_real_mode(const struct vcpu *v)
{
	return !(v->arch.cr0 & CR0_PE);
}
static inline bool vcpu_vm86(const struct vcpu *v)
{
	return (v->arch.cr0 & CR0_PE) && (v->arch.rflags & FLAG_VM);
}
static inline bool vcpu_protected(const struct vcpu *v)
{
	return (v->arch.cr0 & CR0_PE) && !(v->arch.rflags & FLAG_VM);
}
static inline unsigned vcpu_iopl(const struct vcpu *v)
{
	return (v->arch.rflags >> 12) & 3;
}
static inline bool address_canonical(uint64_t la)
{
	return (uint64_t)((int64_t)(la << 16) >> 16) == la;
}

/* Power-on state of SDM 3A table 9-1; ap: wait for SIPI. Does not touch the fixed fields. */
void vcpu_reset(struct vcpu *v, bool ap);
/* INIT: as reset, but caches, FPU, most MSRs keep their values (SDM 3A table 9-1). Then RUN for the
 * boot cpu, WAIT_SIPI else. */
void vcpu_init_signal(struct vcpu *v);

#endif
