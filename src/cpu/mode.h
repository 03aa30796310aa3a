/*
 * The mode word: everything outside the bytes themselves that decides how an
 * instruction decodes and which faults are known at decode time. Part of the
 * trace key, recomputed by vcpu_mode_changed() (cpu/mmu_context.c).
 */
#ifndef INSULA_CPU_MODE_H
#define INSULA_CPU_MODE_H

#define MODE_CODE64    (1u << 0)
#define MODE_CODE32    (1u << 1) /* CS.D; neither: 16-bit */
#define MODE_STACK32   (1u << 2) /* SS.B; 64-bit code always has a 64-bit stack */
#define MODE_PROTECTED (1u << 3) /* CR0.PE */
#define MODE_VM86      (1u << 4)
#define MODE_CPL3      (1u << 5) /* CPL is 3 */
#define MODE_CPL12     (1u << 6) /* CPL is 1 or 2 */
#define MODE_LONG      (1u << 7) /* EFER.LMA */
#define MODE_TF        (1u << 8)
#define MODE_BREAK     (1u << 9)  /* DR7 enables a breakpoint */
#define MODE_FPU_NM    (1u << 10) /* CR0.EM or CR0.TS: x87 raises #NM */
#define MODE_EM        (1u << 11) /* CR0.EM: MMX and SSE raise #UD */
#define MODE_TS        (1u << 12) /* CR0.TS: MMX, SSE, AVX raise #NM */
#define MODE_MP        (1u << 13) /* CR0.MP with TS: WAIT raises #NM */
#define MODE_SSE       (1u << 14) /* CR4.OSFXSR */
#define MODE_AVX       (1u << 15) /* CR4.OSXSAVE and XCR0 SSE and AVX */
#define MODE_XSAVE     (1u << 16) /* CR4.OSXSAVE */
#define MODE_FSGSBASE  (1u << 17) /* CR4.FSGSBASE */
#define MODE_FLAT      (1u << 18) /* CS, DS, ES, SS flat: 32-bit addresses need no segment checks */
#define MODE_STEP      (1u << 19) /* engine's own: traces of one instruction */

#endif
