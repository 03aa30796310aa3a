/*
 * Privileged and system instructions: control and debug registers, MSRs,
 * descriptor table registers, TLB control, identification, time. The checks of
 * privilege, mode and CPU model are here; what the registers then do is in
 * src/cpu. Invariant: as sysop.h says.
 */
#include "base/assert.h"
#include "base/bytes.h"
#include "cpu/control.h"
#include "cpu/excp.h"
#include "cpu/lapic.h"
#include "cpu/mmu.h"
#include "cpu/model.h"
#include "cpu/segment.h"
#include "engine/interpret/sysop.h"

#define KVM_ENOSYS      1000
#define KVM_EPERM       1
#define KVM_HC_KICK_CPU 5

/* VM86 code has CPL 3, real mode 0. */
static int require_cpl0(struct vcpu *v)
{
	return v->arch.cpl ? excp_gp(v, 0) : 0;
}

/* SGDT, SIDT, SLDT, STR and SMSW of user code when the kernel hides what they show. */
static int require_no_umip(struct vcpu *v)
{
	return v->arch.cpl && (v->arch.cr4 & CR4_UMIP) ? excp_gp(v, 0) : 0;
}

static void edx_eax_write(struct vcpu *v, uint64_t value)
{
	v->arch.gpr[RAX] = (uint32_t)value;
	v->arch.gpr[RDX] = value >> 32;
}

static uint64_t edx_eax_read(const struct vcpu *v)
{
	return v->arch.gpr[RDX] << 32 | (uint32_t)v->arch.gpr[RAX];
}

/* Registers of control moves have the width of the mode, whatever the prefixes. */
static unsigned control_size(const struct vcpu *v)
{
	return vcpu_code64(v) ? 8 : 4;
}

static int op_nop(struct vcpu *v, const struct sysop *op)
{
	return SYSOP_DONE;
}

static int op_fence(struct vcpu *v, const struct sysop *op)
{
	atomic_thread_fence(memory_order_seq_cst);
	return SYSOP_DONE;
}

static int op_hlt(struct vcpu *v, const struct sysop *op)
{
	if (require_cpl0(v) < 0)
		return -1;
	if (v->arch.kicked)
		v->arch.kicked = 0;
	else
		v->arch.activity = ACTIVITY_HALT;
	return SYSOP_DONE;
}

static int op_cpuid(struct vcpu *v, const struct sysop *op)
{
	struct cpuid_regs regs;

	vcpu_cpuid(v, (uint32_t)v->arch.gpr[RAX], (uint32_t)v->arch.gpr[RCX], &regs);
	v->arch.gpr[RAX] = regs.eax;
	v->arch.gpr[RBX] = regs.ebx;
	v->arch.gpr[RCX] = regs.ecx;
	v->arch.gpr[RDX] = regs.edx;
	return SYSOP_DONE;
}

static int op_rdtsc(struct vcpu *v, const struct sysop *op)
{
	bool with_aux = op->mnemonic == ZYDIS_MNEMONIC_RDTSCP;

	if (with_aux && !cpu_has(v->model, FEAT_RDTSCP))
		return excp_ud(v);
	if ((v->arch.cr4 & CR4_TSD) && v->arch.cpl)
		return excp_gp(v, 0);
	if (with_aux) /* waits for the instructions before it, as RDTSC does not */
		__asm__ volatile("lfence" ::: "memory");
	edx_eax_write(v, vcpu_tsc(v));
	if (with_aux)
		v->arch.gpr[RCX] = (uint32_t)v->arch.msr.tsc_aux;
	return SYSOP_DONE;
}

static int op_rdpid(struct vcpu *v, const struct sysop *op)
{
	if (!cpu_has(v->model, FEAT_RDPID))
		return excp_ud(v);
	v->arch.gpr[op->rm] = (uint32_t)v->arch.msr.tsc_aux;
	return SYSOP_DONE;
}

/* CPUID reports no performance counters, so every index is out of range. */
static int op_rdpmc(struct vcpu *v, const struct sysop *op)
{
	return excp_gp(v, 0);
}

static int op_rdmsr(struct vcpu *v, const struct sysop *op)
{
	uint64_t value;

	if (require_cpl0(v) < 0 || msr_read(v, (uint32_t)v->arch.gpr[RCX], &value) < 0)
		return -1;
	edx_eax_write(v, value);
	return SYSOP_DONE;
}

static int op_wrmsr(struct vcpu *v, const struct sysop *op)
{
	if (require_cpl0(v) < 0)
		return -1;
	return msr_write(v, (uint32_t)v->arch.gpr[RCX], edx_eax_read(v)) < 0 ? -1 : SYSOP_DONE;
}

static bool control_register_exists(const struct vcpu *v, unsigned number)
{
	return number == 0 || (number >= 2 && number <= 4) || (number == 8 && vcpu_code64(v));
}

static int op_mov_from_cr(struct vcpu *v, const struct sysop *op)
{
	uint64_t value = 0;

	if (!control_register_exists(v, op->reg))
		return excp_ud(v);
	if (require_cpl0(v) < 0)
		return -1;
	switch (op->reg) {
	case 0:
		value = v->arch.cr0;
		break;
	case 2:
		value = v->arch.cr2;
		break;
	case 3:
		value = v->arch.cr3;
		break;
	case 4:
		value = v->arch.cr4;
		break;
	case 8:
		value = lapic_cr8_read(v);
		break;
	}
	sysop_reg_write(v, op, op->rm, control_size(v), value);
	return SYSOP_DONE;
}

static int op_mov_to_cr(struct vcpu *v, const struct sysop *op)
{
	uint64_t value = sysop_reg_read(v, op, op->rm, control_size(v));
	int result = 0;

	if (!control_register_exists(v, op->reg))
		return excp_ud(v);
	if (require_cpl0(v) < 0)
		return -1;
	switch (op->reg) {
	case 0:
		result = cr0_write(v, value);
		break;
	case 2:
		v->arch.cr2 = value;
		break;
	case 3:
		result = cr3_write(v, value);
		break;
	case 4:
		result = cr4_write(v, value);
		break;
	case 8:
		if (value > 15)
			return excp_gp(v, 0);
		lapic_cr8_write(v, (unsigned)value);
		break;
	}
	return result < 0 ? -1 : SYSOP_DONE;
}

static int op_mov_from_dr(struct vcpu *v, const struct sysop *op)
{
	uint64_t value;

	if (op->reg > 7)
		return excp_ud(v);
	if (require_cpl0(v) < 0 || dr_read(v, op->reg, &value) < 0)
		return -1;
	sysop_reg_write(v, op, op->rm, control_size(v), value);
	return SYSOP_DONE;
}

static int op_mov_to_dr(struct vcpu *v, const struct sysop *op)
{
	if (op->reg > 7)
		return excp_ud(v);
	if (require_cpl0(v) < 0 ||
	    dr_write(v, op->reg, sysop_reg_read(v, op, op->rm, control_size(v))) < 0)
		return -1;
	return SYSOP_DONE;
}

static int op_clts(struct vcpu *v, const struct sysop *op)
{
	if (require_cpl0(v) < 0)
		return -1;
	v->arch.cr0 &= ~(uint64_t)CR0_TS;
	vcpu_mode_changed(v);
	return SYSOP_DONE;
}

/* LMSW reaches PE, MP, EM and TS, and cannot clear PE. */
static int op_lmsw(struct vcpu *v, const struct sysop *op)
{
	uint64_t value, mask = CR0_MP | CR0_EM | CR0_TS;

	if (require_cpl0(v) < 0 || sysop_rm_read(v, op, 2, &value) < 0)
		return -1;
	mask |= value & CR0_PE;
	return cr0_write(v, (v->arch.cr0 & ~mask) | (value & mask)) < 0 ? -1 : SYSOP_DONE;
}

/* A selector or CR0 into memory (16 bits) or a register of operand size. */
static int store_word(struct vcpu *v, const struct sysop *op, uint64_t value)
{
	if (require_no_umip(v) < 0 || sysop_rm_write(v, op, op->is_mem ? 2 : op->opsize, value) < 0)
		return -1;
	return SYSOP_DONE;
}

static int op_smsw(struct vcpu *v, const struct sysop *op)
{
	return store_word(v, op, v->arch.cr0);
}

static int op_sldt_str(struct vcpu *v, const struct sysop *op)
{
	unsigned seg = op->mnemonic == ZYDIS_MNEMONIC_STR ? SEG_TR : SEG_LDTR;

	if (!vcpu_protected(v))
		return excp_ud(v);
	return store_word(v, op, v->arch.seg[seg].selector);
}

/* Limit and base lie in memory as one item of 6 or 10 bytes. */
#define TABLE_LIMIT_BYTES 2u

static unsigned table_base_bytes(const struct vcpu *v)
{
	return vcpu_code64(v) ? 8 : 4;
}

static int op_store_table(struct vcpu *v, const struct sysop *op)
{
	const struct dtable *table =
		op->mnemonic == ZYDIS_MNEMONIC_SGDT ? &v->arch.gdtr : &v->arch.idtr;
	unsigned len = TABLE_LIMIT_BYTES + table_base_bytes(v);
	uint8_t image[10];

	if (!op->is_mem)
		return excp_ud(v);
	if (require_no_umip(v) < 0)
		return -1;
	bytes_store16(image, table->limit);
	bytes_store64(image + TABLE_LIMIT_BYTES, table->base);
	if (segment_linear(v, op->seg, sysop_ea(v, op), len, true) < 0 ||
	    mmu_write(v, v->soft.la, image, len, MMU_CPL) < 0)
		return -1;
	return SYSOP_DONE;
}

static int op_load_table(struct vcpu *v, const struct sysop *op)
{
	struct dtable *table = op->mnemonic == ZYDIS_MNEMONIC_LGDT ? &v->arch.gdtr : &v->arch.idtr;
	unsigned len = TABLE_LIMIT_BYTES + table_base_bytes(v);
	uint8_t image[10] = { 0 };
	uint64_t base;

	if (!op->is_mem)
		return excp_ud(v);
	if (require_cpl0(v) < 0 || segment_linear(v, op->seg, sysop_ea(v, op), len, false) < 0 ||
	    mmu_read(v, v->soft.la, image, len, MMU_CPL) < 0)
		return -1;
	base = bytes_load64(image + TABLE_LIMIT_BYTES);
	/* The 16-bit form, as on the 286, has a base of 24 bits. */
	if (!vcpu_code64(v) && op->opsize == 2)
		base &= 0xffffff;
	if (!address_canonical(base))
		return excp_gp(v, 0);
	table->limit = bytes_load16(image);
	table->base = base;
	return SYSOP_DONE;
}

/* INVD and WBINVD (WBNOINVD, not offered, is the same code): nothing is cached that memory does not
 * hold. */
static int op_cache_flush(struct vcpu *v, const struct sysop *op)
{
	return require_cpl0(v) < 0 ? -1 : SYSOP_DONE;
}

/* The address is made without any check of segment or page. */
static int op_invlpg(struct vcpu *v, const struct sysop *op)
{
	uint64_t la = sysop_ea(v, op);

	if (!op->is_mem)
		return excp_ud(v);
	if (require_cpl0(v) < 0)
		return -1;
	if (!vcpu_code64(v))
		la = (uint32_t)(la + v->arch.seg[op->seg].base);
	else if (op->seg == SEG_FS || op->seg == SEG_GS)
		la += v->arch.seg[op->seg].base;
	if (address_canonical(la))
		mmu_invlpg(v, la);
	return SYSOP_DONE;
}

enum { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL_GLOBAL, INVPCID_ALL };

static int op_invpcid(struct vcpu *v, const struct sysop *op)
{
	uint64_t type = sysop_reg_read(v, op, op->reg, control_size(v)), pcid, la, descriptor[2];

	if (!cpu_has(v->model, FEAT_INVPCID) || !op->is_mem)
		return excp_ud(v);
	if (require_cpl0(v) < 0 ||
	    segment_linear(v, op->seg, sysop_ea(v, op), sizeof(descriptor), false) < 0 ||
	    mmu_read(v, v->soft.la, descriptor, sizeof(descriptor), MMU_CPL) < 0)
		return -1;
	pcid = descriptor[0];
	la = descriptor[1];
	if (type > INVPCID_ALL || pcid > 0xfff)
		return excp_gp(v, 0);
	if (type <= INVPCID_CONTEXT && pcid && !(v->arch.cr4 & CR4_PCIDE))
		return excp_gp(v, 0);
	switch (type) {
	case INVPCID_ADDRESS:
		if (!address_canonical(la))
			return excp_gp(v, 0);
		mmu_invpcid_address(v, (unsigned)pcid, la);
		break;
	case INVPCID_CONTEXT:
		mmu_flush_pcid(v, (unsigned)pcid);
		break;
	default: /* that globals may stay is leave, not duty */
		mmu_flush_all(v);
		break;
	}
	return SYSOP_DONE;
}

static int op_fsgsbase(struct vcpu *v, const struct sysop *op)
{
	bool gs =
		op->mnemonic == ZYDIS_MNEMONIC_RDGSBASE || op->mnemonic == ZYDIS_MNEMONIC_WRGSBASE;
	uint64_t *base = &v->arch.seg[gs ? SEG_GS : SEG_FS].base, value;
	unsigned size = op->opsize == 8 ? 8 : 4;

	if (!vcpu_code64(v) || !cpu_has(v->model, FEAT_FSGSBASE) || !(v->arch.cr4 & CR4_FSGSBASE) ||
	    op->is_mem)
		return excp_ud(v);
	if (op->mnemonic == ZYDIS_MNEMONIC_RDFSBASE || op->mnemonic == ZYDIS_MNEMONIC_RDGSBASE) {
		sysop_reg_write(v, op, op->rm, size, *base);
		return SYSOP_DONE;
	}
	value = sysop_reg_read(v, op, op->rm, size);
	if (!address_canonical(value))
		return excp_gp(v, 0);
	*base = value;
	return SYSOP_DONE;
}

static int op_swapgs(struct vcpu *v, const struct sysop *op)
{
	uint64_t base = v->arch.seg[SEG_GS].base;

	if (!vcpu_code64(v))
		return excp_ud(v);
	if (require_cpl0(v) < 0)
		return -1;
	v->arch.seg[SEG_GS].base = v->arch.msr.kernel_gs_base;
	v->arch.msr.kernel_gs_base = base;
	return SYSOP_DONE;
}

static int op_xgetbv(struct vcpu *v, const struct sysop *op)
{
	uint64_t value;

	if (!(v->arch.cr4 & CR4_OSXSAVE))
		return excp_ud(v);
	if (xcr_read(v, (uint32_t)v->arch.gpr[RCX], &value) < 0)
		return -1;
	edx_eax_write(v, value);
	return SYSOP_DONE;
}

static int op_xsetbv(struct vcpu *v, const struct sysop *op)
{
	if (!(v->arch.cr4 & CR4_OSXSAVE))
		return excp_ud(v);
	if (require_cpl0(v) < 0)
		return -1;
	return xcr_write(v, (uint32_t)v->arch.gpr[RCX], edx_eax_read(v)) < 0 ? -1 : SYSOP_DONE;
}

/*
 * KVM hypercalls. RAX: number, RBX and RCX: arguments. One is known: the kick
 * of a vcpu that waits in HLT for a lock, whose APIC id is in RCX.
 */
static int op_hypercall(struct vcpu *v, const struct sysop *op)
{
	unsigned size = control_size(v);
	int64_t answer = -KVM_ENOSYS;

	if (!v->model->kvm_clock || !(v->arch.cr0 & CR0_PE) || vcpu_vm86(v))
		return excp_ud(v);
	if (v->arch.cpl) {
		answer = -KVM_EPERM;
	} else if (sysop_reg_read(v, op, RAX, size) == KVM_HC_KICK_CPU && v->model->cpus > 1) {
		apic_bus_kick(v->apics, sysop_reg_read(v, op, RCX, size));
		answer = 0;
	}
	sysop_reg_write(v, op, RAX, size, (uint64_t)answer);
	return SYSOP_DONE;
}

/* Faults as a byte load; the line is not lost because nothing is cached. */
static int op_cache_line(struct vcpu *v, const struct sysop *op)
{
	enum cpu_feature feature = op->mnemonic == ZYDIS_MNEMONIC_CLFLUSH      ? FEAT_CLFLUSH
				   : op->mnemonic == ZYDIS_MNEMONIC_CLFLUSHOPT ? FEAT_CLFLUSHOPT
									       : FEAT_CLWB;

	if (!cpu_has(v->model, feature) || !op->is_mem)
		return excp_ud(v);
	if (segment_linear(v, op->seg, sysop_ea(v, op), 1, false) < 0 ||
	    mmu_probe_read(v, v->soft.la, 1, MMU_CPL) < 0)
		return -1;
	atomic_thread_fence(memory_order_seq_cst);
	return SYSOP_DONE;
}

static int op_serialize(struct vcpu *v, const struct sysop *op)
{
	return cpu_has(v->model, FEAT_SERIALIZE) ? SYSOP_DONE : excp_ud(v);
}

static struct sysop_entry find_mov(const ZydisDecodedInstruction *insn)
{
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F) {
		switch (insn->opcode) {
		case 0x20:
			return (struct sysop_entry){ op_mov_from_cr, SYSOP_LIGHT };
		case 0x21:
			return (struct sysop_entry){ op_mov_from_dr, SYSOP_LIGHT };
		case 0x22:
			return (struct sysop_entry){ op_mov_to_cr, 0 };
		case 0x23:
			return (struct sysop_entry){ op_mov_to_dr, 0 };
		}
	}
	return (struct sysop_entry){ NULL, 0 };
}

/*
 * SWAPGS and WRxSBASE count as light: 64-bit code, the only place where they
 * exist, reads those bases when it uses them. RSM outside SMM, MONITOR, GETSEC,
 * VMX, SVM, TSX and whatever else is not here is #UD, as CPUID announces.
 */
struct sysop_entry sysop_find_system(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		return find_mov(insn);
	case ZYDIS_MNEMONIC_HLT:
		return (struct sysop_entry){ op_hlt, 0 };
	case ZYDIS_MNEMONIC_CPUID:
		/* Serialises: what follows may have been rewritten by another cpu, so not a light
		 * one. */
		return (struct sysop_entry){ op_cpuid, 0 };
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
		return (struct sysop_entry){ op_rdtsc, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_RDPID:
		return (struct sysop_entry){ op_rdpid, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_RDPMC:
		return (struct sysop_entry){ op_rdpmc, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_RDMSR:
		return (struct sysop_entry){ op_rdmsr, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_WRMSR:
		return (struct sysop_entry){ op_wrmsr, 0 };
	case ZYDIS_MNEMONIC_CLTS:
		return (struct sysop_entry){ op_clts, 0 };
	case ZYDIS_MNEMONIC_LMSW:
		return (struct sysop_entry){ op_lmsw, 0 };
	case ZYDIS_MNEMONIC_SMSW:
		return (struct sysop_entry){ op_smsw, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_STR:
		return (struct sysop_entry){ op_sldt_str, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
		return (struct sysop_entry){ op_store_table, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_LGDT:
	case ZYDIS_MNEMONIC_LIDT:
		return (struct sysop_entry){ op_load_table, 0 };
	case ZYDIS_MNEMONIC_INVD:
	case ZYDIS_MNEMONIC_WBINVD:
		return (struct sysop_entry){ op_cache_flush, 0 };
	case ZYDIS_MNEMONIC_INVLPG:
		return (struct sysop_entry){ op_invlpg, 0 };
	case ZYDIS_MNEMONIC_INVPCID:
		return (struct sysop_entry){ op_invpcid, 0 };
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE:
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE:
		return (struct sysop_entry){ op_fsgsbase, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_SWAPGS:
		return (struct sysop_entry){ op_swapgs, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_XGETBV:
		return (struct sysop_entry){ op_xgetbv, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_XSETBV:
		return (struct sysop_entry){ op_xsetbv, 0 };
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMMCALL:
		return (struct sysop_entry){ op_hypercall, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_CLFLUSH:
	case ZYDIS_MNEMONIC_CLFLUSHOPT:
	case ZYDIS_MNEMONIC_CLWB:
		return (struct sysop_entry){ op_cache_line, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_SERIALIZE:
		return (struct sysop_entry){ op_serialize, 0 };
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
		return (struct sysop_entry){ op_fence, SYSOP_LIGHT };
	/* Hints, and what is a hint while its feature is off: prefetches, CET, MPX. */
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_PAUSE:
	case ZYDIS_MNEMONIC_PREFETCH:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_PREFETCHW:
	case ZYDIS_MNEMONIC_PREFETCHWT1:
	case ZYDIS_MNEMONIC_CLDEMOTE:
	case ZYDIS_MNEMONIC_ENDBR32:
	case ZYDIS_MNEMONIC_ENDBR64:
	case ZYDIS_MNEMONIC_RDSSPD:
	case ZYDIS_MNEMONIC_RDSSPQ:
	case ZYDIS_MNEMONIC_BNDMK:
	case ZYDIS_MNEMONIC_BNDMOV:
	case ZYDIS_MNEMONIC_BNDCL:
	case ZYDIS_MNEMONIC_BNDCU:
	case ZYDIS_MNEMONIC_BNDCN:
	case ZYDIS_MNEMONIC_BNDLDX:
	case ZYDIS_MNEMONIC_BNDSTX:
		return (struct sysop_entry){ op_nop, SYSOP_LIGHT };
	default:
		return (struct sysop_entry){ NULL, 0 };
	}
}
