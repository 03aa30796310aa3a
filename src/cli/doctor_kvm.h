/* Which kind of /dev/kvm this host has, if any: asked by `insula doctor`. */
#ifndef INSULA_CLI_DOCTOR_KVM_H
#define INSULA_CLI_DOCTOR_KVM_H

enum kvm_kind {
	KVM_KIND_NONE,      /* no device node */
	KVM_KIND_NO_ACCESS, /* there, but not for us */
	KVM_KIND_PARAVIRT,  /* runs only kernels made for it */
	KVM_KIND_LIMITED,   /* says nothing of the sort, but failed the probe guest */
	KVM_KIND_FULL,      /* ran the probe guest */
};

/* why: NULL or static text, an errno's or the probe's. Takes some ten milliseconds; at most 3
 * seconds. */
enum kvm_kind doctor_kvm(const char **why);

#endif
