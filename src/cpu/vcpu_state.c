/*
 * Which fields of a vcpu are state, and which values of them may come back. The
 * engines trust the canonical state as far as a guest's own instructions could
 * have brought it about; a file can hold anything, so the bounds are here.
 */
#include "cpu/vcpu_state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/excp.h"
#include "cpu/fpstate.h"
#include "cpu/lapic.h"
#include "cpu/mmu.h"
#include "cpu/model.h"
#include "cpu/xsave.h"
#include "state/stream.h"

#define REGS(m)  STATE_FIELD(struct vcpu_arch, m)
#define LIST(m)  STATE_ARRAY(struct vcpu_arch, m)
#define MSRS(m)  STATE_ARRAY_SINCE(struct vcpu_arch, m, m[0], 1)
#define APIC(m)  STATE_FIELD(struct lapic_state, m)
#define APICS(m) STATE_ARRAY(struct lapic_state, m)

#define RFLAGS_DEFINED 0x3f7fd7ull
#define CR0_DEFINED                                                                                \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
	 CR0_PG)
#define CR4_DEFINED                                                                               \
	(CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | \
	 CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE |        \
	 CR4_SMEP | CR4_SMAP)
#define EFER_DEFINED (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)
#define ATTR_DEFINED 0xf0ff

static const struct state_field segment_fields[] = { STATE_FIELD(struct segment, base),
						     STATE_FIELD(struct segment, limit),
						     STATE_FIELD(struct segment, selector),
						     STATE_FIELD(struct segment, attr), STATE_END };
static const struct state_table segment_table = {
	.name = "segment", .version = 1, .size = sizeof(struct segment), .fields = segment_fields
};

static const struct state_field dtable_fields[] = { STATE_FIELD(struct dtable, base),
						    STATE_FIELD(struct dtable, limit), STATE_END };
static const struct state_table dtable_table = {
	.name = "dtable", .version = 1, .size = sizeof(struct dtable), .fields = dtable_fields
};

static const struct state_field event_fields[] = { STATE_FIELD(struct vcpu_event, pending),
						   STATE_FIELD(struct vcpu_event, vector),
						   STATE_FIELD(struct vcpu_event, type),
						   STATE_FIELD(struct vcpu_event, has_error),
						   STATE_FIELD(struct vcpu_event, error),
						   STATE_FIELD(struct vcpu_event, cr2),
						   STATE_END };
static const struct state_table event_table = {
	.name = "event", .version = 1, .size = sizeof(struct vcpu_event), .fields = event_fields
};

static const struct state_field regs_fields[] = {
	LIST(gpr),
	REGS(rip),
	REGS(rflags),
	STATE_STRUCT_ARRAY(struct vcpu_arch, seg, &segment_table),
	STATE_STRUCT_FIELD(struct vcpu_arch, gdtr, &dtable_table),
	STATE_STRUCT_FIELD(struct vcpu_arch, idtr, &dtable_table),
	REGS(cr0),
	REGS(cr2),
	REGS(cr3),
	REGS(cr4),
	REGS(efer),
	REGS(xcr0),
	LIST(pdpte),
	LIST(dr),
	REGS(cpl),
	REGS(shadow),
	REGS(nmi_masked),
	REGS(activity),
	REGS(a20_masked),
	STATE_STRUCT_FIELD(struct vcpu_arch, event, &event_table),
	REGS(fpu_ip),
	REGS(fpu_dp),
	REGS(fpu_op),
	STATE_END,
};

static int wrong(const char **error, const char *why)
{
	*error = why;
	return -1;
}

static int modes_post_load(struct vcpu_arch *a, const char **error)
{
	bool paging = a->cr0 & CR0_PG, lme = a->efer & EFER_LME, lma = a->efer & EFER_LMA;

	if ((a->cr0 & ~(uint64_t)CR0_DEFINED) || (a->cr4 & ~(uint64_t)CR4_DEFINED) ||
	    (a->efer & ~(uint64_t)EFER_DEFINED))
		return wrong(error, "a control register has bits that do not exist");
	if (paging && !(a->cr0 & CR0_PE))
		return wrong(error, "paging without protection");
	if ((a->cr0 & CR0_NW) && !(a->cr0 & CR0_CD))
		return wrong(error, "CR0.NW without CR0.CD");
	if (lma != (lme && paging) || (lma && !(a->cr4 & CR4_PAE)))
		return wrong(error, "EFER, CR0 and CR4 contradict each other");
	if ((a->cr4 & CR4_PCIDE) && !lma)
		return wrong(error, "CR4.PCIDE outside of long mode");
	if (lma && (a->rflags & FLAG_VM))
		return wrong(error, "virtual-8086 mode within long mode");
	return 0;
}

static int regs_post_load(void *object, const char **error)
{
	struct vcpu_arch *a = object;

	if (modes_post_load(a, error) < 0)
		return -1;
	if (a->cpl > 3 || a->shadow > SHADOW_MOV_SS || a->activity > ACTIVITY_SHUTDOWN ||
	    a->nmi_masked > 1 || a->a20_masked > 1)
		return wrong(error, "a privilege level or activity does not exist");
	if (a->event.pending > 1 || a->event.has_error > 1 || a->event.type > EXCP_ICEBP)
		return wrong(error, "an event does not exist");
	if (!(a->cr0 & CR0_PE) && a->cpl)
		return wrong(error, "real mode is privilege level 0");
	for (unsigned i = 0; i < SEG_COUNT; i++)
		a->seg[i].attr &= ATTR_DEFINED;
	/* In legacy modes a base has 32 bits; code that wraps addresses relies on it. */
	for (unsigned i = 0; i < SEG_COUNT && !(a->efer & EFER_LMA); i++)
		a->seg[i].base &= UINT32_MAX;
	if ((a->efer & EFER_LMA) && (a->seg[SEG_CS].attr & SEG_L) && (a->seg[SEG_CS].attr & SEG_DB))
		return wrong(error, "a code segment is of 64 and of 32 bits");
	a->rflags = (a->rflags & RFLAGS_DEFINED) | FLAG_FIXED;
	a->cr0 |= CR0_ET;
	a->zero = 0;
	return 0;
}

static const struct state_table regs_table = {
	.name = "vcpu",
	.version = 1,
	.size = sizeof(struct vcpu_arch),
	.fields = regs_fields,
	.post_load = regs_post_load,
};

static const struct state_field msr_fields[] = {
	REGS(msr.star),
	REGS(msr.lstar),
	REGS(msr.cstar),
	REGS(msr.fmask),
	REGS(msr.kernel_gs_base),
	REGS(msr.sysenter_cs),
	REGS(msr.sysenter_esp),
	REGS(msr.sysenter_eip),
	REGS(msr.tsc_offset),
	REGS(msr.tsc_adjust),
	REGS(msr.tsc_aux),
	REGS(msr.pat),
	REGS(msr.misc_enable),
	REGS(msr.feature_control),
	REGS(msr.spec_ctrl),
	REGS(msr.debugctl),
	REGS(msr.xss),
	REGS(msr.mtrr_def_type),
	MSRS(msr.mtrr_fixed),
	MSRS(msr.mtrr_var),
	REGS(msr.mcg_status),
	REGS(msr.mcg_ctl),
	MSRS(msr.mc_bank),
	REGS(msr.kvm_wall_clock),
	REGS(msr.kvm_system_time),
	REGS(msr.kvm_steal_time),
	REGS(msr.kvm_poll_control),
	MSRS(msr.perfevtsel),
	MSRS(msr.pmc),
	REGS(msr.fixed_ctr_ctrl),
	MSRS(msr.fixed_ctr),
	REGS(msr.perf_global_ctrl),
	STATE_END,
};

static uint64_t canonical(uint64_t address)
{
	return (uint64_t)((int64_t)(address << 16) >> 16);
}

/* What WRMSR would have refused becomes what it would have taken. */
static int msr_post_load(void *object, const char **error)
{
	struct vcpu_arch *a = object;

	a->msr.lstar = canonical(a->msr.lstar);
	a->msr.cstar = canonical(a->msr.cstar);
	a->msr.kernel_gs_base = canonical(a->msr.kernel_gs_base);
	a->msr.sysenter_esp = canonical(a->msr.sysenter_esp);
	a->msr.sysenter_eip = canonical(a->msr.sysenter_eip);
	a->msr.tsc_aux &= UINT32_MAX;
	return 0;
}

static const struct state_table msr_table = {
	.name = "vcpu-msr",
	.version = 1,
	.size = sizeof(struct vcpu_arch),
	.fields = msr_fields,
	.post_load = msr_post_load,
};

static const struct state_field lapic_fields[] = {
	APIC(base_msr),     APIC(tpr),           APIC(ldr),          APIC(dfr),
	APIC(svr),          APIC(esr),           APIC(esr_pending),  APICS(isr),
	APICS(tmr),         APICS(irr),          APIC(icr_low),      APIC(icr_high),
	APICS(lvt),         APIC(timer_initial), APIC(timer_divide), APIC(timer_start_ns),
	APIC(tsc_deadline), STATE_END,
};

static int lapic_post_load(void *object, const char **error)
{
	struct lapic_state *apic = object;
	const uint64_t mode = APIC_BASE_ENABLE | APIC_BASE_X2APIC;

	if ((apic->base_msr & mode) == APIC_BASE_X2APIC || apic->base_msr >> 52)
		return wrong(error, "IA32_APIC_BASE holds a mode or address that does not exist");
	apic->base_msr &= ~0xfffull | APIC_BASE_BSP | mode;
	/* Vectors 0 to 15 never get so far. */
	apic->isr[0] &= 0xffff0000;
	apic->irr[0] &= 0xffff0000;
	return 0;
}

static const struct state_table lapic_table = {
	.name = "lapic",
	.version = 1,
	.size = sizeof(struct lapic_state),
	.fields = lapic_fields,
	.post_load = lapic_post_load,
};

static const struct state_field fpu_fields[] = { LIST(xsave), STATE_END };

/* What XRSTOR on the host would choke on, vcpu_fp_load() sets right. */
static const struct state_table fpu_table = {
	.name = "xsave", .version = 1, .size = sizeof(struct vcpu_arch), .fields = fpu_fields
};

/* Signals that have arrived and were not acted on. */
struct vcpu_pending {
	bool nmi, init, startup, kick;
	uint8_t startup_vector;
};

static const struct state_field pending_fields[] = {
	STATE_FIELD(struct vcpu_pending, nmi),     STATE_FIELD(struct vcpu_pending, init),
	STATE_FIELD(struct vcpu_pending, startup), STATE_FIELD(struct vcpu_pending, startup_vector),
	STATE_FIELD(struct vcpu_pending, kick),    STATE_END
};

static const struct state_table pending_table = {
	.name = "pending",
	.version = 1,
	.size = sizeof(struct vcpu_pending),
	.fields = pending_fields,
};

struct section {
	char name[STATE_NAME_MAX + 1];
};

static const char *section_name(struct section *s, const struct vcpu *v, const char *part)
{
	snprintf(s->name, sizeof(s->name), "vcpu.%u%s", v->index, part);
	return s->name;
}

void vcpu_save(struct vcpu *v, struct state_writer *w)
{
	struct vcpu_pending pending = { 0 };
	struct section s;
	uint32_t req;

	vcpu_fp_park(v);
	lapic_take_posted(v);
	req = atomic_load(&v->req);
	pending.nmi = req & REQ_NMI;
	pending.init = req & REQ_INIT;
	pending.startup = req & REQ_SIPI;
	pending.kick = (req & REQ_KICK) || v->arch.kicked;
	pending.startup_vector = pending.startup ? (uint8_t)atomic_load(&v->sipi_vector) : 0;
	/* What was taken must still be looked at when this machine goes on. */
	atomic_fetch_or(&v->req, REQ_IRQ);
	state_save_named(&regs_table, section_name(&s, v, ""), &v->arch, w);
	state_save_named(&msr_table, section_name(&s, v, ".msr"), &v->arch, w);
	state_save_named(&lapic_table, section_name(&s, v, ".lapic"), &v->arch.lapic, w);
	state_save_named(&fpu_table, section_name(&s, v, ".xsave"), &v->arch, w);
	state_save_named(&pending_table, section_name(&s, v, ".pending"), &pending, w);
}

static int refuse(struct state_reader *r, const struct vcpu *v, const char *why)
{
	snprintf(r->error, sizeof(r->error), "Section vcpu.%u is refused: %s.", v->index, why);
	return -EINVAL;
}

/* What depends on the CPU model. */
static int check_model(struct vcpu *v, struct state_reader *r)
{
	uint64_t beyond = ~0ull << v->model->phys_bits;

	if ((v->arch.xcr0 & ~(v->model->xcr0_mask | XFEATURE_X87)) ||
	    !(v->arch.xcr0 & XFEATURE_X87) ||
	    ((v->arch.xcr0 & XFEATURE_AVX) && !(v->arch.xcr0 & XFEATURE_SSE)))
		return refuse(r, v, "XCR0 has components that this CPU model lacks");
	if ((v->arch.cr3 & beyond) || (v->arch.lapic.base_msr & beyond))
		return refuse(r, v, "a physical address is too large for this CPU model");
	return 0;
}

int vcpu_load(struct vcpu *v, struct state_reader *r)
{
	struct vcpu_pending pending = { 0 };
	struct section s;
	int err;

	err = state_load_named(&regs_table, section_name(&s, v, ""), &v->arch, r);
	if (!err)
		err = state_load_named(&msr_table, section_name(&s, v, ".msr"), &v->arch, r);
	if (!err)
		err = state_load_named(&lapic_table, section_name(&s, v, ".lapic"), &v->arch.lapic,
				       r);
	if (!err)
		err = state_load_named(&fpu_table, section_name(&s, v, ".xsave"), &v->arch, r);
	if (!err)
		err = state_load_named(&pending_table, section_name(&s, v, ".pending"), &pending,
				       r);
	if (!err)
		err = check_model(v, r);
	if (err)
		return err;
	/* What devices said while they were loaded is in the APIC's registers already. */
	for (unsigned i = 0; i < 8; i++)
		atomic_store(&v->posted[i], 0);
	atomic_store(&v->sipi_vector, pending.startup_vector);
	v->arch.kicked = 0;
	/* News for the engine waits in its queue and stays announced. */
	atomic_fetch_and(&v->req, REQ_CODE);
	atomic_fetch_or(&v->req,
			REQ_FLUSH | (pending.nmi ? REQ_NMI : 0) | (pending.init ? REQ_INIT : 0) |
				(pending.startup ? REQ_SIPI : 0) | (pending.kick ? REQ_KICK : 0));
	v->fp_live = false;
	vcpu_mode_changed(v);
	lapic_loaded(v);
	return 0;
}

/* ---- the CPU model ---- */

#define MODEL_WORDS 4

struct model_state {
	uint8_t name[16], vendor[12], brand[48];
	uint32_t signature, phys_bits, linear_bits;
	uint64_t features[MODEL_WORDS], xcr0_mask;
	bool kvm_clock;
};
_Static_assert((FEAT_COUNT + 63) / 64 <= MODEL_WORDS, "room for features");

static const struct state_field model_fields[] = {
	STATE_ARRAY(struct model_state, name),      STATE_ARRAY(struct model_state, vendor),
	STATE_ARRAY(struct model_state, brand),     STATE_FIELD(struct model_state, signature),
	STATE_FIELD(struct model_state, phys_bits), STATE_FIELD(struct model_state, linear_bits),
	STATE_ARRAY(struct model_state, features),  STATE_FIELD(struct model_state, xcr0_mask),
	STATE_FIELD(struct model_state, kvm_clock), STATE_END,
};

static int model_post_load(void *object, const char **error)
{
	struct model_state *m = object;

	if (m->phys_bits < 36 || m->phys_bits > 52 || m->linear_bits != 48)
		return wrong(error, "a CPU's addresses cannot be so wide");
	m->name[sizeof(m->name) - 1] = 0;
	return 0;
}

static const struct state_table model_table = {
	.name = "cpu-model",
	.version = 1,
	.size = sizeof(struct model_state),
	.fields = model_fields,
	.post_load = model_post_load,
};

void cpu_model_save(const struct cpu_model *model, struct state_writer *w)
{
	struct model_state m = {
		.signature = model->family_model_stepping,
		.phys_bits = model->phys_bits,
		.linear_bits = model->linear_bits,
		.xcr0_mask = model->xcr0_mask,
		.kvm_clock = model->kvm_clock,
	};

	strncpy((char *)m.name, model->name, sizeof(m.name) - 1);
	memcpy(m.vendor, model->vendor, sizeof(m.vendor));
	memcpy(m.brand, model->brand, sizeof(m.brand));
	memcpy(m.features, model->features, sizeof(model->features));
	state_save(&model_table, &m, w);
}

/* The model of that name on this host, its identity and features those that the guest has seen. */
const struct cpu_model *cpu_model_load(struct state_reader *r, unsigned cpus, uint64_t tsc_khz)
{
	struct model_state m = { 0 };
	const struct cpu_model *here;
	struct cpu_model *model;
	const char *why = "out of memory";
	uint64_t lacking = 0;

	if (state_load(&model_table, &m, r) < 0)
		return NULL;
	here = cpu_model_new((const char *)m.name, cpus, tsc_khz, &why);
	if (!here) {
		snprintf(r->error, sizeof(r->error), "CPU model %.15s: %s", m.name, why);
		return NULL;
	}
	model = (struct cpu_model *)here;
	for (unsigned i = 0; i < MODEL_WORDS; i++) {
		uint64_t have = i < sizeof(here->features) / 8 ? here->features[i] : 0;

		lacking |= m.features[i] & ~have;
	}
	if (lacking || (m.xcr0_mask & ~here->xcr0_mask)) {
		snprintf(r->error, sizeof(r->error),
			 "The guest uses features of its CPU that this host lacks (model %.15s).",
			 m.name);
		cpu_model_free(here);
		return NULL;
	}
	model->family_model_stepping = m.signature;
	model->phys_bits = m.phys_bits;
	model->linear_bits = m.linear_bits;
	model->xcr0_mask = m.xcr0_mask;
	model->kvm_clock = m.kvm_clock;
	memcpy(model->vendor, m.vendor, sizeof(m.vendor));
	memcpy(model->brand, m.brand, sizeof(m.brand));
	model->brand[sizeof(m.brand)] = 0;
	memcpy(model->features, m.features, sizeof(model->features));
	return model;
}
