/*
 * The page walk: linear to guest-physical in every paging mode, with rights,
 * accessed and dirty bits (SDM 3A, chapter 4). The only one in the monitor.
 */
#ifndef INSULA_CPU_PAGING_H
#define INSULA_CPU_PAGING_H

#include "cpu/vcpu.h"
#include "mem/ram.h"

enum paging_access {
	PAGING_WRITE = 1,
	PAGING_EXEC = 2,
	PAGING_USER = 4,  /* a user-mode access */
	PAGING_SMAP = 8,  /* supervisor access to which SMAP applies */
	PAGING_PEEK = 16, /* set no accessed or dirty bits: debuggers */
};

struct paging_result {
	gpa_t gpa;
	uint64_t span; /* bytes the leaf entry maps: 4 KiB, 2 MiB, 4 MiB, 1 GiB; 0: no paging */
	bool global;
	bool user;
	bool dirty_ok; /* the leaf's dirty bit is set: writes need no further walk */
	bool writable; /* a write with the same privilege would be allowed */
};

/* 0, or -1 with #PF (or #GP for a walk outside physical space) in v->fault. Thread: the vcpu's. */
int paging_walk(struct vcpu *v, uint64_t la, unsigned access, struct paging_result *result);

#endif
