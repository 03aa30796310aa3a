/*
 * Hardware task switches (SDM 3A, chapter 7): JMP, CALL, task gates, and IRET
 * with NT. Called by far transfers and by exception delivery; never in long
 * mode. Everything that can fault without a trace is done before the commit
 * point; a fault after it belongs to the new task, as the manual says.
 */
#include "cpu/transfer.h"
#include "base/bytes.h"
#include "cpu/control.h"
#include "cpu/excp.h"

/* A TSS of either size, unpacked. */
struct tss_image {
	uint16_t link;
	uint32_t cr3, eip, eflags;
	uint32_t gpr[8];
	uint16_t seg[6]; /* SEG_ES ... SEG_GS */
	uint16_t ldt;
	bool trap;
};

#define TSS32_MIN_LIMIT 0x67u
#define TSS16_MIN_LIMIT 0x2bu
#define DR6_BT          (1u << 15)
#define DR7_LOCAL       0x155u /* L0-L3 and LE */

static int tss_read(struct vcpu *v, uint64_t base, bool wide, struct tss_image *t)
{
	union {
		uint32_t d[26];
		uint16_t w[52];
	} raw;
	unsigned n;

	if (mmu_read(v, base, &raw, wide ? 104 : 44, MMU_SYSTEM))
		return -1;
	t->link = raw.w[0];
	if (wide) {
		t->cr3 = raw.d[7];
		t->eip = raw.d[8];
		t->eflags = raw.d[9];
		for (n = 0; n < 8; n++)
			t->gpr[n] = raw.d[10 + n];
		for (n = 0; n < 6; n++)
			t->seg[n] = (uint16_t)raw.d[18 + n];
		t->ldt = (uint16_t)raw.d[24];
		t->trap = raw.d[25] & 1;
		return 0;
	}
	t->cr3 = 0;
	t->eip = raw.w[7];
	t->eflags = raw.w[8];
	for (n = 0; n < 8; n++)
		t->gpr[n] =
			0xffff0000u |
			raw.w[9 + n]; /* upper halves: undefined by the manual, ones on hardware */
	for (n = 0; n < 4; n++)
		t->seg[n] = raw.w[17 + n];
	t->seg[SEG_FS] = t->seg[SEG_GS] = 0;
	t->ldt = raw.w[21];
	t->trap = false;
	return 0;
}

/* The dynamic fields of the old TSS. The reserved halves of its selector slots stay as they are. */
static int tss_write(struct vcpu *v, const struct segment *tr, uint32_t eip, uint32_t eflags)
{
	const struct vcpu_arch *a = &v->arch;
	union {
		uint32_t d[16];
		uint16_t w[32];
	} raw;
	unsigned n;

	if ((tr->attr & SEG_TYPE) >= SYS_TSS32) {
		if (mmu_read(v, tr->base + 32, &raw, 64, MMU_SYSTEM))
			return -1;
		raw.d[0] = eip;
		raw.d[1] = eflags;
		for (n = 0; n < 8; n++)
			raw.d[2 + n] = (uint32_t)a->gpr[n];
		for (n = 0; n < 6; n++)
			raw.w[20 + 2 * n] = a->seg[n].selector;
		return mmu_write(v, tr->base + 32, &raw, 64, MMU_SYSTEM);
	}
	raw.w[0] = (uint16_t)eip;
	raw.w[1] = (uint16_t)eflags;
	for (n = 0; n < 8; n++)
		raw.w[2 + n] = (uint16_t)a->gpr[n];
	for (n = 0; n < 4; n++)
		raw.w[10 + n] = a->seg[n].selector;
	return mmu_write(v, tr->base + 14, &raw, 28, MMU_SYSTEM);
}

static int tss_fault(struct vcpu *v, uint16_t selector)
{
	return excp_raise_error(v, VEC_TS, selector_error(selector));
}

static int load_ldtr(struct vcpu *v, uint16_t selector)
{
	uint64_t raw;

	v->arch.seg[SEG_LDTR] = (struct segment){ .selector = selector };
	if (selector_is_null(selector))
		return 0;
	if (selector & 4)
		return tss_fault(v, selector);
	if (descriptor_read(v, selector, &raw, VEC_TS))
		return -1;
	if (attr_type(descriptor_attr(raw)) != SYS_LDT || !(descriptor_attr(raw) & SEG_P))
		return tss_fault(v, selector);
	v->arch.seg[SEG_LDTR] = descriptor_segment(selector, raw);
	return 0;
}

static int load_cs(struct vcpu *v, uint16_t selector)
{
	unsigned rpl = selector & 3;
	uint16_t attr;
	uint64_t raw;

	if (selector_is_null(selector))
		return tss_fault(v, selector);
	if (descriptor_read(v, selector, &raw, VEC_TS))
		return -1;
	attr = descriptor_attr(raw);
	if (!attr_is_code(attr) ||
	    (attr_is_conforming(attr) ? SEG_DPL(attr) > rpl : SEG_DPL(attr) != rpl))
		return tss_fault(v, selector);
	if (!(attr & SEG_P))
		return excp_np(v, selector_error(selector));
	if (descriptor_access(v, selector, &raw))
		return -1;
	v->arch.seg[SEG_CS] = descriptor_segment(selector, raw);
	return 0;
}

static int load_ss(struct vcpu *v, uint16_t selector)
{
	uint16_t attr;
	uint64_t raw;

	if (selector_is_null(selector))
		return tss_fault(v, selector);
	if (descriptor_read(v, selector, &raw, VEC_TS))
		return -1;
	attr = descriptor_attr(raw);
	if ((selector & 3u) != v->arch.cpl || SEG_DPL(attr) != v->arch.cpl ||
	    !attr_is_writable_data(attr))
		return tss_fault(v, selector);
	if (!(attr & SEG_P))
		return excp_ss(v, selector_error(selector));
	if (descriptor_access(v, selector, &raw))
		return -1;
	v->arch.seg[SEG_SS] = descriptor_segment(selector, raw);
	return 0;
}

static int load_data(struct vcpu *v, unsigned seg, uint16_t selector)
{
	uint16_t attr;
	uint64_t raw;

	if (selector_is_null(selector))
		return 0;
	if (descriptor_read(v, selector, &raw, VEC_TS))
		return -1;
	attr = descriptor_attr(raw);
	if (!attr_is_readable(attr) ||
	    (!attr_is_conforming(attr) &&
	     ((selector & 3u) > SEG_DPL(attr) || v->arch.cpl > SEG_DPL(attr))))
		return tss_fault(v, selector);
	if (!(attr & SEG_P))
		return excp_np(v, selector_error(selector));
	if (descriptor_access(v, selector, &raw))
		return -1;
	v->arch.seg[seg] = descriptor_segment(selector, raw);
	return 0;
}

/* Registers without checks first, so that a fault in a check sees the new task's. */
static void load_registers(struct vcpu *v, const struct tss_image *t, bool nested)
{
	struct vcpu_arch *a = &v->arch;
	unsigned n;

	for (n = 0; n < 8; n++)
		a->gpr[n] = t->gpr[n];
	a->rip = t->eip;
	a->rflags = (t->eflags & (FLAGS_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT |
				  FLAG_RF | FLAG_VM | FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID)) |
		    FLAG_FIXED;
	if (nested)
		a->rflags |= FLAG_NT;
	for (n = 0; n < 6; n++)
		a->seg[n] = (struct segment){ .selector = t->seg[n] };
	a->dr[7] &= ~(uint64_t)DR7_LOCAL;
	a->cpl = a->rflags & FLAG_VM ? 3 : t->seg[SEG_CS] & 3;
}

static int load_segments(struct vcpu *v, const struct tss_image *t)
{
	static const uint8_t data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	unsigned n;

	if (load_ldtr(v, t->ldt))
		return -1;
	if (v->arch.rflags & FLAG_VM) {
		for (n = SEG_ES; n <= SEG_GS; n++)
			v->arch.seg[n] = (struct segment){ (uint64_t)t->seg[n] << 4, 0xffff,
							   t->seg[n], ATTR_VM86 };
		return 0;
	}
	if (load_cs(v, t->seg[SEG_CS]) || load_ss(v, t->seg[SEG_SS]))
		return -1;
	for (n = 0; n < 4; n++)
		if (load_data(v, data[n], t->seg[data[n]]))
			return -1;
	return 0;
}

/* The new TSS: type by the kind of switch, presence, size. */
static int target_check(struct vcpu *v, uint16_t selector, enum task_switch_kind kind,
			uint64_t *raw)
{
	uint8_t vector = kind == TASK_IRET ? VEC_TS : VEC_GP;
	uint16_t attr;
	unsigned type;

	if (selector_is_null(selector) || (selector & 4))
		return excp_raise_error(v, vector, selector_error(selector));
	if (descriptor_read(v, selector, raw, vector))
		return -1;
	attr = descriptor_attr(*raw);
	type = attr_type(attr);
	if (kind == TASK_IRET ? type != SYS_TSS32_BUSY && type != SYS_TSS16_BUSY
			      : type != SYS_TSS32 && type != SYS_TSS16)
		return excp_raise_error(v, vector, selector_error(selector));
	if (!(attr & SEG_P))
		return excp_np(v, selector_error(selector));
	if (descriptor_limit(*raw) < (type >= SYS_TSS32 ? TSS32_MIN_LIMIT : TSS16_MIN_LIMIT))
		return tss_fault(v, selector);
	return 0;
}

int task_switch_saving(struct vcpu *v, uint16_t selector, enum task_switch_kind kind,
		       uint64_t return_rip, uint32_t saved_flags, bool has_error, uint32_t error)
{
	struct segment old = v->arch.seg[SEG_TR], new;
	bool nested = kind == TASK_CALL || kind == TASK_GATE, wide;
	struct tss_image t;
	uint64_t raw;
	int rc;

	if (target_check(v, selector, kind, &raw))
		return -1;
	new = descriptor_segment(selector, raw);
	wide = (new.attr &SEG_TYPE) >= SYS_TSS32;
	if (tss_read(v, new.base, wide, &t))
		return -1;
	/* What the commit will write: both TSSs, both descriptors' type bytes. */
	if (((old.attr & SEG_TYPE) >= SYS_TSS32
		     ? mmu_probe_write(v, old.base + 32, 64, MMU_SYSTEM)
		     : mmu_probe_write(v, old.base + 14, 28, MMU_SYSTEM)) ||
	    mmu_probe_write(v, v->arch.gdtr.base + (selector & 0xfff8) + 5, 1, MMU_SYSTEM) ||
	    mmu_probe_write(v, v->arch.gdtr.base + (old.selector & 0xfff8) + 5, 1, MMU_SYSTEM) ||
	    (nested && mmu_probe_write(v, new.base, 2, MMU_SYSTEM)))
		return -1;

	if (kind == TASK_IRET)
		saved_flags &= ~FLAG_NT;
	if (tss_write(v, &old, (uint32_t)return_rip, saved_flags))
		return -1;
	if (!nested && descriptor_mark(v, old.selector, 0, 2))
		return -1;
	if (nested && mmu_write16(v, new.base, old.selector, MMU_SYSTEM))
		return -1;
	if (kind != TASK_IRET && descriptor_mark(v, selector, 2, 0))
		return -1;

	/* The commit point. */
	new.attr |= 2;
	v->arch.seg[SEG_TR] = new;
	v->arch.cr0 |= CR0_TS;
	load_registers(v, &t, nested);
	rc = wide && (v->arch.cr0 & CR0_PG) ? cr3_write(v, t.cr3) : 0;
	if (!rc)
		rc = load_segments(v, &t);
	vcpu_mode_changed(v);
	if (rc)
		return -1;
	if (!vcpu_vm86(v) && v->arch.rip > v->arch.seg[SEG_CS].limit)
		return excp_gp(v, 0);
	if (has_error && stack_push(v, error, wide ? 4 : 2))
		return -1;
	if (t.trap) {
		v->fault = (struct excp){ .vector = VEC_DB, .type = EXCP_TRAP, .dr6 = DR6_BT };
		return -1;
	}
	vcpu_window_open(v);
	return 0;
}

int task_switch(struct vcpu *v, uint16_t selector, enum task_switch_kind kind, uint64_t return_rip,
		bool has_error, uint32_t error)
{
	return task_switch_saving(v, selector, kind, return_rip, (uint32_t)v->arch.rflags,
				  has_error, error);
}
