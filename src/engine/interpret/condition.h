/*
 * The sixteen conditions on kept flags (soft.flags as insn.h describes):
 * COND_x yields non-zero if condition x holds.
 */
#ifndef INSULA_ENGINE_INTERPRET_CONDITION_H
#define INSULA_ENGINE_INTERPRET_CONDITION_H

#include <stdint.h>

#define KEPT_O 0x0001u
#define KEPT_C 0x0100u
#define KEPT_P 0x0400u
#define KEPT_A 0x1000u
#define KEPT_Z 0x4000u
#define KEPT_S 0x8000u

/* SF != OF: move SF down to OF's place. */
#define KEPT_LESS(f) ((((f) >> 15) ^ (f)) & 1u)

#define COND_o(f)  ((f)&KEPT_O)
#define COND_no(f) (!((f)&KEPT_O))
#define COND_b(f)  ((f)&KEPT_C)
#define COND_ae(f) (!((f)&KEPT_C))
#define COND_e(f)  ((f)&KEPT_Z)
#define COND_ne(f) (!((f)&KEPT_Z))
#define COND_be(f) ((f) & (KEPT_C | KEPT_Z))
#define COND_a(f)  (!((f) & (KEPT_C | KEPT_Z)))
#define COND_s(f)  ((f)&KEPT_S)
#define COND_ns(f) (!((f)&KEPT_S))
#define COND_p(f)  ((f)&KEPT_P)
#define COND_np(f) (!((f)&KEPT_P))
#define COND_l(f)  KEPT_LESS(f)
#define COND_ge(f) (!KEPT_LESS(f))
#define COND_le(f) (((f)&KEPT_Z) || KEPT_LESS(f))
#define COND_g(f)  (!((f)&KEPT_Z) && !KEPT_LESS(f))

/* In the order of their encodings 0..15. */
#define CONDITIONS(M) \
	M(o) M(no) M(b) M(ae) M(e) M(ne) M(be) M(a) M(s) M(ns) M(p) M(np) M(l) M(ge) M(le) M(g)

#endif
