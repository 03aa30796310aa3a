/*
 * Guest code run by the host's hardware through /dev/kvm (VT-x, AMD-V), and the
 * question whether the one that is there can do it.
 */
#ifndef INSULA_ENGINE_KVM_KVM_H
#define INSULA_ENGINE_KVM_KVM_H

#include "engine/kvm/kvm_calls.h"

enum kvm_kind {
	KVM_KIND_NONE,      /* no device node */
	KVM_KIND_NO_ACCESS, /* there, but not for us */
	KVM_KIND_PARAVIRT,  /* runs only kernels made for it */
	KVM_KIND_LIMITED,   /* says nothing of the sort, but failed the probe guest */
	KVM_KIND_FULL,      /* ran the probe guest */
};

#define KVM_WHY_MAX 192

/*
 * Looks at /dev/kvm and, if it opens, runs a short guest in it. why
 * (KVM_WHY_MAX bytes): a clause that says what is wrong, empty for FULL. Takes
 * some ten milliseconds, at most 3 seconds, in a child.
 */
enum kvm_kind kvm_probe(const struct kvm_calls *calls, char *why);

#endif
